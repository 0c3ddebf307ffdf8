"""Single queries: their texts, where data are at hand, and the rank of their first relevant passage."""

from collections.abc import Collection as Ids
from collections.abc import Sequence
from pathlib import Path

from xbench import readers
from xbench.errors import DataError, IntegrityError
from xbench.progress import log
from xbench.records import Cell
from xbench.results import Result, read_ranks
from xbench.task import Task


def texts(task: Task, data: Path | None, query_ids: Ids[str]) -> dict[str, str]:
    """The texts of queries; none, with a line in the log that says so, where the data are not at hand.

    Nothing is fetched.

    Raises:
        StorageError: the data cannot be read.
    """
    try:
        parts = list(readers.parts(task, data, offline=True, passages=False))
    except (DataError, IntegrityError) as error:
        log.info("no texts of queries, since the data are not at hand (--data DIR): %s", error)
        return {}
    rows = (row for part in parts for language in part.collection.queries.values() for row in language)
    return {row.query_id: row.text for row in rows if row.query_id in query_ids}


def first_ranks(path: Path, result: Result, cells: Sequence[Cell]) -> dict[tuple[str, str], float]:
    """(cell, query) -> rank of its first relevant passage, from the ranks beside a result file; none without them.

    Raises:
        DataError: the ranks are not whole.
        IntegrityError: they are of another result.
    """
    if not (path.parent / f"{result.task['name']}.ranks.parquet").is_file():
        return {}
    table = read_ranks(path, result)
    found: dict[tuple[str, str], float] = {}
    for cell in cells:
        ranked, query_ids = table.ranked(cell)
        found |= {(cell.name, q): float(rank) for q, rank in zip(query_ids, ranked.first(), strict=True)}
    return found
