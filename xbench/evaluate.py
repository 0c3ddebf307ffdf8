"""Encode, index, rank, score: one model on one task, every cell from one pass."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbench.encode import Encoded, check_finite, encode, full_identity
from xbench.errors import DataError
from xbench.index import Index, search
from xbench.measures import Measure, Ranked, parse_all
from xbench.models import ROLES, Encoder, Given, fingerprint, slug
from xbench.ranking import Pool, passages_above
from xbench.readers import read
from xbench.records import Cell, Collection, Judged
from xbench.results import CellResult, Result
from xbench.tasks import Task
from xbench.trec import write_qrels, write_run


@dataclass(frozen=True)
class Plan:
    """What moves no number but says how and where to work."""

    cache: Path
    data: Path | None = None
    offline: bool = False
    threads: int | None = None
    command: str = ""
    run_depth: int = 0  # passages of each query to write as TREC runs; 0 writes none
    output: Path | None = None


def evaluate(
    model: Encoder | Given,
    task: Task,
    measures: Sequence[str] | None = None,
    *,
    plan: Plan,
    batch_tokens: int | None = None,
) -> Result:
    """Evaluate a model on every cell of a task.

    Args:
        model: from `models.load`.
        task: from `tasks.load_task`.
        measures: in ir-measures' spelling; by default the task's.
        plan: where sources and vectors are kept, and how many threads to use.
        batch_tokens: as in `encode.encode`.

    Raises:
        XbenchError: see `errors`; nothing is written then but vectors that are good.
    """
    watch = _Watch()
    wanted = parse_all(tuple(measures or task.measures))
    with watch("read"):
        collection = read(task, plan.data, offline=plan.offline)
    with watch("encode"):
        encoded = _vectors(model, collection, plan.cache, batch_tokens)
    identity = model.identity if isinstance(model, Given) else full_identity(model, batch_tokens)
    key = fingerprint(identity)
    with watch("index"):
        indexes = [
            Index.build(
                encoded.vectors["passages"].pop(language),
                [passage.doc_id for passage in collection.passages[language]],
                plan.cache / "indexes" / key / f"{task.name}.{language}.faiss",
            )
            for language in task.languages
        ]
        pool = Pool([index.vectors for index in indexes], [doc_id for index in indexes for doc_id in index.doc_ids])
    with watch("rank"):
        queries = [encoded.vectors["queries"][language] for language in task.languages]
        judged = judge(collection, task.languages)
        above = passages_above(queries, pool, judged, threads=plan.threads)
    with watch("score"):
        cells = [score(cell, task, collection, judged, above, wanted) for cell in task.cells()]
    folder = slug(model.name, key)
    if plan.run_depth and plan.output:
        with watch("runs"):
            for cell in task.cells():
                _write_run(cell, task, collection, indexes, pool, queries, plan.run_depth, plan.output / folder, folder)
    return Result(
        task={"name": task.name, "version": task.version, "sha256": task.sha256},
        model={"name": model.name, "fingerprint": key, "slug": folder, "identity": identity},
        command=plan.command,
        texts={"total": encoded.texts, "distinct": encoded.distinct},
        cells=cells,
        timing=watch.report() | {"texts_encoded": encoded.encoded, "texts_reused": encoded.distinct - encoded.encoded},
    )


def _vectors(model: Encoder | Given, collection: Collection, cache: Path, batch_tokens: int | None) -> Encoded:
    if not isinstance(model, Given):
        return encode(model, collection, cache, batch_tokens)
    encoded = Encoded({role: {} for role in ROLES}, 0, 0, 0)
    dimensions: dict[int, str] = {}
    for role in ROLES:
        for language in collection.queries if role == "queries" else collection.passages:
            vectors = encoded.vectors[role][language] = model.vectors(role, language, collection)
            check_finite(model.name, vectors, collection.ids(role, language))
            dimensions.setdefault(vectors.shape[1], f"{role}.{language}.npy")
    if len(dimensions) > 1:
        raise DataError(f"{model.name}: files of different widths: {dimensions}; all must have the same d")
    total = sum(map(len, collection.queries.values())) + sum(map(len, collection.passages.values()))
    return encoded._replace(texts=total, distinct=total)


def judge(collection: Collection, languages: Sequence[str]) -> Judged:
    """The relevant passages of all queries, language by language, as rows of the joint pool."""
    row_of = {p.doc_id: row for row, p in enumerate(p for a in languages for p in collection.passages[a])}
    lists = [
        sorted((row_of[d], g) for d, g in collection.qrels[q.query_id].items())
        for a in languages
        for q in collection.queries[a]
    ]
    flat = np.array([pair for pairs in lists for pair in pairs], np.int64).reshape(-1, 2)
    indptr = np.concatenate([[0], np.cumsum([len(pairs) for pairs in lists])]).astype(np.int64)
    return Judged(indptr, flat[:, 0].copy(), flat[:, 1].copy())


def score(
    cell: Cell,
    task: Task,
    collection: Collection,
    judged: Judged,
    above: NDArray[np.int32],
    measures: Sequence[Measure],
) -> CellResult:
    """The values of a cell: its queries, the relevant passages in its pool, and their ranks there.

    A query without a relevant passage in the pool is left out and counted (arXiv 2408.10536 does
    so: counting zeros would cap MLQA-R's cross mAP at .46, and it prints up to .68).
    """
    sizes = {a: (len(collection.queries[a]), len(collection.passages[a])) for a in task.languages}
    position = task.languages.index(cell.query_language)
    first = sum(sizes[a][0] for a in task.languages[:position])
    indptr = judged.indptr[first : first + sizes[cell.query_language][0] + 1]
    entries = slice(int(indptr[0]), int(indptr[-1]))
    columns = [task.languages.index(b) for b in cell.passage_languages]
    edges = np.cumsum([0] + [sizes[b][1] for b in task.languages])
    inside = np.isin(np.searchsorted(edges, judged.rows[entries], side="right") - 1, columns)
    query = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))[inside]
    ranks = 1 + above[entries][inside][:, columns].sum(axis=1, dtype=np.int64)
    sequence = np.lexsort((ranks, query))
    kept, relevant = np.unique(query, return_counts=True)
    ranked = Ranked(
        np.concatenate([[0], np.cumsum(relevant)]).astype(np.int64),
        ranks[sequence],
        judged.grades[entries][inside][sequence],
        sum(sizes[b][1] for b in cell.passage_languages),
    )
    rows = collection.queries[cell.query_language]
    defined = [m for m in measures if len(kept) and (cell.setting == "multi" or not m.multi_only)]
    per_query = {m.name: m(ranked) for m in defined}
    return CellResult(
        cell=cell,
        passages=ranked.pool,
        left_out=len(rows) - len(kept),
        query_ids=[rows[i].query_id for i in kept],
        values={m.name: m.aggregate(per_query[m.name]) for m in defined},
        per_query={m.name: per_query[m.name] for m in defined if m.per_query},
    )


def _write_run(
    cell: Cell,
    task: Task,
    collection: Collection,
    indexes: list[Index],
    pool: Pool,
    queries: list[NDArray[np.float32]],
    depth: int,
    folder: Path,
    tag: str,
) -> None:
    """The run of a cell and its qrels, of the queries with a relevant passage in the pool, as TREC files."""
    chosen = [indexes[task.languages.index(b)] for b in cell.passage_languages]
    doc_ids = [doc_id for index in chosen for doc_id in index.doc_ids]
    part = pool if len(chosen) == len(indexes) else Pool([index.vectors for index in chosen], doc_ids)
    in_pool = set(doc_ids)
    qrels = {
        query.query_id: {d: g for d, g in collection.qrels[query.query_id].items() if d in in_pool}
        for query in collection.queries[cell.query_language]
    }
    rows = np.flatnonzero([bool(grades) for grades in qrels.values()])
    query_ids = [query_id for query_id, grades in qrels.items() if grades]
    matrix = queries[task.languages.index(cell.query_language)]

    def ranking() -> Iterator[tuple[str, list[tuple[str, float]]]]:
        for low in range(0, len(rows), 256):
            found = search(chosen, part, matrix[rows[low : low + 256]], depth)
            for query_id, passages in zip(query_ids[low:], found, strict=False):
                yield query_id, [(doc_ids[j], value) for j, value in passages]

    stem = f"{task.name}.{cell.name.replace('/', '.')}"
    write_run(folder / f"{stem}.run.trec", ranking(), tag)
    write_qrels(folder / f"{stem}.qrels.trec", {query_id: qrels[query_id] for query_id in query_ids})


class _Watch:
    """Wall and processor seconds of each stage."""

    def __init__(self) -> None:
        self._stages: dict[str, dict[str, float]] = {}

    def __call__(self, stage: str) -> "_Watch":
        self._stage = stage
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *error: object) -> None:
        wall, cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        self._stages[self._stage] = {"wall_s": round(wall, 4), "cpu_s": round(cpu, 4)}

    def report(self) -> dict[str, Any]:
        return {"stages": self._stages, "peak_rss_mb": _peak_mb()}


def _peak_mb() -> int | None:
    """Largest resident memory so far, where the platform tells."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10)
