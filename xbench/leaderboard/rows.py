"""What a board shows: rows of values, and where each comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from xbench.groups import Grouping


class Column(NamedTuple):
    """The mean of a measure over the cells of a setting, or over those of a group of languages."""

    task: str
    setting: str
    measure: str
    group: str = ""
    """`grouping: where: group`, as in `intervals.groups_of`; empty for all languages."""


class Value(NamedTuple):
    """A number, and its interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


class Key(NamedTuple):
    """A cell of a task; without `passage_language`, the mean over the cells of that query language in that setting.

    `mono` and `multi` have no `passage_language`. `cross` has one for each of its cells; sources that print cross by
    query language alone have none.
    """

    setting: str
    query_language: str
    passage_language: str = ""


@dataclass(frozen=True)
class Measured:
    """A stored result."""

    file: str
    """Of the result, from the folder of boards, with slashes: `results/hash-6c056d072fbd/xquad-r.json`."""
    sha256: str
    """Of its bytes."""
    command: str
    version: str
    """Of xbench."""


@dataclass(frozen=True)
class Reported:
    """A citation."""

    source: str
    """`arXiv 2408.10536`"""
    where: str
    """`Table 3`, `Tables 3 and 7, page 8`"""
    url: str
    note: str = ""
    """What differs from how this task measures, such as candidates with their context; empty if nothing is known to."""


@dataclass(frozen=True)
class Entry:
    """A row. All text of it can come from strangers."""

    name: str
    kind: Literal["measured", "reported"]
    revision: str
    """Of the model; may be empty."""
    origins: Mapping[str, Measured | Reported]
    """Task -> where its values come from."""
    means: Mapping[Column, Value]
    """Only those of which all cells are there."""
    cells: Mapping[str, Mapping[Key, Mapping[str, float]]]
    """Task -> cell -> measure -> value."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Task -> how many of its cells this entry has no value of the ranking measure for; all, where it has none."""
    note: str = ""


@dataclass(frozen=True)
class BoardTask:
    """A task of a board, as much of it as is shown."""

    name: str
    version: int
    title: str
    languages: tuple[str, ...]
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """What a board's TOML says."""

    name: str
    title: str
    description: str
    tasks: tuple[BoardTask, ...]
    columns: tuple[Column, ...]
    """In the order shown."""
    rank: Column
    """One of `columns`: rows are ordered by it, best first; those without a value of it come last, unranked."""
    detail: tuple[str, ...]
    """Measures that the cells are shown for; the first is the ranking measure."""
    groupings: Mapping[str, Mapping[str, Grouping]] = field(default_factory=dict)
    """Task -> name -> group -> languages."""


@dataclass(frozen=True)
class Sheet:
    """A board with its rows, in order."""

    board: Board
    entries: tuple[Entry, ...]
    ranks: tuple[int | None, ...]
    """Of the entries, from 1, equal for equal values; None for one without a value to rank by."""
