"""One look at the ids of a corpus: each doc_id once, and where the judged passages stand."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.arithmetic import Matrix
from xbench.errors import DataError
from xbench.shards import Shard


class Known(NamedTuple):
    """The judged passages that are there, in the order of the shards."""

    doc_ids: list[str]
    vectors: Matrix  # float32 (doc_ids, d), bytewise as in their shards


def take_census(
    shards: Sequence[Shard], wanted: AbstractSet[str], advance: Callable[[int], None] = lambda _: None
) -> Known:
    """The passages that are wanted, of those of one language; ids that are not there are left out.

    Holds 8 bytes a passage, the ids of one shard and the vectors that are wanted.

    Raises:
        DataError: a doc_id occurs twice; with file and row.
    """
    hashes = np.empty(sum(shard.rows for shard in shards), np.int64)
    doc_ids: list[str] = []
    vectors: list[Matrix] = []
    done = 0
    for shard in shards:
        ids = shard.doc_ids()
        hashes[done : done + len(ids)] = _hashes(ids)
        done += len(ids)
        rows = [row for row, doc_id in enumerate(ids) if doc_id in wanted]
        if rows:
            doc_ids += [ids[row] for row in rows]
            vectors.append(shard.matrix()[rows])
        advance(len(ids))
    hashes.sort()
    equal = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(equal):
        _refuse_twice(shards, equal)
    dimension = next((shard.dimension for shard in shards if shard.rows), 0)
    return Known(doc_ids, np.concatenate(vectors) if vectors else np.empty((0, dimension), np.float32))


def _hashes(ids: Sequence[str]) -> NDArray[np.int64]:
    """64 bits of each id, other ones in each process."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _refuse_twice(shards: Sequence[Shard], equal: NDArray[np.int64]) -> None:
    """Of ids with equal hashes, refuse those that are equal themselves."""
    first: dict[str, str] = {}
    for where, doc_id in _suspects(shards, equal):
        if doc_id in first:
            raise DataError(f"{where}: doc_id {doc_id!r} occurs twice; first in {first[doc_id]}")
        first[doc_id] = where


def _suspects(shards: Sequence[Shard], equal: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    for shard in shards:
        ids = shard.doc_ids()
        for row in np.flatnonzero(np.isin(_hashes(ids), equal)):
            yield f"{shard.source}: row {shard.start + int(row) + 1}", ids[row]
