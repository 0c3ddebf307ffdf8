"""Which cells a column is the mean of, that mean, and what is missing."""

import math
from collections.abc import Mapping, Sequence

from xbench.catalogue import parse
from xbench.groups import Grouping, group_cells
from xbench.leaderboard.rows import Column, Key
from xbench.records import Cell
from xbench.task import Task

Values = Mapping[Key, Mapping[str, float]]


def key_of(cell: Cell) -> Key:
    """The key of a cell."""
    return Key(cell.setting, cell.query_language, cell.passage_languages[0] if cell.setting == "cross" else "")


def cells_of(task: Task, column: Column, known: Mapping[str, Grouping]) -> list[Cell]:
    """The cells that a column is the mean of; those without a query by the task's definition are none of them.

    Args:
        task: the column's.
        column: what is shown.
        known: the groupings of the task's languages, by name.
    """
    cells = [cell for cell in task.cells() if cell.setting == column.setting and _asked(task, cell)]
    if not column.group:
        return cells
    name, where, group = column.group.split(": ", 2)
    return group_cells(cells, known[name]).get(where, {}).get(group, [])


def _asked(task: Task, cell: Cell) -> bool:
    """Whether a cell has queries; it may where the definition does not say how many."""
    if cell.setting != "multi" and cell.query_language in task.shared and task.pools == "language":
        return task.shared[cell.query_language].get(cell.passage_languages[0]) != 0
    return True


def mean(task: Task, cells: Sequence[Cell], measure: str, values: Values) -> float | None:
    """The plain mean of a measure over cells, or None if one of them has no value.

    Of cross cells known by query language alone, the mean over these, if each stands for all its pairs and for as many.
    """
    found = [values.get(key_of(cell), {}).get(measure) for cell in cells]
    if not cells:
        return None
    if None not in found:
        return math.fsum(value for value in found if value is not None) / len(found)
    if cells[0].setting != "cross":
        return None
    asked = {
        a: [cell for cell in cells if cell.query_language == a] for a in {cell.query_language: None for cell in cells}
    }
    whole = [cell for cell in task.cells() if cell.setting == "cross" and cell.query_language in asked]
    rows = [values.get(Key("cross", a), {}).get(measure) for a in asked]
    if None in rows or len(whole) != len(cells) or len({len(some) for some in asked.values()}) > 1:
        return None
    return math.fsum(value for value in rows if value is not None) / len(rows)


def missing(task: Task, measure: str, values: Values) -> int:
    """How many cells of a task have no value of a measure, of those that can have one.

    A cross cell is not missing if the mean over its query language is there.
    """
    multi_only = parse(measure).multi_only
    cells = [cell for cell in task.cells() if _asked(task, cell) and (cell.setting == "multi" or not multi_only)]
    return sum(
        measure not in values.get(key_of(cell), {})
        and not (cell.setting == "cross" and measure in values.get(Key("cross", cell.query_language), {}))
        for cell in cells
    )
