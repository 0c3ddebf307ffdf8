"""One look at the ids of a corpus: each doc_id once, and where the judged passages stand."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xbench.arithmetic import Matrix
from xbench.errors import DataError
from xbench.shard import Shard
from xbench.workers import Here, Workers


class Known(NamedTuple):
    """The judged passages that are there, in the order of the shards."""

    doc_ids: list[str]
    vectors: Matrix  # float32 (doc_ids, d), bytewise as in their shards


class _Look(NamedTuple):
    """At a shard."""

    number: int
    hashes: NDArray[np.uint64]  # (rows,) of the ids
    known: Known


def take_census(
    shards: Sequence[Shard],
    wanted: AbstractSet[str],
    advance: Callable[[int], None] = lambda _: None,
    workers: Workers | None = None,
) -> Known:
    """The passages that are wanted, of those of one language; ids that are not there are left out.

    Holds 8 bytes a passage and the vectors that are wanted; a worker, which may be this process, the ids of one shard.

    Raises:
        DataError: a doc_id occurs twice; with file and row.
        IntegrityError, StorageError: as `Shard.doc_ids`.
        IncompleteError: as `Workers.map`.
    """
    starts = np.cumsum([0, *(shard.rows for shard in shards)])
    hashes = np.empty(starts[-1], np.uint64)
    each: list[Known | None] = [None] * len(shards)
    for look in (workers or Here()).map(_look, wanted, list(enumerate(shards))):
        hashes[starts[look.number] : starts[look.number + 1]] = look.hashes
        # A copy: what a worker gives is a view of all it gave, the hashes too.
        each[look.number] = look.known._replace(vectors=look.known.vectors.copy())
        advance(len(look.hashes))
    hashes.sort()
    equal = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(equal):
        _refuse_twice(shards, equal)
    some = [known for known in each if known is not None and known.doc_ids]
    dimension = next((shard.dimension for shard in shards if shard.rows), 0)
    vectors = np.concatenate([known.vectors for known in some]) if some else np.empty((0, dimension), np.float32)
    return Known([doc_id for known in some for doc_id in known.doc_ids], vectors)


def _look(wanted: AbstractSet[str], item: tuple[int, Shard]) -> _Look:
    number, shard = item
    ids = shard.doc_ids()
    rows = [row for row, doc_id in enumerate(ids) if doc_id in wanted]
    vectors = shard.matrix()[rows] if rows else np.empty((0, shard.dimension), np.float32)
    return _Look(number, _hashes(ids), Known([ids[row] for row in rows], vectors))


def _hashes(ids: Sequence[str]) -> NDArray[np.uint64]:
    """64 bits of each id, the same ones in every process, unlike Python's own."""
    return pd.util.hash_array(np.array(ids, object), categorize=False)


def _refuse_twice(shards: Sequence[Shard], equal: NDArray[np.uint64]) -> None:
    """Of ids with equal hashes, refuse those that are equal themselves."""
    first: dict[str, str] = {}
    for where, doc_id in _suspects(shards, equal):
        if doc_id in first:
            raise DataError(f"{where}: doc_id {doc_id!r} occurs twice; first in {first[doc_id]}")
        first[doc_id] = where


def _suspects(shards: Sequence[Shard], equal: NDArray[np.uint64]) -> Iterator[tuple[str, str]]:
    for shard in shards:
        ids = shard.doc_ids()
        for row in np.flatnonzero(np.isin(_hashes(ids), equal)):
            yield f"{shard.source}: row {shard.start + int(row) + 1}", ids[row]
