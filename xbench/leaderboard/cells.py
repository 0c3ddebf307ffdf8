"""The cells of a board's entries, as few bytes as a page of 200 of them can hold."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from xbench.groups import Grouping, group_cells
from xbench.leaderboard.rows import BoardTask, Entry, Key, Sheet
from xbench.records import Cell
from xbench.tables import plain
from xbench.task import SETTINGS


class Mean(NamedTuple):
    """A mean over cells that a page shows beside the cells."""

    where: str
    """`cross from`, `cross to` of a language; or as in `groups.group_cells`, after the name of the grouping."""
    group: str
    cells: tuple[Key, ...]


def digits(values: Iterable[float]) -> int:
    """Decimals for all values of a column: four, one where there are values of 10 and more."""
    return 1 if any(abs(value) >= 10 for value in values) else 4


def scaled(value: float | None, places: int) -> int | None:
    """The digits that are shown, as a whole number: 0.12345 with four places is 1234, whose last digit is Python's."""
    return None if value is None else int(f"{value:.{places}f}".replace(".", ""))


def keys(sheet: Sheet, task: BoardTask) -> list[Key]:
    """The cells of a task that any entry has, in the order of the settings and of the task's languages."""
    found = {key for entry in sheet.entries for key in entry.cells.get(task.name, {}) if _is_cell(key)}
    order = {a: i for i, a in enumerate(["", *languages(sheet, task)])}
    settings = [*SETTINGS, *sorted({key.setting for key in found} - set(SETTINGS))]
    return sorted(found, key=lambda k: (settings.index(k.setting), *map(order.__getitem__, k[1:])))


def languages(sheet: Sheet, task: BoardTask) -> list[str]:
    """The task's, then those that only entries have."""
    cells = [key for entry in sheet.entries for key in entry.cells.get(task.name, {})]
    others = {a for key in cells for a in key[1:] if a}
    return [*task.languages, *sorted(others - set(task.languages))]


def total(sheet: Sheet, task: str, measure: str) -> int:
    """How many cells the task has: those that an entry has and those it lacks, of the entry that tells most."""
    return max(
        (
            entry.missing.get(task, 0)
            + sum(measure in values for key, values in entry.cells.get(task, {}).items() if _is_cell(key))
            for entry in sheet.entries
        ),
        default=0,
    )


def _is_cell(key: Key) -> bool:
    return bool(key.passage_language) or key.setting != "cross"


def means(task: BoardTask, found: Sequence[Key], groupings: Mapping[str, Grouping]) -> list[Mean]:
    """Cross by language of the query and of the passages, then the groups of languages.

    Means over cross cells from one group to another are left out: the map of the cross cells shows as much.
    """
    cross = [key for key in found if key.setting == "cross"]
    by = [Mean("cross from", a, tuple(k for k in cross if k.query_language == a)) for a in task.languages]
    by += [Mean("cross to", a, tuple(k for k in cross if k.passage_language == a)) for a in task.languages]
    key_of = {
        Cell(k.setting, k.query_language, (k.passage_language,) if k.passage_language else task.languages): k
        for k in found
    }
    for name, grouping in groupings.items():
        for where, groups in group_cells(list(key_of), grouping).items():
            if where != "cross":
                by += [
                    Mean(f"{name}: {where}", group, tuple(map(key_of.__getitem__, c))) for group, c in groups.items()
                ]
    return [mean for mean in by if mean.cells or mean.where == "cross from"]


def whole(task: BoardTask, found: Sequence[Key]) -> set[str]:
    """The settings of which all cells are among the found, by the task's number of languages."""
    n = len(task.languages)
    sizes = {"mono": n, "cross": n * (n - 1), "multi": n}
    return {s for s in sizes if sum(key.setting == s for key in found) >= sizes[s]}


def mean_of(mean: Mean, entry: Entry, task: BoardTask, measure: str, known: set[str]) -> float | None:
    """The mean over all its cells; None where one lacks, or where it is not known that these are all.

    Args:
        mean: one of `means`.
        entry: with these cells.
        task: of the cells.
        measure: to take the mean of.
        known: the settings of `whole`; of others only an entry that lacks nothing has means.
    """
    cells = entry.cells.get(task.name, {})
    printed = cells.get(Key("cross", mean.group), {}) if mean.where == "cross from" else {}
    if measure in printed:
        return printed[measure]
    sure = not entry.missing.get(task.name) or all(key.setting in known for key in mean.cells)
    if not mean.cells or not sure or not all(measure in cells.get(key, {}) for key in mean.cells):
        return None
    return math.fsum(cells[key][measure] for key in mean.cells) / len(mean.cells)


def of_task(sheet: Sheet, task: BoardTask) -> tuple[dict[str, Any], list[list[Any] | None]]:
    """What all entries have in common, and the values of each entry: `[cells, means]`, by measure, as whole numbers.

    An entry without cells of the task has None.
    """
    board = sheet.board
    found, names = keys(sheet, task), languages(sheet, task)
    derived = means(task, found, board.groupings.get(task.name, {}))
    known = whole(task, found)
    place = {a: i for i, a in enumerate(names)}
    every = [values for entry in sheet.entries for values in entry.cells.get(task.name, {}).values()]
    places = [digits(values[m] for values in every if m in values) for m in board.detail]
    about = {
        "name": plain(task.name),
        "title": plain(task.title),
        "version": task.version,
        "languages": [plain(a) for a in names],
        "cells": [[plain(k.setting), place[k.query_language], place.get(k.passage_language, -1)] for k in found],
        "means": [[plain(mean.where), plain(mean.group), len(mean.cells)] for mean in derived],
        "digits": places,
        "total": total(sheet, task.name, board.detail[0]),
    }
    values: list[list[Any] | None] = []
    for entry in sheet.entries:
        cells = entry.cells.get(task.name, {})
        own = [
            [
                [scaled(cells.get(key, {}).get(m), p) for key in found]
                for m, p in zip(board.detail, places, strict=True)
            ],
            [
                [scaled(mean_of(mean, entry, task, m, known), p) for mean in derived]
                for m, p in zip(board.detail, places, strict=True)
            ],
        ]
        values.append(own if cells else None)
    return about, values
