"""What a reader gives: the texts of some cells, and what it has counted."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from xbench.records import Cell, Collection
from xbench.task import Task


class Part(NamedTuple):
    """The cells that search one collection; `counts` are keyed as `Task.counts`, by language or cell."""

    cells: list[Cell]
    collection: Collection
    counts: dict[str, dict[str, int]]


# Of a task and the path of each source by its key. One part, or one for each cell where each has its own pool.
Reader = Callable[[Task, Mapping[str, Path]], Iterator[Part]]
