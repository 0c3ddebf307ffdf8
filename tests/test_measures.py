"""Measures against trec_eval, exact fractions, identities and examples worked by hand."""

import itertools
import math
from fractions import Fraction

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from xbench.catalogue import parse
from xbench.records import Ranked

Query = list[tuple[int, int]]  # (rank, grade), ranks ascending
POOL = 200
CUTS = (1, 2, 3, 5, 10, 100, 1000)
TREC = {"AP": "map", "RR": "recip_rank", "nDCG": "ndcg", "Rprec": "Rprec"}
TREC_CUT = {"AP": "map_cut", "nDCG": "ndcg_cut", "P": "P", "R": "recall", "Success": "success"}


def ranked(queries: list[Query], pool: int) -> Ranked:
    flat = np.array([pair for query in queries for pair in query], np.int64).reshape(-1, 2)
    return Ranked(np.cumsum([0] + [len(query) for query in queries]), flat[:, 0].astype(float), flat[:, 1], pool)


def value(measure: str, query: Query, pool: int = POOL) -> float:
    return float(parse(measure)(ranked([query], pool))[0])


@pytest.mark.parametrize("pool", [*range(1, 30), 100, 101, 1003])
def test_trec_eval_and_ir_measures_agree(pool: int) -> None:
    """On 4,690 queries of 1 to 15 relevant passages, half of them crowded at the top."""
    rng = np.random.default_rng(pool)
    queries: list[Query] = []
    for i in range(150 if pool < 1000 else 40):
        depth = pool if i % 2 else min(pool, 20)
        ranks = np.sort(rng.choice(depth, rng.integers(1, min(depth, 15) + 1), replace=False)) + 1
        queries.append([(int(rank), int(rng.integers(1, 4))) for rank in ranks])
    qrels = {f"{i}": {f"d{rank}": grade for rank, grade in query} for i, query in enumerate(queries)}
    everything = {f"d{rank}": float(-rank) for rank in range(1, pool + 1)}  # exact in float32, no ties
    run = {key: everything for key in qrels}
    cuts = ",".join(map(str, CUTS))
    wanted = {*TREC.values(), *(f"{theirs}.{cuts}" for theirs in TREC_CUT.values())}
    expected = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    cut = {f"{ours}@{k}": f"{theirs}_{k}" for (ours, theirs), k in itertools.product(TREC_CUT.items(), CUTS)}
    for name, theirs in (TREC | cut).items():
        found = parse(name)(ranked(queries, pool))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, [expected[q][theirs] for q in qrels], rtol=0, atol=1e-12, err_msg=name)
    for k in CUTS if pool < 1000 else ():
        metrics = ir_measures.iter_calc([ir_measures.parse_measure(f"RR@{k}")], qrels, run)
        both = [(value(f"RR@{k}", queries[int(m.query_id)], pool), m.value) for m in metrics]
        assert [abs(ours - theirs) <= 1e-12 for ours, theirs in both] == [True] * len(queries)


queries_of = st.dictionaries(st.integers(1, 12) | st.integers(1, POOL), st.integers(1, 3), min_size=1, max_size=15).map(
    lambda query: sorted(query.items())
)


@given(queries_of, st.integers(1, 210))
@settings(deadline=None, max_examples=300)
def test_fractions_agree(query: Query, k: int) -> None:
    ranks = [rank for rank, _ in query]
    inside = [rank for rank in ranks if rank <= k]
    exact = {
        f"RR@{k}": Fraction(bool(inside), ranks[0]),
        f"P@{k}": Fraction(len(inside), k),
        f"R@{k}": Fraction(len(inside), len(ranks)),
        f"Success@{k}": Fraction(bool(inside)),
        "RR": Fraction(1, ranks[0]),
        "Rprec": Fraction(sum(rank <= len(ranks) for rank in ranks), len(ranks)),
    }
    assert {name: value(name, query) for name in exact} == {name: float(x) for name, x in exact.items()}
    for name, used in (("AP", ranks), (f"AP@{k}", inside)):
        true = sum((Fraction(i, rank) for i, rank in enumerate(used, 1)), Fraction(0)) / len(ranks)
        # One rounding for each quotient, sum and the last division: no error beyond those.
        assert abs(Fraction(value(name, query)) - true) <= true * (len(ranks) + 2) / 2**53, name


@given(queries_of, queries_of)
@settings(deadline=None, max_examples=200)
def test_identities(query: Query, other: Query) -> None:
    size = len(query)
    assert value("RR@1", query) == value("P@1", query) == value("Success@1", query)
    assert value("Rprec", query) == value(f"P@{size}", query) == value(f"R@{size}", query)
    for k in (1, 2, 10, 100):
        assert value(f"R@{k}", query[:1]) == value(f"Success@{k}", query[:1])
        assert value(f"AP@{k}", query[:1]) == value(f"RR@{k}", query[:1])
    for k, family in itertools.product((POOL, POOL + 1), ("AP", "RR", "nDCG")):
        assert value(f"{family}@{k}", query) == value(family, query)
        assert value(f"R@{k}", query) == value(f"Success@{k}", query) == 1
    perfect = list(enumerate(sorted((grade for _, grade in query), reverse=True), 1))
    for name in ("AP", "RR", "Rprec", "nDCG", "nDCG@1", "nDCG@3", "R@15", "Success@1", f"P@{size}"):
        assert 0 <= value(name, query) <= value(name, perfect) == 1
        both = parse(name)(ranked([query, other], POOL))  # a query does not see the others
        assert both.tolist() == [value(name, query), value(name, other)]


THREE, GRADED, LATE = [(1, 1), (3, 1), (10, 1)], [(2, 1), (3, 3), (5, 2)], [(4, 1), (5, 1)]
DCG = [1 / math.log2(1 + rank) for rank in range(1, 12)]  # of grade 1 at rank 1, 2, ...


@pytest.mark.parametrize(
    ("measure", "query", "expected"),
    [
        ("AP@9", THREE, (1 + 2 / 3) / 3),
        ("AP@10", THREE, (1 + 2 / 3 + 3 / 10) / 3),  # rank exactly k counts
        ("AP@2", THREE, 1 / 3),  # over |R|, not over min(k, |R|) = 2
        ("RR@4", LATE, 1 / 4),
        ("RR@3", LATE, 0),
        ("R@2", [(1, 1), (2, 1), (3, 1), (4, 1)], 1 / 2),  # more relevant than k
        ("R@10", [(rank, 1) for rank in range(1, 12)], 10 / 11),  # XQuAD-R's joint pool: never 1
        ("P@100", THREE, 3 / 100),
        ("nDCG@2", THREE, DCG[0] / (DCG[0] + DCG[1])),  # the ideal is cut at k too
        ("nDCG", GRADED, (DCG[1] + 3 * DCG[2] + 2 * DCG[4]) / (3 * DCG[0] + 2 * DCG[1] + DCG[2])),  # linear gain
        ("RankDistance", THREE, 9),
        ("nRankDistance", THREE, (9 - 2) / (POOL - 3)),
    ],
)
def test_by_hand(measure: str, query: Query, expected: float) -> None:
    assert value(measure, query) == pytest.approx(expected, rel=0, abs=1e-15)
