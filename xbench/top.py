"""The first passages of every query in the joint pool, by the ranking rule, many queries at once.

`index.search` gives a few queries as many passages as they want with their scores, from FAISS; this
gives all queries the few that language bias looks at, at little more than the price of the product.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xbench.arithmetic import Matrix, error_band, exact_score, float64_doubt, largest_norm
from xbench.counting import Engine
from xbench.ranking import Pool, exact_in_float32, rule_order, search_engine

Rows = NDArray[np.int64]
# Passages that are put in order at once.
PASSING = 1 << 18


def first_passages(
    queries: Sequence[Matrix],
    pool: Pool,
    k: int,
    *,
    floor: NDArray[np.float64] | None = None,
    threads: int | None = None,
    block: int | None = None,
    device: str | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> NDArray[np.int32]:
    """The rows of the first k passages of each query, best first.

    Args:
        queries: float32 (n_i, d) each.
        pool: the passages; their scores for one block of queries are held at once.
        k: how many; all, if there are fewer.
        floor: (n_1 + n_2 + ...,) a score of each query below which passages may be left out.
        threads: how many; by default all processors. Never changes a row.
        block: queries per matrix product; by default as many as TILE_BYTES, or a device, hold. Never changes a row.
        device: where torch multiplies and compares, as "cuda"; None: NumPy does. Never changes a row.
        advance: called with each number of queries done.

    Returns:
        int32 (n_1 + n_2 + ..., min(k, pool)); with a floor, -1 where fewer reach it.

    Raises:
        UsageError: as `ranking.search_engine`.
    """
    k = min(k, len(pool))
    exact = exact_in_float32(queries, pool)
    with search_engine(device, pool, threads) as (engine, executor):
        block = block or engine.block(len(pool))
        blocks = [matrix[low : low + block] for matrix in queries for low in range(0, len(matrix), block)]
        found = np.empty((sum(map(len, blocks)), k), np.int32)
        floor = np.full(len(found), -np.inf) if floor is None else floor
        floors = np.split(floor, np.cumsum([len(some) for some in blocks])[:-1])
        done = 0
        for rows in executor.map(lambda some, least: _first(some, pool, k, exact, least, engine), blocks, floors):
            found[done : done + len(rows)] = rows
            done += len(rows)
            advance(len(rows))
    return found


def _first(queries: Matrix, pool: Pool, k: int, exact: bool, least: NDArray[np.float64], engine: Engine) -> Rows:
    scores = engine.scores(queries)
    norm = largest_norm(queries)
    # Two scores further apart than this stand as float32 says.
    band = error_band(queries.shape[1], norm, pool.norm, split=True) + engine.slack(norm, pool.norm)
    sure = 0.0 if exact else 2 * band
    floor = np.maximum(scores.floor(k), least.astype(np.float32))
    passing = scores.let_pass(np.nextafter(floor - np.float32(sure), np.float32(-np.inf)))
    found = np.empty((len(queries), k), np.int64)
    # A model that ties everything lets everything pass: then fewer queries are looked at together.
    step = max(1, int(PASSING * len(queries) / max(passing, 1)))
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        query, row, single = scores.passing(part)
        if not len(query):  # nothing reaches the floor
            found[part] = -1
            continue
        value = single.astype(np.float64)
        if not exact:
            doubt = float64_doubt(queries.shape[1], norm * pool.norm)
            _settle(queries[part], pool, query, row, value, sure, doubt)
        sequence = rule_order(value, pool.order[row], query)
        starts = np.searchsorted(query[sequence], np.arange(len(found[part]) + 1))
        place = starts[:-1, None] + np.arange(k)
        there = place < starts[1:, None]
        found[part] = np.where(there, np.append(row[sequence], -1)[np.where(there, place, -1)], -1)
    return found


def _settle(
    queries: Matrix, pool: Pool, query: Rows, row: Rows, value: NDArray[np.float64], sure: float, doubt: float
) -> None:
    """Replace the values that are too near to others of their query by better ones: float64's, then exact."""
    equal = query * len(pool) + pool.groups[row]  # bytewise equal vectors have equal scores
    for limit, better in ((sure, pool.dot), (doubt, _exact(pool))):
        sequence = np.lexsort((-value, query))
        gap = -np.diff(value[sequence])
        near = (np.diff(query[sequence]) == 0) & (gap <= limit)
        settled = (np.diff(equal[sequence]) == 0) & (gap == 0)
        # A run of neighbours is settled as a whole, or not at all.
        run = np.concatenate([[0], np.cumsum(~near)])
        unsettled = np.bincount(run[1:][near & ~settled], minlength=run[-1] + 1) > 0
        at = sequence[unsettled[run]]
        _, first, inverse = np.unique(equal[at], return_index=True, return_inverse=True)
        value[at] = better(queries, query[at[first]], row[at[first]])[inverse]


def _exact(pool: Pool) -> Callable[[Matrix, Rows, Rows], NDArray[np.float64]]:
    def scores(queries: Matrix, query: Rows, row: Rows) -> NDArray[np.float64]:
        return np.array([exact_score(queries[q], pool.row(int(p))) for q, p in zip(query, row, strict=True)])

    return scores
