"""A board with its rows in order."""

from collections.abc import Sequence
from pathlib import Path

from xbench.catalogue import parse
from xbench.leaderboard.boards import Definition
from xbench.leaderboard.entries import entries
from xbench.leaderboard.rows import Board, Column, Entry, Measured, Sheet


def build_sheet(definition: Definition, folder: Path) -> Sheet:
    """The rows of a board, best first.

    Raises:
        XbenchError: as `entries.entries`.
    """
    return order(definition.board, entries(definition, folder))


def order(board: Board, rows: Sequence[Entry]) -> Sheet:
    """Ranked by the board's column in its measure's direction; equal values share a rank and stand by name.

    Rows without a value there come last, by name, without a rank.
    """
    sign = 1 if parse(board.rank.measure).lower_is_better else -1

    def place(entry: Entry) -> tuple[bool, float, str, str, str]:
        value = entry.means.get(board.rank)
        return value is None, sign * value.value if value else 0.0, entry.name, entry.kind, _origin(entry)

    ordered = sorted(rows, key=place)
    values = [entry.means[board.rank].value for entry in ordered if board.rank in entry.means]
    ranks = [values.index(value) + 1 for value in values]
    return Sheet(board, tuple(ordered), (*ranks, *[None] * (len(ordered) - len(ranks))))


def _origin(entry: Entry) -> str:
    return " ".join(o.file if isinstance(o, Measured) else f"{o.source} {o.where}" for o in entry.origins.values())


def best(sheet: Sheet, column: Column) -> float | None:
    """The best value of a column; None for a column without values."""
    values = [entry.means[column].value for entry in sheet.entries if column in entry.means]
    if not values:
        return None
    return min(values) if parse(column.measure).lower_is_better else max(values)


def heading(board: Board, column: Column) -> str:
    """What stands above a column; the task only where there are several, a group of languages after a comma."""
    words = [column.task] if len(board.tasks) > 1 else []
    text = " ".join([*words, column.setting, column.measure])
    if not column.group:
        return text
    grouping, where, group = column.group.split(": ", 2)
    return f"{text}, {grouping}: {group}" if where == column.setting else f"{text}, {column.group}"
