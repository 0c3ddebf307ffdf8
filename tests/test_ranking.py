"""Ranks by counting against a slow sort by exact scores, on vectors made to mislead it."""

import itertools
import math
import os
from collections.abc import Callable
from fractions import Fraction
from operator import mul
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xbench import counting, ranking
from xbench.arithmetic import multiply
from xbench.errors import ModelOutputError
from xbench.ranking import Pool, error_band, float64_doubt, grid, largest_norm, passages_above, tie_order
from xbench.records import Judged
from xbench.threads import cores

Matrix = NDArray[np.float32]
Make = Callable[[np.random.Generator, int, int], Matrix]


class Case(NamedTuple):
    queries: list[Matrix]
    pieces: list[Matrix]
    doc_ids: list[str]
    judged: Judged


def dots(query: Matrix, passages: Matrix) -> list[float]:
    """The exact dot products, each rounded once: products of two float32 are exact as floats."""
    left = query.tolist()
    return [math.fsum(map(mul, left, right)) for right in passages.tolist()]


def slow_order(query: Matrix, passages: Matrix, doc_ids: list[str]) -> list[int]:
    """All rows by score descending, then doc_id (UTF-8 bytes) descending."""
    scores = dots(query, passages)
    return sorted(range(len(scores)), key=lambda j: (scores[j], doc_ids[j].encode()), reverse=True)


def slow_above(case: Case) -> NDArray[np.int64]:
    """(nnz, pieces) by sorting every passage for every query."""
    piece = np.repeat(np.arange(len(case.pieces)), [len(p) for p in case.pieces])
    passages, relevant, above = np.concatenate(case.pieces), np.split(case.judged.rows, case.judged.indptr[1:-1]), []
    for query, rows in zip(np.concatenate(case.queries), relevant, strict=True):
        order = slow_order(query, passages, case.doc_ids) if len(rows) else []
        above += [np.bincount(piece[order[: order.index(row)]], minlength=len(case.pieces)) for row in rows]
    return np.array(above)


def count(case: Case, **options: int) -> NDArray[np.int32]:
    return passages_above(case.queries, Pool(case.pieces, case.doc_ids), case.judged, **options)


def spy(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[Any]:
    """The arguments of each call of `owner.name` from now on."""
    calls: list[Any] = []
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **more: (calls.append(args), original(*args, **more))[1])
    return calls


def normal(rng: np.random.Generator, n: int, d: int) -> Matrix:
    return (rng.standard_normal((n, d)) / math.sqrt(d)).astype(np.float32)


def copies(rng: np.random.Generator, n: int, d: int) -> Matrix:
    """A fifth exact duplicates, two fifths near-duplicates, 1e-6 or 1e-7 apart."""
    out = normal(rng, n, d)
    kind, source = rng.random(n), rng.integers(0, max(1, n // 5), n)
    out[kind < 0.6] = out[source[kind < 0.6]]
    near = (kind > 0.2) & (kind < 0.6)
    out[near] += normal(rng, int(near.sum()), d) * rng.choice([1e-6, 1e-7], (int(near.sum()), 1))
    return out


def signed_zeros(rng: np.random.Generator, n: int, d: int) -> Matrix:
    """Copies that differ in the sign of their zeros: equal scores of vectors that are not bytewise equal."""
    out = normal(rng, max(1, n // 4), d)[rng.integers(0, max(1, n // 4), n)]
    out[:, : d // 2] = 0
    return np.where((out == 0) & (rng.random((n, d)) < 0.5), np.float32(-0.0), out)


def shuffled(rng: np.random.Generator, n: int, d: int) -> Matrix:
    """Rows whose dot products with (1e-9, c, c, ...) are 0, 1 or 2 e-15, lost in large terms that cancel."""
    half = rng.standard_normal((1, (d - 1) // 2)) * 10 ** rng.uniform(-3, 3, (1, (d - 1) // 2))
    terms = np.hstack([half, -half, np.zeros((1, 1 - d % 2))]).repeat(n, axis=0)
    return np.hstack([rng.integers(0, 3, (n, 1)) * 1e-6, rng.permuted(terms, axis=1)]).astype(np.float32)


def spread(rng: np.random.Generator, n: int, d: int) -> Matrix:
    return (normal(rng, n, d) * 10 ** rng.uniform(-3, 3, (n, 1))).astype(np.float32)


def gridded(rng: np.random.Generator, n: int, d: int) -> Matrix:
    return (np.rint(normal(rng, n, d) * 64) / 4096).astype(np.float32)


def integers(rng: np.random.Generator, n: int, d: int) -> Matrix:
    return rng.integers(-2, 3, (n, d)).astype(np.float32)


def headed(n: int, d: int, head: float, tail: float) -> Matrix:
    """Rows (head, tail, tail, ...)."""
    return np.where(np.arange(d) == 0, head, np.full((n, d), tail)).astype(np.float32)


def stagnating(rng: np.random.Generator | None, n: int, d: int) -> Matrix:
    """Summed from the left, each square after the first is half an ulp, which float32 rounds away."""
    return headed(n, d, 1, 2.0**-12)


KINDS: dict[str, tuple[Make, Make]] = {  # queries, passages
    "normal": (normal, normal),
    "copies": (normal, copies),
    "signed zeros": (normal, signed_zeros),
    "shuffled": (lambda rng, n, d: headed(n, d, 1e-9, 1e5 / 3), shuffled),
    "spread": (spread, spread),
    "minute": (lambda *a: normal(*a) * np.float32(1e-24), lambda *a: copies(*a) * np.float32(1e-25)),
    "huge": (lambda *a: normal(*a) * np.float32(1e18), lambda *a: copies(*a) * np.float32(1e18)),
    "grid": (gridded, lambda *a: gridded(*a)[a[0].integers(0, a[1], a[1])]),
    "integers": (integers, integers),
    "nothing": (normal, lambda rng, n, d: rng.choice(np.array([0, -0.0], np.float32), (n, d))),
    "one grid": (integers, copies),
    "grids too far apart": (lambda *a: gridded(*a) + 9, lambda *a: integers(*a) * 1001),
    "constant": (lambda rng, n, d: headed(n, d, 0.3, 0.3), lambda rng, n, d: headed(n, d, 0.3, 0.3)),
}


def make(kind: str, d: int, sizes: tuple[int, ...] = (103, 0, 41, 9), queries: tuple[int, ...] = (7, 0, 6)) -> Case:
    """A case with ragged relevant lists, some empty, and doc_ids in no order."""
    rng = np.random.default_rng([d, *kind.encode()])
    lists = [rng.choice(sum(sizes), rng.integers(0, 6) * (i % 4 > 0), replace=False) for i in range(sum(queries))]
    indptr, rows = np.cumsum([0] + [len(rows) for rows in lists]), np.concatenate(lists).astype(np.int64)
    cuts = zip(KINDS[kind], (queries, sizes), strict=True)  # of one matrix: duplicates across languages too
    parts = [np.split(function(rng, sum(cut), d), np.cumsum(cut)[:-1]) for function, cut in cuts]
    doc_ids = [f"{'aéж中😀'[j % 5]}:{j}" for j in rng.permutation(sum(sizes))]
    return Case(parts[0], parts[1], doc_ids, Judged(indptr, rows, np.ones_like(rows)))


@pytest.mark.parametrize("d", [1, 7, 384, 768])
@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_a_slow_sort(kind: str, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(kind, d)
    expected = slow_above(case)
    bands, decisions = spy(monkeypatch, ranking, "error_band"), spy(monkeypatch, ranking._Block, "_decide")
    sums = spy(monkeypatch, ranking, "exact_score")
    np.testing.assert_array_equal(count(case), expected)
    assert (len(bands) == 0) == (kind in ("grid", "integers"))  # which float32 adds up without rounding
    assert len(sums) > 20 or kind not in ("signed zeros", "shuffled") or d == 1
    for name, value in {"SEGMENT": 24, "TILE_BYTES": 12800, "PENDING": 5}.items():
        monkeypatch.setattr(ranking, name, value)  # many small segments, tiles, groups and decisions
    monkeypatch.setattr(counting, "GROUP_BYTES", 500)
    monkeypatch.setattr(ranking, "hash", lambda row: 0, raising=False)  # that they collide makes no ties
    np.testing.assert_array_equal(count(case), expected)
    monkeypatch.setattr(ranking, "grid", lambda matrix: None)
    bands.clear(), decisions.clear()
    np.testing.assert_array_equal(count(case), expected)
    assert len(decisions) > len(bands) > 0  # each block decides at its end, and before when much is open


@pytest.mark.parametrize("kind", ["normal", "copies", "integers", "constant"])
def test_pools_larger_than_a_segment(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(kind, 3, (4099, 2041, 1, 2040), (9, 4))
    monkeypatch.setattr(ranking, "TILE_BYTES", 4 * 64 * 2048)
    assert len(Pool(case.pieces, case.doc_ids).tiles(2048)) == 3
    np.testing.assert_array_equal(count(case), slow_above(case))


@pytest.mark.parametrize("kind", ["copies", "grid"])
def test_batching_and_threads_change_no_count(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(kind, 128, (2500, 300), (40, 30))
    pool, expected = Pool(case.pieces, case.doc_ids), slow_above(case).astype(np.int32)
    for size in (4 * 64, 4 * 64 * 500, 1 << 25):
        monkeypatch.setattr(ranking, "TILE_BYTES", size)
        for block, threads in itertools.product((1, 7, 64, None), (1, 2)):
            found = passages_above(case.queries, pool, case.judged, threads=threads, block=block)
            assert found.tobytes() == expected.tobytes(), (size, block, threads)


@pytest.mark.parametrize("d", [20, 64, 90, 384, 768, 1024])
@pytest.mark.parametrize("block", [1, 64])
def test_rounding_that_always_errs_the_same_way_moves_no_rank(d: int, block: int) -> None:
    queries = stagnating(None, 64, d)
    worse = queries[0].copy()
    worse[-(d // 12 + 1) :] = 0  # scores 1 + 11/12 d u; the others 1 + d u, which sums from the left take for 1
    judged = Judged(np.arange(65), np.zeros(64, np.int64), np.ones(64, np.int64))
    case = Case([queries], [np.concatenate([[worse], queries])], [f"{j:02d}" for j in range(65)], judged)
    np.testing.assert_array_equal(count(case, block=block), np.full((64, 1), 64))


def test_order_of_rows_and_languages_changes_no_rank() -> None:
    case, rng, turn = make("copies", 7), np.random.default_rng(0), [2, 0, 3, 1]
    within = [rng.permutation(len(p)) for p in case.pieces]
    offsets = np.cumsum([0] + [len(p) for p in case.pieces])
    old = np.concatenate([offsets[i] + within[i] for i in turn])  # the old row of each new row
    pieces, doc_ids = [case.pieces[i][within[i]] for i in turn], [case.doc_ids[j] for j in old]
    moved = Case(case.queries, pieces, doc_ids, case.judged._replace(rows=np.argsort(old)[case.judged.rows]))
    np.testing.assert_array_equal(count(moved), count(case)[:, turn])


def test_a_constant_model_is_ranked_by_doc_id() -> None:
    vectors, judged = headed(50, 8, 0.1, 0.1), Judged(np.arange(51), np.arange(50), np.ones(50, np.int64))
    ranks = 1 + count(Case([vectors], [vectors], [f"{j:02d}" for j in range(50)], judged))
    assert ranks[:, 0].tolist() == list(range(50, 0, -1))  # so the mean RR is H(50) / 50, not 1


def test_nothing_relevant_and_nothing_named() -> None:
    none = Judged(np.zeros(14, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert count(make("normal", 7)._replace(judged=none)).shape == (0, 4)
    with pytest.raises(ValueError, match="2 doc_ids for 3 rows"):
        Pool([np.ones((3, 2), np.float32)], ["a", "b"])


@pytest.mark.parametrize(("left", "right"), [(1e20, 1e19), (3e38, 1), (np.inf, 1), (np.nan, 1), (np.inf, 0)])
def test_norms_that_overflow_are_refused(left: float, right: float) -> None:
    with pytest.raises(ModelOutputError, match="overflow float32; normalise"):
        queries, pieces = [headed(7, 1, 1, 0), headed(6, 1, left, 0)], [headed(150, 1, right, 0), headed(3, 1, 0, 0)]
        count(make("normal", 1)._replace(queries=queries, pieces=pieces))


@pytest.mark.parametrize("d", [1, 7, 384])
@pytest.mark.parametrize("kind", KINDS)
def test_best_is_the_slow_order_and_its_scores_are_exact_where_they_decide(kind: str, d: int) -> None:
    case, rng = make(kind, d), np.random.default_rng(1)
    pool, passages = Pool(case.pieces, case.doc_ids), np.concatenate(case.pieces)
    for query in np.concatenate(case.queries)[:3]:
        true, order = dots(query, passages), slow_order(query, passages, case.doc_ids)
        doubt = float64_doubt(d, math.hypot(*query.tolist()) * max(math.hypot(*p) for p in passages.tolist()))
        for rows in (np.arange(len(pool)), rng.permutation(len(pool))[:100]):
            whole = pool.best(query, rows, 1000)
            assert [j for j, _ in whole] == [j for j in order if j in set(rows.tolist())]
            assert [pool.best(query, rows, k) for k in (1, 10)] == [whole[:1], whole[:10]]
            assert all(abs(score - true[j]) <= doubt for j, score in whole)
            for (i, score), (j, other) in itertools.pairwise(whole):
                assert true[i] - true[j] > doubt / 2 or (score, other) == (true[i], true[j])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), unique=True, max_size=30))
@example(["\U0001f600", "\uff01", "Z", "a"])
@settings(deadline=None, max_examples=200)
def test_ties_are_ordered_as_utf8(doc_ids: list[str]) -> None:
    assert [doc_ids[i] for i in np.argsort(tie_order(doc_ids))] == sorted(doc_ids, key=str.encode)


def from_left(query: Matrix, passages: Matrix, kind: type) -> NDArray[Any]:
    """Dot products summed from the left, rounded to `kind` at every step."""
    return np.cumsum(np.multiply(query, passages, dtype=kind), axis=1, dtype=kind)[:, -1]


@pytest.mark.parametrize("d", [1, 2, 7, 64, 257, 384, 768, 1024])
@pytest.mark.parametrize("make", [normal, spread, gridded, shuffled, stagnating])
def test_bands_hold_for_sums_in_any_order(make: Make, d: int) -> None:
    made, wave = make(np.random.default_rng(d), 65, d), np.where(np.arange(d) % 2, 1e-4, -1).astype(np.float32)
    for matrix in (made, abs(made), made[:, ::-1].copy(), made * wave, made * np.float32(1e-22)):
        query, passages, norms = matrix[0], matrix[1:], (largest_norm(matrix[:1]), largest_norm(matrix[1:]))
        true, pool = dots(query, passages), Pool([passages], [f"{j}" for j in range(64)])
        for sums in (pool.dot(matrix, np.zeros(64, int), np.arange(64)), from_left(query, passages, np.float64)):
            assert 2 * np.abs(sums - true).max() <= float64_doubt(d, math.prod(norms))
        one_by_one, pairwise = [query @ passage for passage in passages], (query * passages).sum(axis=1)
        for sums in ((matrix @ passages.T)[0], one_by_one, pairwise, from_left(query, passages, np.float32)):
            assert np.abs(np.asarray(sums, np.float64) - true).max() <= error_band(d, *norms)
        multiply(matrix, passages, product := np.empty((65, 64), np.float32))
        assert np.abs(product[0].astype(np.float64) - true).max() <= error_band(d, *norms, split=True)


@pytest.mark.parametrize("d", [3, 64, 768])
def test_float64_doubt_holds_for_two_sums_that_err_apart(d: int) -> None:
    query, down = headed(1, d, 1, 2.0**-26), headed(1, d, 1, 2.0**-27)  # products of half an ulp: rounded down
    up = headed(1, d, 1, 2.0**-27 * (1 + 2.0**-20))  # of a hair more: up
    up[0, -1] = 0
    (low, high), true = from_left(query, np.vstack([down, up]), np.float64), dots(query[0], np.vstack([down, up]))
    assert true[0] >= true[1]
    assert 2 * (d - 2) * 2.0**-53 <= high - low <= float64_doubt(d, largest_norm(query) * largest_norm(down))


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-22, 1, 1e18, 1e38])
@pytest.mark.parametrize("d", [1, 3, 100])
def test_largest_norm_is_an_upper_bound(d: int, scale: float) -> None:
    matrix = normal(np.random.default_rng(d), 9, d) * np.float32(scale)
    true = max(sum(Fraction(x) ** 2 for x in row) for row in matrix.tolist())
    assert true <= Fraction(largest_norm(matrix)) ** 2 <= true * (1 + Fraction(1, 10**9))
    assert largest_norm(matrix[:0]) == 0


@given(st.lists(st.tuples(st.integers(-9999, 9999), st.integers(0, 23)), max_size=12), st.sampled_from([1, 2, 3]))
@settings(deadline=None, max_examples=200)
def test_grid_is_the_finest_power_of_two(values: list[tuple[int, int]], d: int) -> None:
    matrix = np.array([m / 2**s for m, s in values[: len(values) // d * d]], np.float32).reshape(-1, d)
    s = max((Fraction(x).denominator.bit_length() - 1 for x in matrix.ravel().tolist()), default=0)
    assert grid(matrix) == (s if s <= 20 else None)


def test_grid_looks_at_every_row() -> None:
    matrix = np.zeros((17, 1 << 17), np.float32)  # it looks at 8 of these at once
    matrix[-1, -1] = 0.375
    assert grid(matrix) == 3


@pytest.mark.parametrize("wish", ["1", "9999", "0", "-1", "", "all", "4,2", "\u00b2"])
def test_cores(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores() == allowed
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    assert cores() == (1 if wish == "1" else allowed)
