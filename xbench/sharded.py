"""Ranks and first passages in pools of shards: bit for bit those of the whole pool in memory.

A rank is 1 + how many passages stand above, so counts of the shards add up. Each shard is ranked in a pool
with the judged passages, by the one ranking rule; the judged copy of a passage does not count the passage itself:
both have one vector and one doc_id, so they tie, and of equal doc_ids the later row, the copy, wins.
First passages are merged by their scores, those too near for float64 to tell made exact, equal ones by doc_id.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.arithmetic import Matrix, exact_score
from xbench.census import Known
from xbench.kept import keep, kept
from xbench.ranking import TILE_BYTES, Pool, passages_above, rule_order, tie_order
from xbench.records import Judged
from xbench.shards import Shard
from xbench.threads import cores
from xbench.top import first_passages

SCHEMA = 1  # raised when what is kept of a search changes
# A killed search loses at most this much, and a shard.
KEEP_SECONDS = 30.0


class Ranks(NamedTuple):
    """Where the judged passages stand, and which come first."""

    above: NDArray[np.int32]  # (nnz, groups) passages of each group of shards above each judged passage
    top: list[list[str]]  # of each query the doc_ids of the first k passages of all groups, best first


def search(
    queries: Matrix,
    groups: Sequence[Sequence[Shard]],
    judged: Judged,
    known: Known,
    k: int,
    folder: Path,
    *,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Ranks:
    """Count and collect, shard by shard.

    Held at once: the queries, the judged passages, k scores, rows and ids a query, and one shard, mapped.

    Args:
        queries: float32 (n, d).
        groups: the shards of each language.
        judged: rows are places in `known`.
        known: the judged passages.
        k: first passages to keep; all, if there are fewer.
        folder: where the search is kept as far as it is; one that is called again goes on there.
        threads: how many; by default all processors. Never changes a number.
        advance: called with the number of passages of each shard that is done.

    Raises:
        ModelOutputError: norms so large that a score overflows float32.
        IntegrityError, StorageError: what is kept is damaged or cannot be read or written.
    """
    shards = [(group, shard) for group, some in enumerate(groups) for shard in some if shard.rows]
    above = np.zeros((len(judged.rows), len(groups)), np.int32)
    k = min(k, sum(shard.rows for _, shard in shards))
    first = _First(queries, [shard for _, shard in shards], k)
    file = folder / f"{_key(queries, groups, judged, known, k)}.npz"
    done, saved = 0, time.monotonic()
    if (state := kept(file)) is not None:
        done, above = int(state["done"]), state["above"]
        first.restore(state)
    widest = max((shard.rows for _, shard in shards), default=1)
    even = -(-len(queries) // (threads or cores()))  # so that every thread has a block
    block = max(1, min(TILE_BYTES // 4 // widest, even))
    advance(sum(shard.rows for _, shard in shards[:done]))
    for number in range(done, len(shards)):
        group, shard = shards[number]
        ids = shard.doc_ids()
        pool = Pool([shard.matrix(), known.vectors], [*ids, *known.doc_ids])
        here = judged._replace(rows=judged.rows + shard.rows)
        if len(judged.rows):
            above[:, group] += passages_above([queries], pool, here, pieces=1, threads=threads, block=block)[:, 0]
        if k:
            first.add(number, pool.head(1), ids, threads, block)
        advance(shard.rows)
        if number + 1 == len(shards) or time.monotonic() - saved > KEEP_SECONDS:
            keep(file, {"done": np.array(number + 1), "above": above, **first.state()})
            saved = time.monotonic()
    return Ranks(above, first.lists())


def _key(queries: Matrix, groups: Sequence[Sequence[Shard]], judged: Judged, known: Known, k: int) -> str:
    """Of all that decides a search."""
    digest = hashlib.sha256(f"{SCHEMA} {k} {queries.shape} {[len(shards) for shards in groups]}".encode())
    for array in (queries, *judged):
        digest.update(np.ascontiguousarray(array).data)
    for text in (*known.doc_ids, *(f"{s.vectors} {s.ids}" for shards in groups for s in shards)):
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()[:32]


class _First:
    """The first k passages of each query among the shards so far, by the ranking rule."""

    def __init__(self, queries: Matrix, shards: Sequence[Shard], k: int):
        self._queries, self._shards = queries, shards
        self._starts = np.concatenate([[0], np.cumsum([shard.rows for shard in shards])]).astype(np.int64)
        shape = (len(queries), k)
        self._scores = np.full(shape, -np.inf)
        self._rows = np.full(shape, -1, np.int64)  # counted over all shards
        self._exact = np.zeros(shape, np.bool_)  # whether a score is the rule's to the last bit
        self._ids = np.full(shape, "", object)
        self._doubt = 0.0  # the largest of the pools so far

    def add(self, number: int, pool: Pool, ids: Sequence[str], threads: int | None, block: int) -> None:
        """Merge a shard's first passages."""
        k = self._scores.shape[1]
        floor = self._scores[:, -1] - self._doubt
        found = first_passages([self._queries], pool, k, floor=floor, threads=threads, block=block)
        query, place = np.nonzero(found >= 0)
        if not len(query):
            return
        row = found[query, place].astype(np.int64)
        doubt = pool.doubt(self._queries)
        self._doubt = max(self._doubt, doubt)
        # Those of these queries that are there already, and the new ones.
        touched = np.unique(query)
        at, old = np.nonzero(self._rows[touched] >= 0)
        at = touched[at]
        queries = np.concatenate([at, query])
        scores = np.concatenate([self._scores[at, old], pool.dot(self._queries, query, row)])
        rows = np.concatenate([self._rows[at, old], row + self._starts[number]])
        exact = np.concatenate([self._exact[at, old], np.full(len(row), doubt < 0)])
        named = np.concatenate([self._ids[at, old], np.array([ids[i] for i in row], object)])
        self._settle(queries, scores, rows, exact)
        sequence = self._order(queries, scores, named)
        starts = np.searchsorted(queries[sequence], np.append(touched, len(self._queries)))
        rank = np.arange(len(sequence)) - np.repeat(starts[:-1], np.diff(starts))
        sequence, rank = sequence[rank < k], rank[rank < k]
        to = queries[sequence], rank
        for state, values in (
            (self._scores, scores),
            (self._rows, rows),
            (self._exact, exact),
            (self._ids, named),
        ):
            state[to] = values[sequence]

    def _settle(
        self,
        queries: NDArray[np.int64],
        scores: NDArray[np.float64],
        rows: NDArray[np.int64],
        exact: NDArray[np.bool_],
    ) -> None:
        """Make exact, in place, the scores that are too near to others of their query for float64 to tell."""
        sequence = rule_order(scores, np.zeros(len(scores), np.int64), queries)
        near = (np.diff(queries[sequence]) == 0) & (-np.diff(scores[sequence]) <= self._doubt)
        at = np.concatenate([[False], near]) | np.concatenate([near, [False]])
        todo = sequence[at & ~exact[sequence]]
        known: dict[tuple[int, bytes], float] = {}  # bytewise equal vectors have equal scores: a model may tie a lot
        for i in sorted(todo.tolist(), key=rows.__getitem__):  # shard by shard
            vector = self._vector(int(rows[i]))
            key = int(queries[i]), vector.tobytes()
            if key not in known:
                known[key] = exact_score(self._queries[queries[i]], vector)
            scores[i] = known[key]
        exact[todo] = True

    def _vector(self, row: int) -> Matrix:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        vector: Matrix = self._matrix(number)[row - self._starts[number]]
        return vector

    def _matrix(self, number: int) -> Matrix:
        if getattr(self, "_mapped", None) != number:
            self._mapped, self._held = number, self._shards[number].matrix()
        return self._held

    @staticmethod
    def _order(queries: NDArray[np.int64], scores: NDArray[np.float64], ids: NDArray[np.object_]) -> NDArray[np.int64]:
        """By query and the ranking rule; of the ids only those are compared whose scores tie."""
        order = np.zeros(len(scores), np.int64)
        sequence = rule_order(scores, order, queries)
        tied = (np.diff(queries[sequence]) == 0) & (np.diff(scores[sequence]) == 0)
        some = sequence[np.concatenate([[False], tied]) | np.concatenate([tied, [False]])]
        order[some] = tie_order(ids[some].tolist())
        return rule_order(scores, order, queries)

    def lists(self) -> list[list[str]]:
        """The doc_ids of each query's first passages."""
        return [list(ids[: int((rows >= 0).sum())]) for ids, rows in zip(self._ids, self._rows, strict=True)]

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All there is to go on from."""
        ids = "\n".join(self._ids.ravel().tolist()).encode()
        return {
            "scores": self._scores,
            "rows": self._rows,
            "exact": self._exact,
            "ids": np.frombuffer(ids, np.uint8),
            "doubt": np.array(self._doubt),
        }

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from what `state` gave."""
        self._scores, self._rows, self._exact = (np.array(state[name]) for name in ("scores", "rows", "exact"))
        names = state["ids"].tobytes().decode().split("\n")
        self._ids = np.array(names if self._ids.size else [], object).reshape(self._ids.shape)
        self._doubt = float(state["doubt"])
