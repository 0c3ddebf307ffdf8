"""Fusion of rankings of one pool: reciprocal ranks, or weighted scores."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xbench.ranking import rule_ranks

Scores = NDArray[np.float64]
# Cormack, Clarke and Büttcher, SIGIR 2009: k = 60 was best on their pilot data and is what everybody uses.
RRF_K = 60


def reciprocal_rank(parts: Sequence[Scores], order: NDArray[np.int64], k: int = RRF_K) -> Scores:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): sum over the parts of 1 / (k + rank).

    Args:
        parts: float64 (n, m) each, scores of n queries and the m passages of a pool; minus infinity: not
            retrieved, which adds nothing. Ranks are the ranking rule's, to full depth.
        order: int (m,) of each passage its place in `ranking.tie_order`.
        k: larger values let the lower ranks count for more.

    Returns:
        float64 (n, m); minus infinity where no part has retrieved the passage.
    """
    shares = np.stack([np.where(np.isneginf(part), 0.0, 1.0 / (k + rule_ranks(part, order))) for part in parts])
    shares.sort(axis=0)  # the same ranks in whatever parts add up to the same sum
    return _of_retrieved(sum(shares[1:], shares[0]), parts)


def weighted(parts: Sequence[Scores], weights: Sequence[float]) -> Scores:
    """Sum of weight times score, each part's scores scaled per query to [0, 1] over what it has retrieved.

    Scaling by minimum and maximum: Lee, SIGIR 1997; what a part has not retrieved counts 0 there, and 1 where
    all of its scores are equal.

    Args:
        parts: as in `reciprocal_rank`.
        weights: one a part.

    Returns:
        float64 (n, m); minus infinity where no part has retrieved the passage.
    """
    shares = [weight * _scaled(part) for weight, part in zip(weights, parts, strict=True)]
    return _of_retrieved(sum(shares[1:], shares[0]), parts)


def _scaled(part: Scores) -> Scores:
    found = ~np.isneginf(part)
    low = np.where(found, part, np.inf).min(axis=1, keepdims=True)
    high = part.max(axis=1, keepdims=True)
    width = high - low
    equal = ~(width > 0)  # also where nothing is retrieved: inf - inf is no width
    scaled: Scores = np.where(equal, 1.0, (part - low) / np.where(equal, 1.0, width))
    return np.where(found, scaled, 0.0)


def _of_retrieved(total: Scores, parts: Sequence[Scores]) -> Scores:
    lost = np.logical_and.reduce([np.isneginf(part) for part in parts])
    return np.where(lost, -np.inf, total)
