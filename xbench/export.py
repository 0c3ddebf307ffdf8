"""TREC runs and qrels of the cells of a stored result, from its cached vectors."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xbench.cutoff import DEPTH, large_identity
from xbench.encode import Encoded, cached
from xbench.errors import IncompleteError, IntegrityError, UsageError
from xbench.index import search
from xbench.models import Given, LargeRetriever, Pooler, Retriever, Searcher, load
from xbench.models.fuse import split
from xbench.progress import track
from xbench.ranking import Pool, tie_order
from xbench.ranks import judge
from xbench.records import Cell, Collection
from xbench.results import Result
from xbench.retrieve import check_scores, first
from xbench.retrievers import Dense, Fused
from xbench.space import Space, languages_of, vectors
from xbench.storage import fingerprint
from xbench.task import Task
from xbench.trec import write_qrels, write_run

SCORES = ("model", "rank")
BLOCK = 64  # queries ranked at once


def stem(task: Task, cell: Cell) -> str:
    """How the files of a cell begin: `xquad-r.cross.ar-de`."""
    return f"{task.name}.{cell.name.replace('/', '.')}"


def export_qrels(task: Task, collection: Collection, cells: Sequence[Cell], folder: Path, suffix: str = "") -> None:
    """Write `<task>.<cell>.qrels.trec`: the queries of each cell and what is relevant in its pool.

    Raises:
        StorageError: a file cannot be written.
    """
    table = judge(collection, languages_of(task, collection))
    language = {doc_id: table.languages[i] for doc_id, i in zip(table.doc_ids, table.doc_language, strict=True)}
    for cell in cells:
        pool = cell.passage_languages
        qrels = {
            q: {d: g for d, g in collection.qrels[q].items() if language.get(d) in pool} for q in table.ranked(cell)[1]
        }
        write_qrels(folder / f"{stem(task, cell)}.qrels.trec{suffix}", qrels)


def export_runs(
    result: Result,
    task: Task,
    collection: Collection,
    cells: Sequence[Cell],
    folder: Path,
    *,
    cache: Path,
    depth: int | None = None,
    scores: str = "model",
    suffix: str = "",
) -> None:
    """Write `<task>.<cell>.run.trec`: the first `depth` passages (all by default) of each query of each cell.

    Args:
        result: of this task; its vectors are taken from the cache, or read again where they were given.
        task, collection: what was evaluated; of a task whose cells have pools of their own, one part.
        cells: which of the collection's.
        folder: where the files go.
        cache: the folder of all stores.
        depth: passages of each query.
        scores: `model`: the exact scores, as float64; `rank`: minus the rank, which a reader that keeps
            float32 (trec_eval 9, pytrec_eval) orders the same way.
        suffix: `.gz` packs the files.

    Raises:
        IncompleteError: the cache lacks vectors.
        IntegrityError: the given vectors are others than those of the result.
        UsageError: the result is that of a run, or of vectors of passages that are too many to hold.
        StorageError: a file cannot be written.
    """
    result = _without_context(result)
    kind = result.model["identity"].get("kind")
    if kind == "run":
        name = result.model["name"]
        raise UsageError(f"{name} was scored from a run: that file is its run; only --qrels-only can be exported")
    pools = contextlib.ExitStack()
    rank: Rank
    if collection.large:
        rank = _of_first(pools.enter_context(_large(result).search_large(collection.large, cache)), collection)
    elif kind in ("bm25", "fuse"):
        pools = found = _Pools(_retriever(result, collection, cache), collection)
        rank = found.rank
    else:
        encoded = _vectors(result.model["name"], result.model["identity"], result, collection, cache)
        folder_ = cache / "indexes" / result.model["fingerprint"]
        rank = _of_vectors(Space.build(encoded, collection, task, folder_), task, collection)
    table = judge(collection, languages_of(task, collection))
    with pools, track("writing runs", len(cells), "cells") as advance:
        for cell in sorted(cells, key=lambda cell: cell.passage_languages):  # a pool at a time
            query_ids = table.ranked(cell)[1]
            lines = _scored(rank(cell, query_ids, depth), scores)
            write_run(folder / f"{stem(task, cell)}.run.trec{suffix}", lines, result.model["slug"])
            advance(1)


Lines = Iterator[tuple[str, list[tuple[str, float]]]]
Rank = Callable[[Cell, list[str], int | None], Lines]


def _scored(lines: Lines, scores: str) -> Lines:
    """With the scores that were asked for."""
    for query_id, passages in lines:
        ranked = [(doc_id, -float(rank)) for rank, (doc_id, _) in enumerate(passages, 1)]
        yield query_id, ranked if scores == "rank" else passages


def _of_vectors(space: Space, task: Task, collection: Collection) -> Rank:
    pools: dict[tuple[str, ...], Pool] = {tuple(space.languages): space.pool}
    asked = [language for language in task.languages if language in collection.queries]

    def rank(cell: Cell, query_ids: list[str], depth: int | None) -> Lines:
        chosen = [space.indexes[space.languages.index(b)] for b in cell.passage_languages]
        doc_ids = [doc_id for index in chosen for doc_id in index.doc_ids]
        if cell.passage_languages not in pools:
            pools[cell.passage_languages] = Pool([index.vectors for index in chosen], doc_ids)
        pool = pools[cell.passage_languages]
        place = {query_id: i for i, query_id in enumerate(collection.ids("queries", cell.query_language))}
        queries = space.queries[asked.index(cell.query_language)][[place[query_id] for query_id in query_ids]]
        for low in range(0, len(queries), BLOCK):
            found = search(chosen, pool, queries[low : low + BLOCK], depth or len(pool))
            for query_id, passages in zip(query_ids[low:], found, strict=False):
                yield query_id, [(doc_ids[row], value) for row, value in passages]

    return rank


def _of_first(searchers: Pooler, collection: Collection) -> Rank:
    """No more than the first passages that are ranked."""

    def rank(cell: Cell, query_ids: list[str], depth: int | None) -> Lines:
        searcher, wanted = searchers.pool(cell.passage_languages), set(query_ids)
        queries = [query for query in collection.queries[cell.query_language] if query.query_id in wanted]
        for low in range(0, len(queries), BLOCK):
            some = queries[low : low + BLOCK]
            found = searcher.hits(some, cell.query_language, min(depth or DEPTH, DEPTH))
            for query, hits in zip(some, found, strict=True):
                yield query.query_id, list(zip(hits.doc_ids, hits.scores, strict=True))

    return rank


def _large(result: Result) -> LargeRetriever:
    """The retriever of a result of large pools."""
    if result.model["identity"].get("kind") != "bm25":
        raise UsageError(
            f"{result.model['name']}: runs of passages that are too many to hold are exported for bm25 alone"
        )
    model = _bm25()
    if not isinstance(model, LargeRetriever) or fingerprint(large_identity(model)) != result.model["fingerprint"]:
        raise IntegrityError(f"bm25: not the one of the result (fingerprint {result.model['fingerprint'][:12]})")
    return model


class _Pools(contextlib.ExitStack):
    """Ranks with a retriever; the index of a pool stays open until another one is asked for.

    What is not retrieved stands last, as it is ranked, with a score below all others of its query.
    """

    def __init__(self, retriever: Retriever, collection: Collection):
        super().__init__()
        self._retriever, self._collection = retriever, collection
        self._open: tuple[tuple[str, ...], Searcher] | None = None

    def _search(self, languages: tuple[str, ...]) -> Searcher:
        if self._open is None or self._open[0] != languages:
            self.close()
            folder = self.enter_context(tempfile.TemporaryDirectory(prefix="xbench."))
            passages = {language: self._collection.passages[language] for language in languages}
            self._open = languages, self.enter_context(self._retriever.search(passages, Path(folder)))
        return self._open[1]

    def rank(self, cell: Cell, query_ids: list[str], depth: int | None) -> Lines:
        """As `Rank`."""
        searcher = self._search(cell.passage_languages)
        doc_ids = [doc_id for b in cell.passage_languages for doc_id in self._collection.ids("passages", b)]
        order, wanted = tie_order(doc_ids), set(query_ids)
        queries = [query for query in self._collection.queries[cell.query_language] if query.query_id in wanted]
        for low in range(0, len(queries), BLOCK):
            some = queries[low : low + BLOCK]
            found = searcher.scores(some, cell.query_language)
            check_scores(self._retriever.name, found, [query.query_id for query in some], len(doc_ids))
            for query, row in zip(some, found, strict=True):
                lost = np.isneginf(row)
                finite = np.where(lost, min(0.0, float(row[~lost].min(initial=0))) - 1, row)
                places = first(row, order, min(depth or len(row), len(row)))
                yield query.query_id, [(doc_ids[i], float(finite[i])) for i in places]


def _without_context(result: Result) -> Result:
    """With the identity that the model has by itself, under which its vectors are kept."""
    identity = {name: value for name, value in result.model["identity"].items() if name != "context"}
    return replace(result, model=result.model | {"identity": identity, "fingerprint": fingerprint(identity)})


def _retriever(result: Result, collection: Collection, cache: Path) -> Retriever:
    """The retriever of a result, made again from what is not code: BM25, cached vectors, vectors in files."""
    name, identity = result.model["name"], result.model["identity"]
    found: Retriever
    if identity["kind"] == "bm25":
        found = _bm25()
    else:
        made: list[Retriever] = []
        for (_, part), own in zip(split(name), identity["parts"], strict=True):
            if own.get("kind") == "bm25":
                made.append(_bm25())
            else:
                made.append(Dense(part, own, _vectors(part, own, result, collection, cache), collection))
        found = Fused.of(name, made, identity["weights"])
    if fingerprint(found.identity) != result.model["fingerprint"]:
        raise IntegrityError(
            f"{name}: not the retriever of the result (fingerprint {result.model['fingerprint'][:12]})"
        )
    return found


def _bm25() -> Retriever:
    model = load("bm25")
    if not isinstance(model, Retriever):
        raise TypeError("bm25 is no retriever")
    return model


def _vectors(name: str, identity: dict[str, object], result: Result, collection: Collection, cache: Path) -> Encoded:
    kind = identity.get("kind")
    if kind not in ("vectors", "canary"):  # a result file comes from anywhere: it may not name code to load
        try:
            return cached(identity, collection, cache)
        except IncompleteError as error:
            raise IncompleteError(f"{error}; make them again: {result.command}") from error
    model = load(name) if name.startswith(f"{kind}:") else None
    if not isinstance(model, Given):
        raise IntegrityError(f"model {name!r} is not of the kind {kind!r} that its result says")
    encoded = vectors(model, collection, cache)
    if fingerprint(model.identity) != fingerprint(identity):
        raise IntegrityError(f"{name}: not the vectors of the result (fingerprint {result.model['fingerprint'][:12]})")
    return encoded
