"""The one ranking rule of xbench, and the ranks of the relevant passages by counting.

The rule: score descending, then doc_id descending (trec_eval's, form_res_rels.c). The score of a query and a passage is
the exact dot product of their float32 vectors, rounded once to float64; it depends on nothing but the two vectors: not
on batch, block, thread or library. Nothing else in the package may order passages: two rules in one harness once gave a
constant scorer MRR@10 = 1.0 beside nDCG@10 = 0.0 (embeddings-benchmark/mteb#5092).

Every measure here needs only the ranks of the relevant passages, and a rank needs no sorting: it is 1 + how many
passages stand above. A float32 matrix product decides nearly all comparisons; those inside its error band are decided
in float64, and those inside float64's by `math.fsum` on the exact products. So the ranks are exact at little more than
the price of the product.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from xbench.accelerator import WORKERS, accelerated
from xbench.arithmetic import Matrix, error_band, exact_score, float64_doubt, grid, largest_norm
from xbench.counting import Bounds, Engine, Processor, Segment
from xbench.errors import ModelOutputError
from xbench.records import Judged
from xbench.threads import cores

# Of float32 scores held at once by one thread; 512 queries against XQuAD-R's 13,014 passages.
TILE_BYTES = 512 * 13_100 * 4
# Comparisons put off for float64 before they are decided; bounds memory when a model ties a lot.
PENDING = 1 << 18
# Rows of a segment: flags are added up eight a word in bytes, so at most 255 words.
SEGMENT = 255 * 8


def tie_order(doc_ids: Sequence[str]) -> NDArray[np.int64]:
    """(n,) the place of each doc_id in ascending order: of two tied passages the higher one wins.

    Python compares strings by code point, which is the byte order of UTF-8 that trec_eval uses.
    """
    order = np.empty(len(doc_ids), np.int64)
    order[sorted(range(len(doc_ids)), key=doc_ids.__getitem__)] = np.arange(len(doc_ids))
    return order


def rule_order(
    scores: NDArray[np.float64], order: NDArray[np.int64], query: NDArray[np.int64] | int = 0
) -> NDArray[np.int64]:
    """(n,) passages in the order of the ranking rule, best first; query by query, if there are several.

    Args:
        scores: float64 (n,).
        order: of each passage its place in `tie_order`.
        query: int (n,) which query each belongs to.
    """
    return np.lexsort((-order, -scores, np.broadcast_to(query, scores.shape)))


def rule_ranks(scores: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, m) ranks of the m passages of a pool for n queries, by the ranking rule: 1 is best.

    Args:
        scores: float64 (n, m), without NaN.
        order: int (m,) of each passage its place in `tie_order`.
    """
    by_id = np.empty(len(order), np.int64)
    by_id[len(order) - 1 - order] = np.arange(len(order))  # columns by doc_id, descending: a stable sort keeps ties so
    places = by_id[np.argsort(-scores[:, by_id], axis=1, kind="stable")]
    ranks = np.empty(scores.shape, np.int64)
    np.put_along_axis(ranks, places, np.arange(1, len(order) + 1)[None], axis=1)
    return ranks


class Pool:
    """The passages of one or more languages, one matrix a language, never copied together.

    Args:
        pieces: float32 (m_i, d) each, C-contiguous; row j of the pool is row j - offsets[i] of i.
        doc_ids: of all rows, in the same order.
    """

    def __init__(self, pieces: Sequence[Matrix], doc_ids: Sequence[str]):
        self.pieces = list(pieces)
        self.offsets = np.concatenate([[0], np.cumsum([len(p) for p in pieces])]).astype(np.int64)
        if len(doc_ids) != self.offsets[-1]:
            raise ValueError(f"{len(doc_ids)} doc_ids for {self.offsets[-1]} rows")
        self.order = tie_order(doc_ids)
        self.groups = self._equal_vectors()
        self.norm = float(np.max([0.0, *map(largest_norm, self.pieces)]))  # keeps a NaN, as max() does not

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @functools.cached_property
    def grid(self) -> int | None:
        """The smallest s such that every value is a multiple of 2^-s, as `arithmetic.grid`."""
        steps = [grid(piece) for piece in self.pieces]
        return None if None in steps else max((s or 0 for s in steps), default=0)

    def _equal_vectors(self) -> NDArray[np.int64]:
        """(n,) equal numbers for bytewise equal vectors: those tie whatever the query is."""
        first: dict[int, int] = {}
        groups = np.arange(len(self))
        for offset, piece in zip(self.offsets, self.pieces, strict=False):
            for i, row in enumerate(piece):
                j = first.setdefault(hash(row.tobytes()), int(offset) + i)
                if j != offset + i and np.array_equal(self.row(j), row):
                    groups[offset + i] = j
        return groups

    def row(self, j: int) -> Matrix:
        """(d,) one vector."""
        i = int(np.searchsorted(self.offsets, j, side="right")) - 1
        vector: Matrix = self.pieces[i][j - self.offsets[i]]
        return vector

    def head(self, pieces: int) -> "Pool":
        """The passages of the first pieces alone, in the order they have here; nothing is copied."""
        found = copy.copy(self)
        size = int(self.offsets[pieces])
        found.pieces, found.offsets = self.pieces[:pieces], self.offsets[: pieces + 1]
        found.order, found.groups = self.order[:size], self.groups[:size]
        return found

    def tiles(self, columns: int) -> list[list[Segment]]:
        """Cut the pool into runs of about `columns` rows, each of segments of one piece."""
        tiles: list[list[Segment]] = [[]]
        used = 0
        for i, piece in enumerate(self.pieces):
            for low in range(0, len(piece), SEGMENT):
                if used >= columns:
                    tiles.append([])
                    used = 0
                high = min(len(piece), low + SEGMENT)
                tiles[-1].append(Segment(i, low, high, used))
                used += -(-(high - low) // 8) * 8
        return [tile for tile in tiles if tile]

    def dot(self, queries: Matrix, q: NDArray[np.int64], p: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) dot products of rows `q` of `queries` with pool rows `p`, summed in float64."""
        out = np.empty(len(q))
        if not len(q):
            return out
        place = np.argsort(p, kind="stable")
        cuts = np.searchsorted(p[place], self.offsets)
        step = 64  # two blocks of 64 x d float32 stay in the second-level cache
        a = np.empty((step, queries.shape[1]), np.float32)
        b = np.empty_like(a)
        for i, piece in enumerate(self.pieces):
            for low in range(cuts[i], cuts[i + 1], step):
                at = place[low : min(low + step, cuts[i + 1])]
                n = len(at)
                queries.take(q[at], axis=0, out=a[:n], mode="clip")
                piece.take(p[at] - self.offsets[i], axis=0, out=b[:n], mode="clip")
                out[at] = np.einsum("ij,ij->i", a[:n], b[:n], dtype=np.float64, casting="same_kind")
        return out

    def best(self, query: Matrix, rows: NDArray[np.int64], k: int) -> list[tuple[int, float]]:
        """The first k of the pool rows `rows` for a query (d,), as (row, score), best first."""
        scores = self.dot(query[None], np.zeros(len(rows), np.int64), rows)
        self.settle(query, rows, scores, self.doubt(query[None]))
        sequence = rule_order(scores, self.order[rows])[:k]
        return [(int(rows[i]), float(scores[i])) for i in sequence]

    def doubt(self, queries: Matrix) -> float:
        """How far apart two float64 sums of equal scores can be; -1 where every sum is exact."""
        norm, steps = largest_norm(queries) * self.norm, (grid(queries), self.grid)
        exact = None not in steps and norm * 4.0 ** max(s or 0 for s in steps) <= 2.0**53
        return -1.0 if exact else float64_doubt(queries.shape[1], norm)

    def settle(self, query: Matrix, rows: NDArray[np.int64], scores: NDArray[np.float64], doubt: float) -> None:
        """Make exact, in place, the scores (n,) of pool rows that are too near to each other for float64 to tell."""
        sequence = np.argsort(-scores)
        near = np.flatnonzero(-np.diff(scores[sequence]) <= doubt)
        known: dict[int, float] = {}  # bytewise equal vectors have equal scores: a model may tie a lot
        for i in sequence[np.union1d(near, near + 1)]:
            group = int(self.groups[rows[i]])
            if group not in known:
                known[group] = exact_score(query, self.row(group))
            scores[i] = known[group]


def exact_in_float32(queries: Sequence[Matrix], pool: Pool) -> bool:
    """Whether every score is exact in float32, in whatever order it is added up.

    So it is for multiples of 2^-s whose norms multiply to at most 2^(24 - 2s).
    """
    grids = [pool.grid, *map(grid, queries)]
    norm = float(np.max([0.0, *map(largest_norm, queries)])) * pool.norm
    return None not in grids and norm * 4.0 ** max(g or 0 for g in grids) <= 2.0**24


@contextmanager
def search_engine(device: str | None, pool: Pool, threads: int | None) -> Iterator[tuple[Engine, ThreadPoolExecutor]]:
    """Where to multiply and compare, and the threads to do it: NumPy's, or a torch device's (see `accelerator`).

    Raises:
        UsageError: a device that torch does not have, or on which no score can be trusted.
    """
    if device is not None:
        with accelerated(pool, device) as engine, ThreadPoolExecutor(WORKERS) as executor:
            yield engine, executor
        return
    # Threads over blocks with a single-threaded product each: counting then runs in parallel too.
    with threadpool_limits(1), ThreadPoolExecutor(threads or cores()) as executor:
        yield Processor(pool, TILE_BYTES), executor


def passages_above(
    queries: Sequence[Matrix],
    pool: Pool,
    judged: Judged,
    *,
    pieces: int | None = None,
    threads: int | None = None,
    block: int | None = None,
    device: str | None = None,
) -> NDArray[np.int32]:
    """How many passages of each piece of the pool stand above each relevant passage.

    The rank of a relevant passage among the passages of some pieces (languages) is 1 + the sum
    of their columns; its rank in the joint pool is 1 + the sum of all.

    Args:
        queries: float32 (n_i, d) each; `judged` counts their rows one after the other.
        pool: the passages.
        judged: which pool rows are relevant to which query.
        pieces: count passages of this many of the first pieces alone; by default of all.
        threads: how many threads; by default all processors. Never changes a count.
        block: queries per matrix product; by default as many as TILE_BYTES, or a device, hold. Never changes a count.
        device: where torch multiplies and compares, as "cuda"; None: NumPy does. Never changes a count.

    Returns:
        int32 (nnz, pieces), rows as in `judged.rows`.

    Raises:
        ModelOutputError: norms so large that a score overflows float32.
        UsageError: as `search_engine`.
    """
    above = np.zeros((len(judged.rows), len(pool.pieces[:pieces])), np.int32)
    norm = float(np.max([0.0, *map(largest_norm, queries)])) * pool.norm
    if not norm < 1e38:
        raise ModelOutputError(f"vector norms multiply to {norm:g}: scores overflow float32; normalise the vectors")
    exact = exact_in_float32(queries, pool)
    with search_engine(device, pool.head(above.shape[1]), threads) as (engine, executor):
        width = max(1, min(len(pool), engine.columns))
        block = block or engine.block(width)
        tiles = engine.tiles(width)
        jobs, first = [], 0
        for matrix in queries:
            even = -(-len(matrix) // max(1, -(-len(matrix) // block)))  # no small block at the end
            for i in range(0, len(matrix), max(1, even)):
                jobs.append(_Block(matrix[i : i + even], first + i, pool, judged, above, exact))
            first += len(matrix)
        for _ in executor.map(lambda job: job.count(tiles, engine), jobs):
            pass
    return above


class _Block:
    """A block of queries against the whole pool; adds to the shared `above`."""

    def __init__(self, queries: Matrix, first: int, pool: Pool, judged: Judged, above: NDArray[np.int32], exact: bool):
        indptr = judged.indptr[first : first + len(queries) + 1]
        entries, self.queries, self.pool, self.exact = slice(int(indptr[0]), int(indptr[-1])), queries, pool, exact
        self.above = above[entries]
        self.rows = judged.rows[entries]
        self.query_of = np.repeat(np.arange(len(queries)), np.diff(indptr))
        self.place = np.arange(len(self.rows)) - (indptr - indptr[0])[self.query_of]
        self.undecided: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self.pending = 0

    def count(self, tiles: list[list[Segment]], engine: Engine) -> None:
        """Count what float32 decides, tile by tile, and decide the rest."""
        if not len(self.rows):
            return
        norm = largest_norm(self.queries)
        dimension = self.queries.shape[1]
        self.scores = self.pool.dot(self.queries, self.query_of, self.rows)
        self.doubt = float64_doubt(dimension, norm * self.pool.norm)
        low = high = self.scores.astype(np.float32)
        if not self.exact:  # rounded outwards, so that the band stays as wide in float32
            band = error_band(dimension, norm, self.pool.norm, split=True) + engine.slack(norm, self.pool.norm)
            low = np.nextafter((self.scores - band).astype(np.float32), np.float32(-np.inf))
            high = np.nextafter((self.scores + band).astype(np.float32), np.float32(np.inf))
        bounds = Bounds(self.query_of, self.place, low, high, self.pool.order[self.rows], self.exact)
        counter = engine.counter(self.queries, bounds)
        for tile in tiles:
            counts = counter.count(tile, self._put)
            for k, segment in enumerate(tile):
                self.above[:, segment.piece] += counts[:, k]
        self._decide()

    def _put(self, entry: NDArray[np.int64], row: NDArray[np.int64]) -> None:
        self.undecided.append((entry, row))
        self.pending += len(entry)
        if self.pending > PENDING:
            self._decide()

    def _decide(self) -> None:
        """Decide in float64, then exactly, the comparisons that float32 left open."""
        if not self.pending:
            return
        entry, row = (np.concatenate(part) for part in zip(*self.undecided, strict=True))
        self.undecided, self.pending = [], 0
        pool, mine = self.pool, self.rows[entry]
        wins = pool.order[row] > pool.order[mine]  # what a tie gives
        differ = np.flatnonzero(pool.groups[row] != pool.groups[mine])
        gap = pool.dot(self.queries, self.query_of[entry[differ]], row[differ]) - self.scores[entry[differ]]
        sure = np.abs(gap) > self.doubt
        wins[differ[sure]] = gap[sure] > 0
        for i in differ[~sure]:
            query = self.queries[self.query_of[entry[i]]]
            other, relevant = exact_score(query, pool.row(row[i])), exact_score(query, pool.row(mine[i]))
            if other != relevant:
                wins[i] = other > relevant
        piece = np.searchsorted(pool.offsets, row[wins], side="right") - 1
        np.add.at(self.above, (entry[wins], piece), 1)
