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
from xbench.models import Retriever, Searcher
from xbench.ranking import Pool, tie_order
from xbench.records import Collection, Passage, Query
from xbench.retrieve import check_scores

Scores = NDArray[np.float64]
ROWS = 64  # queries of one matrix product, filled up with zeros


@dataclass
class Dense:
    """A retriever over vectors that are there: scores are dot products, ordered as the ranking rule has it."""

    name: str
    identity: dict[str, object]
    encoded: Encoded
    collection: Collection

    @contextlib.contextmanager
    def search(self, passages: Mapping[str, Sequence[Passage]], folder: Path) -> Iterator["Dense._Searcher"]:
        """As `models.Retriever`."""
        doc_ids = [passage.doc_id for rows in passages.values() for passage in rows]
        vectors = self.encoded.vectors["passages"]
        yield Dense._Searcher(self, Pool([vectors[language] for language in passages], doc_ids))

    class _Searcher:
        def __init__(self, dense: "Dense", pool: Pool):
            self._vectors, self._pool = dense.encoded.vectors["queries"], pool
            self._distinct, self._inverse = np.unique(pool.groups, return_inverse=True)
            self._places: dict[str, dict[str, int]] = {
                language: {query.query_id: i for i, query in enumerate(rows)}
                for language, rows in dense.collection.queries.items()
            }

        def scores(self, queries: Sequence[Query], language: str) -> Scores:
            """As `models.Searcher`; every passage is retrieved.

            Products in float64, of blocks of one shape, so that a pair's does not depend on its company; those
            too near to others of their query for float64 to tell are exact, and bytewise equal vectors equal.
            """
            rows = [self._places[language][query.query_id] for query in queries]
            chosen = np.ascontiguousarray(self._vectors[language][rows])
            blocks = [np.zeros((ROWS, chosen.shape[1])) for _ in range(0, len(chosen), ROWS)]
            for i, block in enumerate(blocks):
                part = chosen[i * ROWS : (i + 1) * ROWS]
                block[: len(part)] = part
            found = np.empty((len(chosen), len(self._pool)))
            with threadpool_limits(1):  # more threads may add up in another order
                for low, piece in zip(self._pool.offsets, self._pool.pieces, strict=False):
                    wide = piece.T.astype(np.float64)
                    columns = slice(int(low), int(low) + len(piece))
                    for i, block in enumerate(blocks):
                        some = found[i * ROWS : (i + 1) * ROWS, columns]
                        some[:] = (block @ wide)[: len(some)]
            distinct = found[:, self._distinct]
            doubt = self._pool.doubt(chosen)
            if doubt >= 0:  # else every sum is exact
                near = (np.diff(np.sort(distinct, axis=1), axis=1) <= doubt).any(axis=1)
                for q in np.flatnonzero(near):
                    self._pool.settle(chosen[q], self._distinct, distinct[q], doubt)
            scores: Scores = distinct[:, self._inverse]
            return scores


@dataclass
class Fused:
    """A retriever made of others: `fusion`'s formulas on the scores of its parts."""

    name: str
    identity: dict[str, object]
    parts: Sequence[Retriever]
    weights: Sequence[float] | None

    @classmethod
    def of(cls, name: str, parts: Sequence[Retriever], weights: Sequence[float] | None) -> "Fused":
        """With the identity that is made of those of its parts, in their order, and how they are fused."""
        how: dict[str, object] = {"method": "rrf", "k": RRF_K} if weights is None else {"method": "weighted"}
        own = {"weights": list(weights) if weights else None, "parts": [part.identity for part in parts]}
        return cls(name, {"kind": "fuse", **how, **own}, parts, weights)

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
