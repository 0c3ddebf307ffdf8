"""Language bias by hand, in closed form and in expectation."""

import numpy as np
import pytest

from xbench.bias import normalised_rank_distance, rank_distance
from xbench.catalogue import parse
from xbench.records import Ranked


def both(ranks: list[int], pool: int) -> tuple[float, float]:
    """Rank distance and normalised rank distance of one query, from its sorted ranks."""
    r = Ranked(np.array([0, len(ranks)]), np.array(ranks, float), np.ones(len(ranks), np.int64), pool)
    return rank_distance(r, np.inf)[0], normalised_rank_distance(r, np.inf)[0]


def test_by_hand() -> None:
    assert both([4, 5, 6], 10) == (2, 0)  # together, wherever that is
    assert both([1, 2, 4], 10) == (3, 1 / 7)
    assert both([2, 5, 9], 10) == (7, 5 / 7)
    assert both([1, 5, 10], 10) == (9, 1)
    assert both([7], 10) == (0, 0)
    assert both([1, 2, 3], 3) == (2, 0)  # the whole pool is relevant
    assert both([1], 1) == (0, 0)


@pytest.mark.parametrize("others", [0, 1, 5, 1000, 13_003])
@pytest.mark.parametrize("relevant", [2, 7, 11])
def test_closed_forms(relevant: int, others: int) -> None:
    pool = relevant + others
    for top in (1, 1 + others):
        assert both(list(range(top, top + relevant)), pool) == (relevant - 1, 0)
    assert both([*range(1, relevant), pool], pool) == (pool - 1, 1 if others else 0)


@pytest.mark.parametrize(("pool", "relevant"), [(12, 3), (200, 2), (200, 11), (11, 11)])
def test_a_random_ranking_has_the_expected_distance(pool: int, relevant: int) -> None:
    """The range of R of N ranks drawn without replacement has mean (N + 1)(R - 1)/(R + 1)."""
    rng, n = np.random.default_rng(pool), 5000
    ranks = np.sort(rng.random((n, pool)).argsort(axis=1)[:, :relevant] + 1, axis=1)
    ranked = Ranked(np.arange(n + 1) * relevant, ranks.ravel().astype(float), np.ones(n * relevant, np.int64), pool)
    mean = (pool + 1) * (relevant - 1) / (relevant + 1)
    scaled = (mean - (relevant - 1)) / max(1, pool - relevant)
    for found, expected in ((parse("RankDistance")(ranked), mean), (parse("nRankDistance")(ranked), scaled)):
        assert abs(found.mean() - expected) <= 4 * found.std() / np.sqrt(n)
    assert ((found >= 0) & (found <= 1)).all()
