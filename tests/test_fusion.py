"""Fusion against its definitions, written out for one query after the other with fractions and dicts."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbench.errors import UsageError
from xbench.fusion import reciprocal_rank, weighted
from xbench.models import Options, load
from xbench.models.fuse import Fusion, split
from xbench.ranking import rule_order, rule_ranks, tie_order

INF = float("inf")
# Few values, so that ties abound; minus infinity is "not retrieved".
SCORES = st.sampled_from([-INF, -1.0, 0.0, 0.25, 0.5, 3.0])


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[str], list[np.ndarray]]:
    doc_ids = draw(st.lists(st.text("ab10:.é", min_size=1, max_size=4), min_size=1, max_size=9, unique=True))
    n, parts = draw(st.integers(1, 3)), draw(st.integers(2, 3))
    row = st.lists(SCORES, min_size=len(doc_ids), max_size=len(doc_ids))
    return doc_ids, [np.array(draw(st.lists(row, min_size=n, max_size=n))) for _ in range(parts)]


def ranked(doc_ids: list[str], scores: np.ndarray) -> list[str]:
    """By the rule: score, then doc_id, both descending."""
    return [d for _, d in sorted(zip(scores.tolist(), doc_ids, strict=True), reverse=True)]


@given(problems())
def test_reciprocal_rank(problem: tuple[list[str], list[np.ndarray]]) -> None:
    doc_ids, parts = problem
    found = reciprocal_rank(parts, tie_order(doc_ids))
    for q in range(len(found)):
        lists = [[d for d in ranked(doc_ids, part[q]) if part[q][doc_ids.index(d)] > -INF] for part in parts]
        for j, doc_id in enumerate(doc_ids):
            shares = [Fraction(1, 60 + found_.index(doc_id) + 1) for found_ in lists if doc_id in found_]
            assert found[q, j] == pytest.approx(float(sum(shares)), abs=1e-15) if shares else found[q, j] == -INF


def test_equal_sums_of_ranks_are_equal() -> None:
    """Ranks 1, 7, 2 and 7, 2, 1 are a tie, for the doc_id to break; added up as they come, floats differ."""
    order = tie_order([f"d{i}" for i in range(9)])
    parts = []
    for a, b in ((1, 7), (7, 2), (2, 1)):
        scores = np.full((1, 9), -INF)
        others = [rank for rank in range(1, 10) if rank not in (a, b)]
        for doc, rank in zip(range(9), [a, b, *others], strict=True):
            scores[0, doc] = -float(rank)
        parts.append(scores)
    found = reciprocal_rank(parts, order)
    assert found[0, 0] == found[0, 1]
    assert 1 / 61 + 1 / 67 + 1 / 62 != 1 / 67 + 1 / 62 + 1 / 61  # so the test can fail


@given(problems())
def test_weighted(problem: tuple[list[str], list[np.ndarray]]) -> None:
    doc_ids, parts = problem
    weights = [0.25, 0.5, 2.0][: len(parts)]
    found = weighted(parts, weights)
    for q in range(len(found)):
        for j in range(len(doc_ids)):
            total, retrieved = Fraction(0), False
            for weight, part in zip(weights, parts, strict=True):
                there = [Fraction(s) for s in part[q].tolist() if s > -INF]
                if part[q, j] > -INF:
                    retrieved = True
                    low, high = min(there), max(there)
                    scaled = (Fraction(part[q, j].item()) - low) / (high - low) if high > low else Fraction(1)
                    total += Fraction(weight) * scaled
            assert found[q, j] == (pytest.approx(float(total), abs=1e-15) if retrieved else -INF)


@given(problems())
def test_rule_ranks(problem: tuple[list[str], list[np.ndarray]]) -> None:
    doc_ids, parts = problem
    order = tie_order(doc_ids)
    ranks = rule_ranks(parts[0], order)
    for q, scores in enumerate(parts[0]):
        assert [doc_ids[j] for j in np.argsort(ranks[q])] == ranked(doc_ids, scores)
        assert sorted(ranks[q]) == list(range(1, len(doc_ids) + 1))
        assert ranks[q][rule_order(scores, order)].tolist() == sorted(ranks[q])


def test_spellings() -> None:
    assert split("fuse:hash+bm25") == [(None, "hash"), (None, "bm25")]
    assert split("fuse:0.3*bm25+.7*hf:a/b@v1") == [(0.3, "bm25"), (0.7, "hf:a/b@v1")]
    assert split("fuse:vectors:a++b+hash") == [(None, "vectors:a+b"), (None, "hash")]
    assert split("fuse:1*a+2*b+3*c") == [(1.0, "a"), (2.0, "b"), (3.0, "c")]
    model = load("fuse:hash+canary:random")
    assert isinstance(model, Fusion) and [part.name for part in model.parts] == ["hash", "canary:random"]
    assert model.weights is None and load("fuse:2*hash+1*canary:random").weights == (2.0, 1.0)
    assert load("fuse:2.50*hash+1*canary:random").name == "fuse:2.5*hash+1*canary:random"


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("fuse:", "0 parts"),
        ("fuse:hash", "1 parts"),
        ("fuse:hash+", "1 parts"),
        ("fuse:hash+hash", "a part twice"),
        ("fuse:.5*hash+canary:random", "some parts only"),
        ("fuse:0*hash+1*canary:random", "a weight of 0"),
        (f"fuse:{'9' * 310}*hash+1*canary:random", "a weight of 0 or beyond"),
        ("fuse:hash+fuse:hash++canary:random", "a fusion in a fusion"),
        ("fuse:hash+canary:nosuch", "unknown canary"),
        ("fuse:hash+nosuch", "unknown model 'nosuch'"),
    ],
)
def test_bad_spellings(spelling: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(spelling)
    assert words in str(caught.value)


def test_options_go_to_the_parts_that_take_them() -> None:
    with pytest.raises(UsageError, match="model 'fuse' takes no --pooling"):
        load("fuse:hash+canary:random", Options(pooling="cls"))
    with pytest.raises(UsageError, match="unknown pooling 'nosuch'"):
        load("fuse:hash+hf:nobody/nothing", Options(pooling="nosuch"))
