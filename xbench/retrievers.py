"""Retrievers made of models: vectors as scores, and several models fused."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from xbench.encode import Encoded
from xbench.fusion import RRF_K, reciprocal_rank, weighted
from xbench.index import Index
from xbench.models import Retriever, Searcher
from xbench.ranking import Pool, tie_order
from xbench.records import Collection, Passage, Query
from xbench.retrieve import check_scores

Scores = NDArray[np.float64]


@dataclass
class Dense:
    """A retriever over vectors that are there: scores are dot products in float64.

    Passages with bytewise equal vectors have equal scores, whatever the product's blocks are.
    """

    name: str
    identity: dict[str, object]
    encoded: Encoded
    collection: Collection

    @contextlib.contextmanager
    def search(self, passages: Mapping[str, Sequence[Passage]], folder: Path) -> Iterator["Dense._Searcher"]:
        """As `models.Retriever`."""
        doc_ids = {language: [passage.doc_id for passage in rows] for language, rows in passages.items()}
        vectors = self.encoded.vectors["passages"]
        indexes = [Index.build(vectors[a], ids, folder / f"{a}.faiss") for a, ids in doc_ids.items()]
        pool = Pool([index.vectors for index in indexes], [id_ for ids in doc_ids.values() for id_ in ids])
        yield Dense._Searcher(self, pool, indexes)

    class _Searcher:
        def __init__(self, dense: "Dense", pool: Pool, indexes: Sequence[Index]):
            self._vectors, self._indexes = dense.encoded.vectors["queries"], indexes
            self._pieces, self._groups = [piece.T.astype(np.float64) for piece in pool.pieces], pool.groups
            self._places: dict[str, dict[str, int]] = {
                language: {query.query_id: i for i, query in enumerate(rows)}
                for language, rows in dense.collection.queries.items()
            }

        def scores(self, queries: Sequence[Query], language: str) -> Scores:
            """As `models.Searcher`; every passage is retrieved."""
            rows = [self._places[language][query.query_id] for query in queries]
            chosen = self._vectors[language][rows].astype(np.float64)
            with threadpool_limits(1):  # more threads may add up in another order
                parts = [chosen @ piece for piece in self._pieces]
            scores: Scores = np.concatenate(parts, axis=1)[:, self._groups]
            return scores


@dataclass
class Fused:
    """A retriever made of others: `fusion`'s formulas on the scores of its parts."""

    name: str
    identity: dict[str, object]
    parts: Sequence[Retriever]
    weights: Sequence[float] | None

    @contextlib.contextmanager
    def search(self, passages: Mapping[str, Sequence[Passage]], folder: Path) -> Iterator["Fused._Searcher"]:
        """As `models.Retriever`."""
        order = tie_order([passage.doc_id for rows in passages.values() for passage in rows])
        with contextlib.ExitStack() as stack:
            searchers = []
            for i, part in enumerate(self.parts):
                own = folder / str(i)
                own.mkdir()
                searchers.append(stack.enter_context(part.search(passages, own)))
            yield Fused._Searcher(self, searchers, order)

    class _Searcher:
        def __init__(self, fused: "Fused", searchers: Sequence[Searcher], order: NDArray[np.int64]):
            self._fused, self._searchers, self._order = fused, searchers, order

        def scores(self, queries: Sequence[Query], language: str) -> Scores:
            """As `models.Searcher`; minus infinity for what no part has retrieved."""
            parts = [searcher.scores(queries, language) for searcher in self._searchers]
            for part, scores in zip(self._fused.parts, parts, strict=True):
                check_scores(part.name, scores, [query.query_id for query in queries], len(self._order))
            if self._fused.weights is None:
                return reciprocal_rank(parts, self._order)
            return weighted(parts, self._fused.weights)


def fusion_identity(parts: Sequence[dict[str, object]], weights: Sequence[float] | None) -> dict[str, object]:
    """The identity of a fusion: of its parts, in their order, and how they are fused."""
    how: dict[str, object] = {"method": "rrf", "k": RRF_K} if weights is None else {"method": "weighted"}
    return {"kind": "fuse", **how, "weights": list(weights) if weights else None, "parts": list(parts)}
