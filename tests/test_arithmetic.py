"""Exact scores of many pairs, against sums of fractions."""

from fractions import Fraction

import numpy as np
import pytest
from test_ranking import spy

from xbench import arithmetic
from xbench.arithmetic import Matrix, exact_score, exact_scores


def slow(query: Matrix, passage: Matrix) -> float:
    """Of whole fractions, rounded once, to the even one of two that are as near."""
    return float(
        sum((Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, passage, strict=True)), Fraction())
    )


def cases(dimension: int) -> tuple[Matrix, Matrix]:
    """Of random vectors, of ones whose products cancel, of sums half-way between two float64, of huge and tiny ones."""
    rng = np.random.default_rng(dimension)
    a, b = rng.standard_normal((2, 120, dimension), dtype=np.float32)
    half = dimension // 2
    a[20:40, half : 2 * half], b[20:40, half : 2 * half] = a[20:40, :half], -b[20:40, :half]  # 0, or what is left over
    a[40:60] *= np.float32(2.0) ** rng.integers(-40, 40, (20, dimension)).astype(np.float32)
    a[60:80] = 0
    a[60:80, 0] = b[60:80, 0] = 1
    if dimension > 2:
        a[60:80, 1], b[60:80, 1] = 2.0**-27, 2.0**-26  # 1 + 2^-53: to the even one, unless more follows
        a[70:80, 2], b[70:80, 2] = 2.0**-70, rng.choice([-1, 1], 10) * 2.0**-70
    a[80:90] *= np.float32(1e30)
    a[90:100] *= np.float32(1e-30)
    a[100:110] = 0
    b[110:] = 0
    return a, b


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 64, 257])
def test_exact_scores(dimension: int) -> None:
    a, b = cases(dimension)
    expected = [slow(q, p) for q, p in zip(a, b, strict=True)]
    assert [exact_score(q, p) for q, p in zip(a, b, strict=True)] == expected
    assert exact_scores(a, b).tolist() == expected
    assert exact_scores(a[:0], b[:0]).shape == (0,)


def test_few_are_computed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((2, 5000, 384)) / 20).astype(np.float32)  # of fewer bits, a hundredth is half-way
    expected = [exact_score(q, p) for q, p in zip(a, b, strict=True)]
    asked = spy(monkeypatch, arithmetic, "exact_score")
    assert exact_scores(a, b).tolist() == expected
    assert len(asked) < 50
