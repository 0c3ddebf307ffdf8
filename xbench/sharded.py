"""Ranks and first passages in pools of shards: bit for bit those of the whole pool in memory.

A rank is 1 + how many passages stand above, so counts of the shards add up. Each shard is ranked in a pool
with the judged passages, by the one ranking rule; the judged copy of a passage does not count the passage itself:
both have one vector and one doc_id, so they tie, and of equal doc_ids the later row, the copy, wins.
First passages come from a shard with their exact scores, and are merged by these and the doc_id. So a shard is
searched by whoever reads it, in any order, and its vectors go nowhere.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.accelerator import describe, find
from xbench.arithmetic import Matrix, exact_scores
from xbench.census import Known
from xbench.errors import UsageError
from xbench.kept import keep, kept
from xbench.memory import hoard_nothing
from xbench.progress import log
from xbench.ranking import TILE_BYTES, Pool, passages_above, rule_order, tie_order
from xbench.records import Judged
from xbench.shard import Shard
from xbench.threads import cores
from xbench.top import first_passages
from xbench.workers import Here, Workers

SCHEMA = 2  # raised when what is kept of a search changes
# A killed search loses at most this much, and the shards that are being searched.
KEEP_SECONDS = 30.0
# Of products that are added up at once: they stay in the second-level cache.
EXACT_BYTES = 1 << 18


class Ranks(NamedTuple):
    """Where the judged passages stand, and which come first."""

    above: NDArray[np.int32]  # (nnz, groups) passages of each group of shards above each judged passage
    top: list[list[str]]  # of each query the doc_ids of the first k passages of all groups, best first
    engines: frozenset[str] = frozenset()  # what multiplied and compared, as `accelerator.describe`


class Asked(NamedTuple):
    """What every shard is searched for."""

    queries: Matrix  # float32 (n, d)
    judged: Judged  # rows are places in `known`
    known: Known
    k: int
    threads: int | None


class Found(NamedTuple):
    """In a shard."""

    number: int
    above: NDArray[np.int32]  # (nnz,) passages above each judged passage
    query: NDArray[np.int64]  # (m,) of each of the first passages, query by query
    scores: NDArray[np.float64]  # (m,) by the ranking rule, to the last bit
    ids: NDArray[np.uint8]  # (m,) doc_ids, a line each: one piece of memory, where m objects would be many
    engine: str  # as `accelerator.describe`


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
    workers: Workers | None = None,
) -> Ranks:
    """Count and collect, shard by shard.

    Held by a worker, which may be this process: the queries, the judged passages, one shard, mapped, and its first
    passages. Held here: k scores and ids a query.

    Args:
        queries: float32 (n, d).
        groups: the shards of each language.
        judged: rows are places in `known`.
        known: the judged passages.
        k: first passages to keep; all, if there are fewer.
        folder: where the search is kept as far as it is; one that is called again goes on there.
        threads: how many; by default all processors. Never changes a number.
        advance: called with the number of passages of each shard that is done.
        workers: by default this process.

    Raises:
        ModelOutputError: norms so large that a score overflows float32.
        IntegrityError, StorageError: what is kept, or a shard, is damaged or cannot be read or written.
        IncompleteError: as `Workers.map`.
    """
    shards = [(group, shard) for group, some in enumerate(groups) for shard in some if shard.rows]
    above = np.zeros((len(judged.rows), len(groups)), np.int32)
    done = np.zeros(len(shards), np.bool_)
    k = min(k, sum(shard.rows for _, shard in shards))
    first = _First(len(queries), k)
    engines: set[str] = set()
    file = folder / f"{_key(queries, groups, judged, known, k)}.npz"
    saved = time.monotonic()
    if (state := kept(file)) is not None:
        done, above, engines = state["done"], state["above"], set(_text(state["engines"]))
        first.restore(state)
    advance(sum(shard.rows for (_, shard), over in zip(shards, done, strict=True) if over))

    def left() -> Iterator[tuple[int, Shard, NDArray[np.float64]]]:
        for number in np.flatnonzero(~done).tolist():
            yield number, shards[number][1], first.floor()

    asked = Asked(queries, judged, known, k, threads)
    for found in (workers or Here()).map(search_shard, asked, left()):
        group, shard = shards[found.number]
        above[:, group] += found.above
        engines.add(found.engine)
        first.add(found)
        done[found.number] = True
        advance(shard.rows)
        if done.all() or time.monotonic() - saved > KEEP_SECONDS:
            keep(file, {"done": done, "above": above, "engines": _bytes(sorted(engines)), **first.state()})
            saved = time.monotonic()
    return Ranks(above, first.lists(), frozenset(engines))


def _key(queries: Matrix, groups: Sequence[Sequence[Shard]], judged: Judged, known: Known, k: int) -> str:
    """Of all that decides a search."""
    digest = hashlib.sha256(f"{SCHEMA} {k} {queries.shape} {[len(shards) for shards in groups]}".encode())
    for array in (queries, *judged):
        digest.update(np.ascontiguousarray(array).data)
    for text in (*known.doc_ids, *(f"{s.vectors} {s.ids}" for shards in groups for s in shards)):
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()[:32]


def search_shard(asked: Asked, item: tuple[int, Shard, NDArray[np.float64]]) -> Found:
    """Search one shard.

    Args:
        asked: what for.
        item: the number of the shard, the shard, and (n,) a score of each query below which a passage is not among
            its first k for certain.
    """
    hoard_nothing()
    number, shard, floor = item
    ids = shard.doc_ids()
    pool = Pool([shard.matrix(), asked.known.vectors], [*ids, *asked.known.doc_ids])
    device = find()
    try:
        return _search_pool(asked, number, pool, ids, floor, device)
    except (UsageError, RuntimeError) as error:  # what torch raises for a GPU that it was not built for
        if device is None:
            raise
        log.warning("%s; NumPy searches", error)
        return _search_pool(asked, number, pool, ids, floor, None)


def _search_pool(
    asked: Asked, number: int, pool: Pool, ids: Sequence[str], floor: NDArray[np.float64], device: str | None
) -> Found:
    queries, judged, _, k, threads = asked
    options: dict[str, Any] = {"threads": threads, "device": device}
    if device is None:
        even = -(-len(queries) // (threads or cores()))  # so that every thread has a block
        options["block"] = max(1, min(TILE_BYTES // 4 // len(ids), even))
    above = np.zeros(len(judged.rows), np.int32)
    if len(above):
        here = judged._replace(rows=judged.rows + len(ids))
        above = passages_above([queries], pool, here, pieces=1, **options)[:, 0]
    engine = describe(device)
    if not k:
        return Found(number, above, np.empty(0, np.int64), np.empty(0), _bytes([]), engine)
    alone = pool.head(1)
    rows = first_passages([queries], alone, k, floor=floor, **options)
    query, place = np.nonzero(rows >= 0)
    row = rows[query, place].astype(np.int64)
    named = _bytes([ids[i] for i in row.tolist()])
    return Found(number, above, query, _exact(queries, alone, query, row), named, engine)


def _exact(queries: Matrix, pool: Pool, query: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.float64]:
    """(m,) the rule's scores of pairs in a pool of one piece.

    Bytewise equal vectors have equal ones, and a model may tie a lot.
    """
    if pool.doubt(queries) < 0:  # every sum is exact
        return pool.dot(queries, query, row)
    pairs, inverse = np.unique(query * len(pool) + pool.groups[row], return_inverse=True)
    (vectors,) = pool.pieces
    scores, step = np.empty(len(pairs)), max(1, EXACT_BYTES // 8 // queries.shape[1])
    for low in range(0, len(pairs), step):
        q, p = np.divmod(pairs[low : low + step], len(pool))
        scores[low : low + step] = exact_scores(queries[q], vectors[p])
    return scores[inverse]


class _First:
    """The first k passages of each of n queries among the shards so far, by the ranking rule."""

    def __init__(self, n: int, k: int):
        self._scores = np.full((n, k), -np.inf)
        self._ids = np.full((n, k), "", object)  # as no doc_id is

    def floor(self) -> NDArray[np.float64]:
        """(n,) what a passage must score at least to be among them."""
        n, k = self._scores.shape
        return self._scores[:, -1].copy() if k else np.full(n, -np.inf)

    def add(self, found: Found) -> None:
        """Merge a shard's first passages."""
        if not len(found.query):
            return
        touched = np.unique(found.query)
        old = self._ids[touched] != ""
        queries = np.concatenate([np.repeat(touched, old.sum(axis=1)), found.query])
        scores = np.concatenate([self._scores[touched][old], found.scores])
        named = np.concatenate([self._ids[touched][old], np.array(_text(found.ids), object)])
        sequence = _order(queries, scores, named)
        starts = np.searchsorted(queries[sequence], np.append(touched, len(self._scores)))
        rank = np.arange(len(sequence)) - np.repeat(starts[:-1], np.diff(starts))
        best = rank < self._scores.shape[1]
        to = queries[sequence[best]], rank[best]
        self._scores[to], self._ids[to] = scores[sequence[best]], named[sequence[best]]

    def lists(self) -> list[list[str]]:
        """The doc_ids of each query's first passages."""
        return [[doc_id for doc_id in line if doc_id] for line in self._ids.tolist()]

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All there is to go on from."""
        return {"scores": self._scores, "ids": _bytes(self._ids.ravel().tolist())}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from what `state` gave."""
        self._scores = np.array(state["scores"])
        names = _text(state["ids"]) if self._ids.size else []
        self._ids = np.array(names, object).reshape(self._ids.shape)


def _bytes(lines: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


def _text(content: NDArray[np.generic]) -> list[str]:
    return content.tobytes().decode().split("\n")


def _order(queries: NDArray[np.int64], scores: NDArray[np.float64], ids: NDArray[np.object_]) -> NDArray[np.int64]:
    """By query and the ranking rule; of the ids only those are compared whose scores tie."""
    order = np.zeros(len(scores), np.int64)
    sequence = rule_order(scores, order, queries)
    tied = (np.diff(queries[sequence]) == 0) & (np.diff(scores[sequence]) == 0)
    some = sequence[np.concatenate([[False], tied]) | np.concatenate([tied, [False]])]
    order[some] = tie_order(ids[some].tolist())
    return rule_order(scores, order, queries)
