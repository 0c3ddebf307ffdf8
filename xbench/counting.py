"""What an engine does for the ranking rule: float32 products, and which of them pass a bound; here, by NumPy.

`ranking` and `top` know the rule and the bands within which float32 decides nothing; an engine multiplies, compares and
counts. There are two, `Processor` here and `accelerator.Accelerator`; no number may depend on which one it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from xbench.arithmetic import Matrix, multiply, scratch

if TYPE_CHECKING:
    from xbench.ranking import Pool

Rows = NDArray[np.int64]
# Takes comparisons that float32 leaves open: (n,) entries, and (n,) the pool rows they are compared with.
Put = Callable[[Rows, Rows], None]

# Flags compared in one call: few calls, since threads queue for the interpreter between them.
GROUP_BYTES = 1 << 21


class Segment(NamedTuple):
    """Rows `low:high` of a piece, at column `start` of a tile's scores (a multiple of 8 in those of `Pool.tiles`)."""

    piece: int
    low: int
    high: int
    start: int


class Bounds(NamedTuple):
    """What the scores of a block of queries are compared with: an entry for each relevant passage of each query."""

    query: Rows  # (n,) row of the block, ascending
    place: Rows  # (n,) 0, 1, 2, ... among the entries of its query
    low: Matrix  # (n,) float32: a score up to this is below the relevant passage's
    high: Matrix  # (n,) float32: a score above this is above it
    order: Rows  # (n,) the relevant passage's place in `ranking.tie_order`
    exact: bool  # whether low = high is the relevant passage's score itself, and equal ones tie


class Counter(Protocol):
    """Compares the scores of a block of queries with their bounds."""

    def count(self, tile: Sequence[Segment], put: Put) -> NDArray[np.int32]:
        """(n, segments) how many passages are above each entry for sure; those left open are put."""


class Scores(Protocol):
    """The float32 scores of a block of n queries against the whole pool."""

    def floor(self, k: int) -> Matrix:
        """(n,) a score that at least k passages of each query reach; -inf where none is looked for.

        The k-th largest of the maxima of parts of the row: a part has a score as large as its maximum. Maxima are far
        cheaper than selecting among all scores and, with each passage in another part than its neighbours, let few
        more than k pass.
        """

    def let_pass(self, floor: Matrix) -> int:
        """Remember which scores are at least their query's floor (n,), and count them."""

    def passing(self, part: slice) -> tuple[Rows, Rows, Matrix]:
        """What passes of some of the queries: (m,) row of the part, ascending, (m,) pool row, ascending, and score."""


class Engine(Protocol):
    """Where the products of a pool are made and compared."""

    columns: int  # most passages of a tile

    def block(self, columns: int) -> int:
        """How many queries to multiply at once with so many passages."""

    def slack(self, query_norm: float, pool_norm: float) -> float:
        """How much more than `arithmetic.error_band` says a product can be off."""

    def tiles(self, columns: int) -> list[list[Segment]]:
        """Cut the pool into runs of about so many passages, each of segments of one piece."""

    def counter(self, queries: Matrix, bounds: Bounds) -> Counter:
        """For a block of queries."""

    def scores(self, queries: Matrix) -> Scores:
        """Of a block of queries."""


def parts(k: int) -> int:
    """Into how many parts to cut a row of scores, to find what k of them reach."""
    return max(128, 4 * k)


class Processor:
    """The engine of NumPy and the BLAS under it."""

    def __init__(self, pool: Pool, tile_bytes: int):
        self._pool, self._size, self.columns = pool, tile_bytes // 4, tile_bytes // 4 // 64

    def block(self, columns: int) -> int:
        """As many as a tile's bytes hold."""
        return max(1, self._size // max(1, columns))

    def slack(self, query_norm: float, pool_norm: float) -> float:
        """None: the band is this engine's."""
        return 0.0

    def tiles(self, columns: int) -> list[list[Segment]]:
        """In segments that can be added up in bytes."""
        return self._pool.tiles(columns)

    def counter(self, queries: Matrix, bounds: Bounds) -> Counter:
        """By flags that are added up eight at once."""
        return _Counter(queries, self._pool, bounds)

    def scores(self, queries: Matrix) -> Scores:
        """In this thread's scratch: until the next ones are asked for."""
        return _Scores(queries, self._pool)


class _Counter:
    def __init__(self, queries: Matrix, pool: Pool, bounds: Bounds):
        self.queries, self.pool, self.exact = queries, pool, bounds.exact
        # One row a query, filled up with a score that no passage is above.
        self.entry = np.full((len(queries), int(bounds.place.max()) + 1), -1)
        self.entry[bounds.query, bounds.place] = np.arange(len(bounds.query))
        none = self.entry < 0
        self.low, self.high = (
            np.where(none, np.float32(np.inf), bound[self.entry])[:, :, None] for bound in (bounds.low, bounds.high)
        )
        self.order = np.where(none, -1, bounds.order[self.entry])[:, :, None]

    def count(self, tile: Sequence[Segment], put: Put) -> NDArray[np.int32]:
        width = -(-(tile[-1].start + tile[-1].high - tile[-1].low) // 8) * 8
        scores = scratch("scores", (len(self.queries), 1, width), np.float32)
        pool_row = np.zeros(width, np.int64)
        for piece, lo, hi, start in tile:
            multiply(self.queries, self.pool.pieces[piece][lo:hi], scores[:, 0, start : start + hi - lo])
            scores[:, 0, start + hi - lo : -(-(start + hi - lo) // 8) * 8] = -np.inf  # padding is above nothing
            pool_row[start : start + hi - lo] = np.arange(lo, hi) + self.pool.offsets[piece]
        starts = np.array([segment.start // 8 for segment in tile])
        order = self.pool.order[pool_row]
        counts = np.empty((*self.entry.shape, len(tile)), np.uint64)
        group = max(1, GROUP_BYTES // (self.entry.shape[1] * width))
        flags = scratch("flags", (3, group, self.entry.shape[1], width), np.bool_)
        for first in range(0, len(scores), group):
            part = slice(first, first + group)
            above, maybe, later = flags[:, : len(scores[part])]
            np.greater(scores[part], self.high[part], out=above)
            if self.exact:
                np.equal(scores[part], self.high[part], out=maybe)
                np.greater(order, self.order[part], out=later)
                maybe &= later
                above |= maybe
            # Eight flags a word: the words of a segment add up in eight bytes that cannot overflow.
            np.add.reduceat(above.view(np.uint64), starts, axis=2, out=counts[part])
            if self.exact:
                continue
            np.greater(scores[part], self.low[part], out=maybe)
            np.not_equal(maybe, above, out=maybe)
            words = (maybe.view(np.uint64) != 0).reshape(-1).nonzero()[0]
            hit, byte = maybe.reshape(-1, 8)[words].nonzero()
            entry, column = np.divmod(words[hit] * 8 + byte, width)
            put(self.entry[part].reshape(-1)[entry], pool_row[column])
        in_segments = counts[self.entry >= 0].view(np.uint8).reshape(-1, len(tile), 8)
        found: NDArray[np.int32] = in_segments.sum(axis=2, dtype=np.int32)
        return found


class _Scores:
    def __init__(self, queries: Matrix, pool: Pool):
        self.values: Matrix = scratch("scores", (len(queries), len(pool)), np.float32)
        for piece, low, high in zip(pool.pieces, pool.offsets[:-1], pool.offsets[1:], strict=True):
            multiply(queries, piece, self.values[:, low:high])

    def floor(self, k: int) -> Matrix:
        n, size = self.values.shape
        count = parts(k)
        if count > size:
            return np.full(n, -np.inf, np.float32)
        maxima = self.values[:, : size // count * count].reshape(n, -1, count).max(axis=1)
        floor: Matrix = np.partition(maxima, count - k, axis=1)[:, count - k]
        return floor

    def let_pass(self, floor: Matrix) -> int:
        self.flags = self.values >= floor[:, None]
        return int(self.flags.sum())

    def passing(self, part: slice) -> tuple[Rows, Rows, Matrix]:
        query, row = np.divmod(np.flatnonzero(self.flags[part]), self.values.shape[1])
        return query, row, self.values[part][query, row]
