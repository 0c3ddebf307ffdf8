"""Values that must not have moved: the same model again, in the same environment (tier A) or in another (tier B)."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xbench.gate.places import gaps, run_file
from xbench.results import CellResult, Result

NEAR = 1e-6  # what values may differ by in another environment
GAP = 1e-5  # of score: passages nearer than this may change places there


class Moved(NamedTuple):
    """A query whose value is another one."""

    query_id: str
    measure: str  # the column, which a median shares with its mean
    baseline: float
    value: float
    gap: float | None  # largest gap of score between passages that changed places; None: not seen

    @property
    def explained(self) -> bool:
        """Whether passages that were as good as equal changed places, and no others."""
        return self.gap is not None and self.gap < GAP


class Drift(NamedTuple):
    """A cell, and what has moved in it."""

    cell: str
    queries: int
    values: int  # compared: queries x columns
    within: int  # that differ by no more than is allowed
    largest: float  # difference of a value; NaN where one of the two is undefined
    moved: list[Moved]

    @property
    def unexplained(self) -> list[Moved]:
        """What fails."""
        return [one for one in self.moved if not one.explained]


def drifts(first: Sequence[CellResult], second: Sequence[CellResult], *, exact: bool) -> list[Drift]:
    """One a cell, of all columns that both results have.

    Args:
        first, second: the same cells, in the same order, with the same queries.
        exact: the same bytes are wanted, else values within NEAR.
    """
    return [_drift(one, other, exact) for one, other in zip(first, second, strict=True)]


def _drift(one: CellResult, other: CellResult, exact: bool) -> Drift:
    place = {query_id: i for i, query_id in enumerate(other.query_ids)}
    rows = np.array([place[query_id] for query_id in one.query_ids], np.int64)
    columns = [name for name in one.per_query if name in other.per_query]
    moved: list[Moved] = []
    within, largest = 0, 0.0
    for name in columns:
        before, after = one.per_query[name], other.per_query[name][rows]
        differ = (before.view(np.int64) != after.view(np.int64)) & ~(np.isnan(before) & np.isnan(after))
        size = np.abs(after - before)
        far = differ if exact else differ & ~(size <= NEAR)
        within += int((differ & ~far).sum())
        if differ.any():
            largest = float(np.maximum(largest, size[differ].max()))
        moved += [Moved(one.query_ids[i], name, float(before[i]), float(after[i]), None) for i in np.flatnonzero(far)]
    return Drift(one.cell.name, len(one.query_ids), len(one.query_ids) * len(columns), within, largest, moved)


def explain(found: Sequence[Drift], results: tuple[Result, Result], paths: tuple[Path, Path]) -> list[Drift]:
    """With the gaps of score of all queries that have moved in cells whose runs lie beside both results.

    The runs are those of `xbench export`; without them it cannot be told why a value moved.

    Raises:
        DataError, StorageError: as `places.gaps`.
    """
    explained = []
    for drift in found:
        runs = [
            run_file(path, result.task["name"], drift.cell, result.model["slug"])
            for path, result in zip(paths, results, strict=True)
        ]
        if drift.moved and runs[0] and runs[1]:
            known = gaps(runs[0], runs[1], {one.query_id for one in drift.moved})
            moved = [one._replace(gap=known.get(one.query_id)) for one in drift.moved]
            explained.append(drift._replace(moved=moved))
        else:
            explained.append(drift)
    return explained
