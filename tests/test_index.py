"""FAISS proposes, the ranking rule decides: against a slow sort by exact scores."""

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_ranking import copies, dots, slow_order, spy

from xbench import index as module
from xbench.errors import StorageError
from xbench.index import Index, search
from xbench.ranking import Pool, error_band, float64_doubt, largest_norm

Matrix = NDArray[np.float32]
FILE = Path("unused.faiss")


def union(pieces: list[Matrix], doc_ids: list[str] | None = None) -> tuple[list[Index], Pool, list[str]]:
    """The indexes of the pieces, their pool and all doc_ids: in no order, unless given."""
    cuts = np.cumsum([0] + [len(p) for p in pieces])
    ids = doc_ids or [f"é{j}" for j in np.random.default_rng(0).permutation(cuts[-1])]
    indexes = [Index.build(p, ids[a:b], FILE) for p, (a, b) in zip(pieces, itertools.pairwise(cuts), strict=True)]
    return indexes, Pool([i.vectors for i in indexes], ids), ids


def rows_of(found: list[list[tuple[int, float]]]) -> list[list[int]]:
    return [[row for row, _ in passages] for passages in found]


def similar(d: int, *counts: int) -> list[Matrix]:
    """Matrices of one set of vectors, full of duplicates and near-duplicates."""
    return np.split(copies(np.random.default_rng(d), sum(counts), d), np.cumsum(counts)[:-1])


@pytest.mark.parametrize("order", ["C", "F"])
def test_vectors_are_the_indexs_own_memory(order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    vectors, eye = np.asarray(similar(5, 100)[0], order=order), np.eye(5, dtype=np.float32)
    index = Index.build(vectors, [f"{j}" for j in range(100)], FILE, vectors.nbytes)
    assert not FILE.exists()
    assert (index.vectors.dtype, index.vectors.tobytes()) == (np.float32, vectors.tobytes())
    before = index.candidates(eye, 1)[0]
    index.vectors[:] *= 2  # the index sees it, so this is no copy
    np.testing.assert_array_equal(index.candidates(eye, 1)[0], before * 2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_large_index_is_mapped_and_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((700, 256), dtype=np.float32)
    file = tmp_path / "new folder" / "i.faiss"
    for limit, mapped in ((vectors.nbytes - 1, True), (vectors.nbytes, False)):
        index = Index.build(vectors, ["x"] * len(vectors), file, limit)
        np.testing.assert_array_equal(index.vectors, vectors)
        assert (file_behind(index.vectors.ctypes.data) == str(file)) == mapped
        np.testing.assert_array_equal(index.candidates(vectors[:9], 1)[1][:, 0], (vectors[:9] @ vectors.T).argmax(1))
    assert [path.stat().st_size >= vectors.nbytes for path in file.parent.iterdir()] == [True]


def file_behind(address: int) -> str:
    """What the kernel says lies at an address of this process: a mapped file, or nothing."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            return line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
    raise AssertionError("the address is not mapped")


@pytest.mark.parametrize("missing", [1, 100, 50_000])
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(missing: int, tmp_path: Path) -> None:
    resource: Any = pytest.importorskip("resource")
    vectors = np.ones((1000, 64), np.float32)
    size = vectors.nbytes + 45  # FAISS's header of a flat index
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*i\.faiss: .*; free space or choose another folder"):
            Index.build(vectors, ["x"] * 1000, tmp_path / "i.faiss", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("d", [1, 5, 384])
@pytest.mark.parametrize("sizes", [(400,), (220, 17, 163)])
def test_search_is_a_prefix_of_the_slow_order(sizes: tuple[int, ...], d: int) -> None:
    queries, *pieces = similar(d, 12, *sizes)
    indexes, pool, doc_ids = union(pieces)
    vectors = np.concatenate(pieces)
    orders = [slow_order(query, vectors, doc_ids) for query in queries]
    for k in (1, 3, 10, 100, 101, 400, 1000):  # 1000: no more than there are, no -1
        assert rows_of(search(indexes, pool, queries, k)) == [order[:k] for order in orders], k
    for query, passages in zip(queries, search(indexes, pool, queries, 400), strict=True):
        true, doubt = dots(query, vectors), float64_doubt(d, largest_norm(query[None]) * pool.norm)
        for (i, score), (j, other) in itertools.pairwise(passages):
            assert abs(score - true[i]) <= doubt
            assert true[i] - true[j] > doubt / 2 or (score, other) == (true[i], true[j])


@pytest.mark.parametrize("d", [7, 384])
def test_neither_batch_nor_k_changes_a_bit(d: int) -> None:
    queries, *pieces = similar(d, 130, 1500, 500)
    indexes, pool, _ = union(pieces)
    whole = search(indexes, pool, queries, 101)
    for batch in (1, 8, 20, 64):
        found = [p for low in range(0, 130, batch) for p in search(indexes, pool, queries[low : low + batch], 101)]
        assert found == whole, batch
    for k in (1, 3, 10, 100):
        assert search(indexes, pool, queries, k) == [passages[:k] for passages in whole], k
    assert [passages[:101] for passages in search(indexes, pool, queries[:9], 2000)] == whole[:9]


@pytest.mark.parametrize("n", [6, 1000])
def test_equal_vectors_are_cut_by_doc_id(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS alone gives positions 2 1 0 for k = 3 of six equal vectors, and 5 4 3 2 1 0 for k = 6."""
    asked = spy(monkeypatch, Index, "candidates")
    indexes, pool, doc_ids = union([np.ones((n, 3), np.float32)])
    by_id = sorted(range(n), key=doc_ids.__getitem__, reverse=True)
    for k in (1, 3, 6):
        assert search(indexes, pool, np.full((1, 3), 0.5, np.float32), k) == [[(row, 1.5) for row in by_id[:k]]]
    assert max(k for _, _, k in asked) >= n  # to the end of the tie, in few steps
    assert len(asked) <= 3 * (2 + math.log2(n / 16 + 1))


def test_a_tie_across_indexes_is_cut_by_doc_id() -> None:
    top, low = np.full((40, 2), 2, np.float32), np.ones((40, 2), np.float32)
    indexes, pool, _ = union([np.concatenate([top, low]), top], [f"{j:03d}" for j in range(120)])
    found = search(indexes, pool, np.ones((2, 2), np.float32), 90)
    assert rows_of(found) == [[*range(119, 79, -1), *range(39, -1, -1), *range(79, 69, -1)]] * 2


def test_proposals_that_err_as_far_as_they_may_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose scores are off by nearly the error band, up or down, for easy and hard queries by turns."""
    rng = np.random.default_rng(0)
    easy, hard = np.linspace(0.1, 1, 100), 1 + rng.integers(-3, 4, 100) * 2.0**-23
    vectors = rng.permutation(np.concatenate([np.outer(easy, [1, 0]), np.outer(hard, [0, 1])])).astype(np.float32)
    queries = (np.eye(2)[[0, 1, 0, 1]] * rng.uniform(0.5, 2, (4, 1))).astype(np.float32)
    indexes, pool, doc_ids = union([vectors[:5], vectors[5:]])

    def candidates(self: Index, queries: Matrix, k: int) -> tuple[Matrix, NDArray[np.int64]]:
        true = np.array([dots(query, self.vectors) for query in queries])
        bands = np.array([[error_band(2, largest_norm(query[None]), pool.norm)] for query in queries])
        scores = (true + bands * rng.choice([-0.8, 0.8], true.shape)).astype(np.float32)
        rows = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, rows, axis=1), rows

    monkeypatch.setattr(Index, "candidates", candidates)
    for k in (1, 5, 90):
        assert rows_of(search(indexes, pool, queries, k)) == [slow_order(q, vectors, doc_ids)[:k] for q in queries]


def test_indexes_smaller_than_k_are_not_padded_and_nothing_is_searched_for_nothing() -> None:
    eye = np.eye(3, dtype=np.float32)
    indexes, pool, doc_ids = union([eye[:1], eye[1:]])
    scores, rows = indexes[0].candidates(eye, 5)
    assert (scores.tolist(), rows.tolist()) == ([[1], [0], [0]], [[0], [0], [0]])
    for queries in (eye, -eye, 0 * eye):
        assert rows_of(search(indexes, pool, queries, 5)) == [slow_order(query, eye, doc_ids) for query in queries]
    assert search(indexes, pool, eye[:0], 3) == []
    assert search(indexes, pool, eye, 0) == [[], [], []]
