"""The first passages of all queries against a slow sort by exact scores, on vectors made to mislead it."""

import itertools

import numpy as np
import pytest
from test_ranking import KINDS, copies, make, normal, slow_order, spy

from xbench import counting
from xbench.ranking import Pool
from xbench.top import first_passages


@pytest.mark.parametrize("d", [1, 3, 64, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_are_those_of_the_slow_order(kind: str, d: int) -> None:
    case = make(kind, d)
    pool, passages = Pool(case.pieces, case.doc_ids), np.concatenate(case.pieces)
    orders = [slow_order(query, passages, case.doc_ids) for query in np.concatenate(case.queries)]
    for k in (1, 2, 20, len(pool), 10**6):
        found = first_passages(case.queries, pool, k)
        assert (found.dtype, found.shape) == (np.int32, (len(orders), min(k, len(pool))))
        assert found.tolist() == [order[:k] for order in orders], k


@pytest.mark.parametrize("kind", ["copies", "grid", "constant", "normal"])
def test_blocks_and_threads_move_nothing(kind: str) -> None:
    """In a pool large enough that a floor under the scores is looked for."""
    rng, d, n = np.random.default_rng(3), 32, 1500
    queries, passages = (function(rng, size, d) for function, size in zip(KINDS[kind], (65, n), strict=True))
    doc_ids = [f"{i}" for i in rng.permutation(n)]
    pool = Pool([passages[:1100], passages[1100:]], doc_ids)
    slow = [slow_order(query, passages, doc_ids)[:40] for query in queries]
    for block, threads in itertools.product((1, 7, 64, None), (1, 2)):
        assert first_passages([queries[:30], queries[30:]], pool, 40, block=block, threads=threads).tolist() == slow


def test_equal_vectors_that_a_product_makes_unequal_stand_by_doc_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """BLAS may round the same row differently at another place."""
    rng = np.random.default_rng(0)
    queries, passages = normal(rng, 9, 48), np.repeat(normal(rng, 30, 48), 4, axis=0)
    doc_ids = [f"{i:03}" for i in rng.permutation(120)]
    multiply = counting.multiply

    def wavering(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        multiply(a, b, out)
        out *= 1 + rng.integers(-1, 2, out.shape).astype(np.float32) * np.float32(2**-23)

    monkeypatch.setattr(counting, "multiply", wavering)
    found = first_passages([queries], Pool([passages], doc_ids), 50)
    assert found.tolist() == [slow_order(query, passages, doc_ids)[:50] for query in queries]


def test_few_pass_the_floor_and_few_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    queries, passages = normal(rng, 100, 64), copies(rng, 4000, 64)
    dots = spy(monkeypatch, Pool, "dot")
    advanced: list[int] = []
    doc_ids = [f"{i}" for i in range(4000)]
    first_passages([queries], Pool([passages], doc_ids), 20, block=30, advance=advanced.append)
    assert advanced == [30, 30, 30, 10]
    assert sum(len(call[2]) for call in dots) < 100 * 4000 / 20
