"""TREC runs and qrels of the cells of a stored result, from its cached vectors."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xbench.encode import Encoded, cached
from xbench.errors import IncompleteError, IntegrityError, UsageError
from xbench.evaluate import Space, vectors
from xbench.index import Index, search
from xbench.models import Given, load
from xbench.progress import track
from xbench.ranking import Pool
from xbench.ranks import judge
from xbench.records import Cell, Collection
from xbench.results import Result
from xbench.storage import fingerprint
from xbench.tasks import Task
from xbench.trec import write_qrels, write_run

SCORES = ("model", "rank")


def stem(task: Task, cell: Cell) -> str:
    """How the files of a cell begin: `xquad-r.cross.ar-de`."""
    return f"{task.name}.{cell.name.replace('/', '.')}"


def export_qrels(task: Task, collection: Collection, cells: Sequence[Cell], folder: Path, suffix: str = "") -> None:
    """Write `<task>.<cell>.qrels.trec`: the queries of each cell and what is relevant in its pool.

    Raises:
        StorageError: a file cannot be written.
    """
    table = judge(collection, task.languages)
    for cell in cells:
        pool = {doc_id for b in cell.passage_languages for doc_id in collection.ids("passages", b)}
        qrels = {q: {d: g for d, g in collection.qrels[q].items() if d in pool} for q in table.ranked(cell)[1]}
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
        task, collection: what was evaluated.
        cells: which.
        folder: where the files go.
        cache: the folder of all stores.
        depth: passages of each query.
        scores: `model`: the exact scores, as float64; `rank`: minus the rank, which a reader that keeps
            float32 (trec_eval 9, pytrec_eval) orders the same way.
        suffix: `.gz` packs the files.

    Raises:
        IncompleteError: the cache lacks vectors.
        IntegrityError: the given vectors are others than those of the result.
        UsageError: the result is that of a run.
        StorageError: a file cannot be written.
    """
    result = _without_context(result)
    space = Space.build(
        _vectors(result, collection, cache), collection, task, cache / "indexes" / result.model["fingerprint"]
    )
    table = judge(collection, task.languages)
    pools: dict[tuple[str, ...], Pool] = {task.languages: space.pool}
    with track("writing runs", len(cells), "cells") as advance:
        for cell in cells:
            chosen = [space.indexes[task.languages.index(b)] for b in cell.passage_languages]
            if cell.passage_languages not in pools:
                doc_ids = [doc_id for index in chosen for doc_id in index.doc_ids]
                pools[cell.passage_languages] = Pool([index.vectors for index in chosen], doc_ids)
            own = task.languages.index(cell.query_language)
            place = {query_id: i for i, query_id in enumerate(collection.ids("queries", cell.query_language))}
            query_ids = table.ranked(cell)[1]
            matrix = space.queries[own][[place[query_id] for query_id in query_ids]]
            ranking = _ranking(query_ids, matrix, chosen, pools[cell.passage_languages], depth, scores)
            write_run(folder / f"{stem(task, cell)}.run.trec{suffix}", ranking, result.model["slug"])
            advance(1)


def _ranking(
    query_ids: list[str],
    queries: NDArray[np.float32],
    indexes: list[Index],
    pool: Pool,
    depth: int | None,
    scores: str,
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    doc_ids = [doc_id for index in indexes for doc_id in index.doc_ids]
    for low in range(0, len(queries), 64):
        found = search(indexes, pool, queries[low : low + 64], depth or len(pool))
        for query_id, passages in zip(query_ids[low:], found, strict=False):
            if scores == "rank":
                yield query_id, [(doc_ids[row], -float(rank)) for rank, (row, _) in enumerate(passages, 1)]
            else:
                yield query_id, [(doc_ids[row], value) for row, value in passages]


def _without_context(result: Result) -> Result:
    """With the identity that the model has by itself, under which its vectors are kept."""
    identity = {name: value for name, value in result.model["identity"].items() if name != "context"}
    return replace(result, model=result.model | {"identity": identity, "fingerprint": fingerprint(identity)})


def _vectors(result: Result, collection: Collection, cache: Path) -> Encoded:
    name, identity = result.model["name"], result.model["identity"]
    kind = identity.get("kind")
    if kind == "run":
        raise UsageError(f"{name} was scored from a run: that file is its run; only --qrels-only can be exported")
    if kind not in ("vectors", "canary"):  # a result file comes from anywhere: it may not name code to load
        try:
            return cached(identity, collection, cache)
        except IncompleteError as error:
            raise IncompleteError(f"{error}; make them again: {result.command}") from error
    model = load(name) if name.startswith(f"{kind}:") else None
    if not isinstance(model, Given):
        raise IntegrityError(f"model {name!r} is not of the kind {kind!r} that its result says")
    encoded = vectors(model, collection, cache)
    if fingerprint(model.identity) != result.model["fingerprint"]:
        raise IntegrityError(f"{name}: not the vectors of the result (fingerprint {result.model['fingerprint'][:12]})")
    return encoded
