"""FAISS indexes, one per language: exact inner product, searched alone or as a union; approximate, if asked for.

The only importer of faiss, and the owner of its two traps: ids of -1 where fewer than k vectors
exist, and ties cut by position. Neither leaves this file: FAISS only proposes, the ranking rule
decides (`xbench.ranking`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from xbench.arithmetic import Matrix, error_band, largest_norm
from xbench.errors import UsageError
from xbench.ranking import Pool
from xbench.storage import atomic, storage

# An index above this size is written to the cache and mapped from there instead of held.
MAP_BYTES = 1 << 30
CHUNK = 65_536  # vectors added at once


class Index:
    """The flat inner-product index of one language's passages."""

    def __init__(self, index: Any, doc_ids: Sequence[str]):
        self._index = index
        self.doc_ids = doc_ids

    @classmethod
    def build(
        cls, vectors: NDArray[np.float32], doc_ids: Sequence[str], file: Path, map_bytes: int = MAP_BYTES
    ) -> "Index":
        """Index vectors float32 (n, d); above `map_bytes` in `file`, mapped, else in memory.

        Raises:
            StorageError: the file cannot be written.
        """
        index: Any = faiss.IndexFlatIP(vectors.shape[1])
        for low in range(0, len(vectors), CHUNK):
            index.add(np.ascontiguousarray(vectors[low : low + CHUNK]))
        if vectors.nbytes > map_bytes:
            _write(index, file)
            index = _map(file)
        return cls(index, doc_ids)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 (n, d): the index's own memory, not a copy; valid as long as the index lives."""
        n, d = self._index.ntotal, self._index.d
        view: NDArray[np.float32] = faiss.rev_swig_ptr(self._index.get_xb(), n * d).reshape(n, d)
        return view

    def candidates(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """FAISS's own answer: scores and rows (n, min(k, size)), never -1."""
        scores, rows = self._index.search(queries, min(k, self._index.ntotal))
        return scores, rows


def _write(index: Any, file: Path) -> None:
    with atomic(file) as out, storage(file, "write"):
        # Through our file: FAISS's own does not notice that its last write fails.
        faiss.write_index(index, faiss.PyCallbackIOWriter(out.write))  # type: ignore[attr-defined]


def _map(file: Path) -> Any:
    # IO_FLAG_MMAP would copy everything; IO_FLAG_MMAP_IFC is a real map.
    return faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)


class Approximate:
    """An index by FAISS's factory string, of one language's passages, mapped from its file; it only proposes."""

    def __init__(self, file: Path, nprobe: int | None = None):
        """Map the index; `nprobe` lists of an inverted file are searched, by default FAISS's 1."""
        self._index = _map(file)
        if nprobe is not None:
            faiss.extract_index_ivf(self._index).nprobe = nprobe

    @staticmethod
    def check(factory: str, dimension: int, nprobe: int | None) -> None:
        """Refuse what FAISS cannot make.

        Raises:
            UsageError: no such index of vectors of this dimension, or one without lists to probe.
        """
        try:
            index: Any = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            reason = " ".join(str(error).split()).rpartition(": ")[2]
            raise UsageError(f"--index {factory!r}: no FAISS index of {dimension} dimensions: {reason}") from error
        if nprobe is not None and faiss.try_extract_index_ivf(index) is None:
            raise UsageError(f"--index {factory!r} takes no --nprobe: it has no lists; expected IVF... with it")

    @staticmethod
    def build(factory: str, sample: Matrix, matrices: Iterable[Matrix], file: Path) -> None:
        """Train an index on a sample float32 (n, d), add matrices float32 (n_i, d), write it.

        Raises:
            UsageError: FAISS cannot train it, such as with more lists than vectors.
            StorageError: the file cannot be written.
        """
        index: Any = faiss.index_factory(sample.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        try:
            index.train(np.ascontiguousarray(sample))
        except RuntimeError as error:
            reason = " ".join(str(error).split()).rpartition(": ")[2]
            raise UsageError(f"--index {factory!r} on {len(sample)} vectors: {reason}") from error
        for matrix in matrices:
            for low in range(0, len(matrix), CHUNK):
                index.add(np.ascontiguousarray(matrix[low : low + CHUNK]))
        _write(index, file)

    def candidates(self, queries: Matrix, k: int) -> NDArray[np.int64]:
        """int64 (n, k) rows in the order they were added; -1 where fewer were found."""
        rows: NDArray[np.int64] = self._index.search(np.ascontiguousarray(queries), min(k, self._index.ntotal))[1]
        return rows


def search(indexes: Sequence[Index], pool: Pool, queries: NDArray[np.float32], k: int) -> list[list[tuple[int, float]]]:
    """The first k passages of each query in the union of the indexes, by the ranking rule.

    FAISS proposes from each index as many passages as it takes until the last proposal is surely
    worse than the k-th best; so a tie across rank k is never cut by position.

    Args:
        indexes: of the pool's pieces, in the same order.
        pool: the union of their vectors.
        queries: float32 (n, d).
        k: how many passages; all, if there are fewer.

    Returns:
        For each query its (pool row, score) pairs, best first.
    """
    k = min(k, len(pool))
    found: list[list[tuple[int, float]]] = [[] for _ in queries]
    bands = [2 * error_band(len(query), largest_norm(query[None]), pool.norm) for query in queries]
    ask, todo = k + 16, np.arange(len(queries))
    while len(todo):
        parts = [index.candidates(queries[todo], ask) for index in indexes]
        whole = [scores.shape[1] == len(index.doc_ids) for (scores, _), index in zip(parts, indexes, strict=True)]
        left = []
        for r, q in enumerate(todo):
            floor = np.sort(np.concatenate([scores[r] for scores, _ in parts]))[-k] - bands[q]
            if not all(all_ or scores[r, -1] < floor for (scores, _), all_ in zip(parts, whole, strict=True)):
                left.append(q)
                continue
            rows = [
                rows[r][scores[r] >= floor] + offset
                for (scores, rows), offset in zip(parts, pool.offsets, strict=False)
            ]
            found[q] = pool.best(queries[q], np.concatenate(rows), k)
        todo = np.array(left, np.int64)
        ask *= 2
    return found
