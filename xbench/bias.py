"""Language bias from the ranks of the relevant passages in the joint pool."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def rank_distance(first: Floats, last: Floats) -> Floats:
    """Largest minus smallest rank of the relevant passages of each query, in the joint pool.

    0 for a query with one relevant passage; at best |R| - 1, when the translations stand together.
    Lower is better. arXiv 2408.10536, section 4.1 and its footnote 6 (after Huang et al.,
    arXiv 2305.09025). Dominated by the single worst-ranked translation, and it grows with the pool.

    Args:
        first, last: float64 (n,) smallest and largest 1-based rank of each query.
    """
    return last - first


def normalised_rank_distance(first: Floats, last: Floats, relevant: Floats, pool: int) -> Floats:
    """Rank distance on a scale from 0 (the translations stand together) to 1 (top and bottom).

    `(RD - (|R| - 1)) / (N - |R|)`, so that pools of different sizes can be compared; 0 where the
    whole pool is relevant.

    Args:
        first, last: float64 (n,) smallest and largest 1-based rank of each query.
        relevant: float64 (n,) |R|, the number of relevant passages.
        pool: N, the number of passages.
    """
    room = np.maximum(pool - relevant, 1)
    return (rank_distance(first, last) - (relevant - 1)) / room
