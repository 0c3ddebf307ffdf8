"""Recomputes all that a result says from its per-query values, and these from its ranks.

What follows from nothing else that is stored (counts of tokens, versions, the last digits of a median's neighbours) is
held by the hashes of `sums` alone.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xbench import parquet
from xbench.catalogue import Measure, parse
from xbench.errors import DataError, IntegrityError
from xbench.intervals import with_intervals
from xbench.leaderboard.boards import board_names
from xbench.leaderboard.sums import NAME, read_sums
from xbench.results import CellResult, Result, read_ranks, read_result
from xbench.scoring import score
from xbench.storage import sha256
from xbench.strictjson import read_json
from xbench.task import Task
from xbench.tasks import same_task

# Sums in another order, on another processor: a mean may differ by this much, and no more.
ROUNDING = 1e-9
# Parts of a result file that nothing else in it says.
SAID = ("task", "model", "command", "texts", "truncation", "search", "environment", "timing")


class Report(NamedTuple):
    """What of a result was looked at."""

    path: Path
    values: int
    """Numbers of the JSON that follow from the per-query values."""
    per_query: int
    """Per-query values that follow from the ranks; 0 without them."""
    hashed: int
    """Files whose hash is as listed."""


def verify(path: Path, definition: str | None = None) -> Report:
    """Recompute a result.

    Args:
        path: the result file, with its tables beside it.
        definition: the file of a task of one's own.

    Raises:
        IntegrityError: a number is not what it should be, or a file not as `SHA256SUMS` has it.
        DataError: the result is not whole.
        UsageError: it is of a task that xbench has not.
        StorageError: a file cannot be read.
    """
    hashed = _hashes(path)
    result, number = recompute(path, definition)
    return Report(path, number, _ranks(result, path), hashed)


def recompute(path: Path, definition: str | None = None) -> tuple[Result, int]:
    """A result, and how many numbers of it follow from its per-query values; as `verify`, without hashes and ranks."""
    result = read_result(path)
    task = same_task(result.task, path, definition)
    content: Any = read_json(path)
    _environment(content, path)
    _tables(result, path)
    counts(result, task, path)
    expected = with_intervals(replace(result, intervals={}, intervals_by_query={}, statistics={})).to_json()
    number = 0
    for place, found, right in _differences(_derived(content), _derived(expected)):
        number += 1
        if not _equal(found, right):
            raise IntegrityError(f"{path}: {place} is {_brief(found)}, but its queries give {_brief(right)}")
    return result, number


def stored(folder: Path) -> list[Path]:
    """The result files of a folder of boards, sorted; each file that `SHA256SUMS` lists is one, or beside one.

    Raises:
        IntegrityError: a listed file is missing, so that nobody would look at it.
        DataError: the list is not in its form, or the folder holds neither results nor boards.
    """
    files = sorted(p for p in (folder / "results").glob("*/*.json") if not p.name.endswith(".timing.json"))
    for name in read_sums(folder / "results"):
        if not (folder / "results" / name).is_file():
            raise IntegrityError(f"{folder / 'results' / name}: listed in {NAME}, but missing; restore it, or the list")
    if not files and not board_names(folder):
        raise DataError(f"{folder}: neither results nor boards; expected a folder of boards, see --folder")
    return files


def _derived(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in SAID}


def _brief(value: object) -> str:
    return "missing" if value is _NOTHING else repr(value)[:80]


_NOTHING = object()


def _differences(found: Any, right: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each leaf of either, with where it is and the other's."""
    if isinstance(found, dict) and isinstance(right, dict):
        for key in dict.fromkeys([*found, *right]):
            name = f"{place}.{key}" if place else str(key)
            yield from _differences(found.get(key, _NOTHING), right.get(key, _NOTHING), name)
    elif isinstance(found, list) and isinstance(right, list) and len(found) == len(right):
        for i, (one, other) in enumerate(zip(found, right, strict=True)):
            yield from _differences(one, other, f"{place}[{i}]")
    else:
        yield place, found, right


def _equal(found: Any, right: Any) -> bool:
    if isinstance(found, float) and isinstance(right, float):
        return math.isclose(found, right, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return type(found) is type(right) and found == right


def _hashes(path: Path) -> int:
    """Compare a result's files with the list in the folder of results, where there is one."""
    folder, slug = path.parent.parent, path.parent.name
    if not (folder / NAME).is_file():
        return 0
    sums = read_sums(folder)
    files = [path, *sorted(path.parent.glob(f"{path.stem}.*.parquet"))]
    listed = [
        path.parent / name.partition("/")[2]
        for name in sums
        if re.match(rf"{re.escape(slug)}/{re.escape(path.stem)}\.", name)
    ]
    for file in dict.fromkeys([*files, *listed]):
        found, right = sha256(file) if file.is_file() else "missing", sums.get(f"{slug}/{file.name}", "not listed")
        if found != right:
            raise IntegrityError(
                f"{file}: SHA-256 {found[:12]}, in {folder / NAME} {right[:12]}; results come in by leaderboard add"
            )
    return len(files)


def _environment(content: Mapping[str, Any], path: Path) -> None:
    found = content.get("environment")
    if (
        not isinstance(found, dict)
        or not all(isinstance(each, str) for each in found.values())
        or "xbench" not in found
    ):
        raise DataError(f"{path}: environment: found {found!r:.80}, expected versions as text, xbench's among them")


def _tables(result: Result, path: Path) -> None:
    """The table holds the cells of the result and their measures, and nothing else."""
    table, _ = parquet.read(path.parent / f"{result.task['name']}.queries.parquet", ["cell", "query_id"])
    filled = [cell for cell in result.cells if cell.query_ids]
    if strangers := set(table.column("cell").unique().to_pylist()) - {cell.cell.name for cell in filled}:
        raise IntegrityError(f"{path}: values of queries of {sorted(map(str, strangers))[0]}, no cell of the result")
    for cell in filled:
        columns = {parse(name).column for name in cell.values}
        if wrong := sorted(set(cell.per_query) ^ columns):
            raise IntegrityError(f"{path}: {cell.cell.name}: {wrong[0]} has values of queries or of the cell, not both")
        if bad := [name for name, values in cell.per_query.items() if not np.isfinite(values).all()]:
            raise IntegrityError(f"{path}: {cell.cell.name}: {bad[0]} has no value for some queries")
        if len(set(cell.query_ids)) < len(cell.query_ids):
            raise IntegrityError(f"{path}: {cell.cell.name}: a query is there twice")


def counts(result: Result, task: Task, path: Path) -> None:
    """The numbers of queries and passages of each cell are those of the task.

    Raises:
        IntegrityError: they are others, or a cell is not one of the task's, or is there twice.
    """
    known = {cell: i for i, cell in enumerate(task.cells())}
    names = [cell.cell for cell in result.cells]
    if strangers := [cell.name for cell in names if cell not in known or names.count(cell) > 1]:
        raise IntegrityError(f"{path}: {strangers[0]} is no cell of {task.name}, or is there twice")
    run = result.model["identity"].get("kind") == "run"
    for cell in result.cells:
        queries, passages = task.size(cell.cell)
        asked = task.counts.get(cell.cell.name if task.pools == "cell" else cell.cell.query_language, {}).get("queries")
        found = [("queries", len(cell.query_ids), queries), ("passages", cell.passages, passages)]
        found += [("queries, left out ones included,", len(cell.query_ids) + cell.left_out, asked or 0)]
        for what, n, right in found:
            if right and n != right:
                raise IntegrityError(f"{path}: {cell.cell.name} has {n} {what}, {task.name} has {right}")
        if not 0 <= cell.missing <= (len(cell.query_ids) if run else 0):
            raise IntegrityError(f"{path}: {cell.cell.name}: {cell.missing} queries missing; only runs lack some")


def _ranks(result: Result, path: Path) -> int:
    """Compute the per-query values again from the ranks, if they are there; returns how many."""
    if not (path.parent / f"{result.task['name']}.ranks.parquet").is_file():
        return 0
    table = read_ranks(path, result)
    number = 0
    for cell in result.cells:
        measures = [parse(name) for name in cell.values]
        ours = [m for m in measures if not m.foreign and not m.of_answers]
        again = score(cell.cell, table, ours)
        same_queries(cell, again, ours, f"{path}: {cell.cell.name}", "ranks")
        number += len(ours) * len(cell.query_ids)
    return number


def same_queries(cell: CellResult, again: CellResult, measures: Sequence[Measure], place: str, source: str) -> None:
    """Compare the per-query values of a cell with those that were computed again.

    Raises:
        IntegrityError: queries, passages or a value are others.
    """
    if cell.query_ids != again.query_ids or cell.passages != again.passages:
        raise IntegrityError(f"{place}: its queries or passages are not those of its {source}")
    for measure in measures:
        found, right = cell.per_query[measure.column], again.per_query.get(measure.column)
        if right is None:
            raise IntegrityError(f"{place}: {measure.name} has values, but none by its {source}")
        other = ~np.isclose(found, right, rtol=ROUNDING, atol=ROUNDING)
        if other.any():
            i = int(np.flatnonzero(other)[0])
            raise IntegrityError(
                f"{place}: {measure.name} of {cell.query_ids[i]} is {found[i]:.6g}, by its {source} {right[i]:.6g}"
            )
