"""TREC runs of any system, scored like vectors: by the ranks of the relevant passages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xbench.answers import MISSING, answered
from xbench.catalogue import Measure
from xbench.errors import UsageError
from xbench.evaluate import TOP
from xbench.groups import Grouping, groupings
from xbench.intervals import with_intervals
from xbench.models import slug
from xbench.progress import log
from xbench.ranking import rule_order, tie_order
from xbench.ranks import RankTable, judge
from xbench.records import Cell, Collection
from xbench.results import CellResult, Result
from xbench.scoring import log_undefined, score
from xbench.space import languages_of
from xbench.storage import fingerprint, sha256
from xbench.task import Task
from xbench.trec import check_file, named, read_run

# Retrieved passages handed to ir-measures at once.
BATCH = 1 << 20


def score_file(
    path: Path,
    task: Task,
    collection: Collection,
    cells: Sequence[Cell],
    measures: Sequence[Measure],
    *,
    ignore_ranks: bool = False,
    command: str = "",
    groups: Mapping[str, Grouping] | None = None,
) -> Result:
    """The result of a TREC run in some cells of a task; as `score_run`.

    Its fingerprint is that of the file and of which cells were scored.

    Raises:
        DataError, StorageError, UsageError: as `score_run`.
    """
    check_file(path)
    prefix = _prefix(path, cells, collection)
    depth = max([TOP, *(int(m.k) for m in measures if m.multi_only and m.k < np.inf)])
    identity: dict[str, object] = {"kind": "run", "sha256": sha256(path), "cells": [cell.name for cell in cells]}
    table, found = score_run(
        path,
        cells,
        _table(path, prefix, task, collection),
        measures,
        depth=depth,
        ignore_ranks=ignore_ranks,
        prefix=prefix,
        collection=collection,
    )
    key = fingerprint(identity)
    result = Result(
        task=task.about,
        model={"name": f"run:{path.name}", "fingerprint": key, "slug": slug(path.name, key), "identity": identity},
        command=command,
        texts={},  # none is encoded
        cells=found,
        clusters=collection.clusters,
        ranks=table,
        groupings=dict(groupings(task) if groups is None else groups),
    )
    return with_intervals(result)


def _prefix(path: Path, cells: Sequence[Cell], collection: Collection) -> str:
    """`<language>:` if all cells are of one language and the run's ids are those of the source, without it."""
    languages = {a for cell in cells for a in (cell.query_language, *cell.passage_languages)}
    first = next((query_id for query_id, _ in named(path)), "")
    prefix = f"{min(languages)}:"
    known = collection.qrels
    if len(languages) > 1 or first in known or f"{prefix}{first}" not in known:
        return ""
    log.info("%s: ids without a language; taken as %s...", path.name, prefix)
    return prefix


def _table(path: Path, prefix: str, task: Task, collection: Collection) -> RankTable:
    """`ranks.judge`; of corpora, which are not read, it knows the passages that are judged and those that the run has.

    So it can't be told whether a passage that only the run has is in the corpus; its language is that of its id.
    """
    named_ = (prefix + doc_id for _, doc_id in named(path)) if collection.large else ()
    return judge(collection, languages_of(task, collection), named_)


def score_run(
    path: Path,
    cells: Sequence[Cell],
    table: RankTable,
    measures: Sequence[Measure],
    *,
    depth: int,
    ignore_ranks: bool = False,
    prefix: str = "",
    collection: Collection | None = None,
) -> tuple[RankTable, list[CellResult]]:
    """The values of a TREC run in some cells, each restricted to the cell's queries and pool.

    A query that the run lacks counts 0 in every cell that has it, and is counted as missing.

    Args:
        path: as `trec.read_run`.
        cells: which.
        table: from `ranks.judge`.
        measures: what to compute; those of ir-measures too.
        depth: how many first passages of each query to keep.
        ignore_ranks, prefix: as `trec.read_run`.
        collection: of the table, for measures of answer strings; without it, they are undefined.

    Raises:
        DataError: as `trec.read_run`.
        UsageError: ir-measures cannot compute a measure.
    """
    order, kinds = tie_order(table.doc_ids), len(table.languages)
    judged = table.judged
    depth = min(depth, len(table.doc_ids))
    table = table._replace(
        above=np.full_like(table.above, -1), top=np.full((len(table.query_ids), depth), -1, np.int32)
    )
    retrieved = np.zeros((len(table.query_ids), kinds), np.int64)
    first = np.full((len(table.query_ids), kinds + 1), MISSING, np.int64)
    foreign = _Foreign(cells, table, [m for m in measures if m.foreign])
    run = read_run(path, table.query_ids, table.doc_ids, ignore_ranks=ignore_ranks, prefix=prefix)
    for query, found, scores in run:
        docs = found[rule_order(scores, order[found])]
        language = table.doc_language[docs]
        retrieved[query] = np.bincount(language, minlength=kinds)
        table.top[query, : len(docs)] = docs[:depth]
        kinds_there, at = np.unique(language, return_index=True)
        first[query, kinds_there], first[query, -1] = docs[at], docs[0]
        low, high = judged.indptr[query : query + 2]
        for place in np.flatnonzero(np.isin(docs, judged.rows[low:high])):
            entry = low + np.searchsorted(judged.rows[low:high], docs[place])
            table.above[entry] = np.bincount(language[:place], minlength=kinds)
        foreign.add(query, docs, language)
    foreign.flush()
    if collection and any(m.of_answers for m in measures):
        table = table._replace(answered=answered(collection, table.languages, first))
    wanted = np.zeros((kinds, kinds), np.bool_)
    for cell in cells:
        wanted[
            table.languages.index(cell.query_language), [table.languages.index(b) for b in cell.passage_languages]
        ] = True
    outside = int((retrieved * ~wanted[table.query_language]).sum())
    if outside:
        log.info("%s: %d of %d lines are of no cell that is scored", path.name, outside, int(retrieved.sum()))
    row = {query_id: i for i, query_id in enumerate(table.query_ids)}
    results = []
    for cell in cells:
        query_ids = table.ranked(cell)[1]
        columns = [table.languages.index(b) for b in cell.passage_languages]
        there = retrieved[[row[query_id] for query_id in query_ids]][:, columns].any(axis=1)
        results.append(score(cell, table, measures, int((~there).sum()), foreign.values(cell, query_ids)))
    log_undefined(results, measures)
    return table, results


class _Foreign:
    """Per-query values that ir-measures computes, a batch of queries at a time.

    It is given minus the rank as the score: its providers order ties in different ways, and some
    keep float32; ranks have no ties and are exact below 2^24. Queries are numbered, since gdeval
    (ERR) gives 0 to a query whose id is no number.
    """

    def __init__(self, cells: Sequence[Cell], table: RankTable, measures: Sequence[Measure]):
        self.table = table
        self.measures = {measure.foreign: measure.name for measure in measures}
        self.cells = cells if measures else ()
        self.found: dict[tuple[str, str, str], float] = {}  # cell, measure, query_id
        self.pending: dict[str, dict[int, tuple[dict[str, int], dict[str, float]]]] = {}
        self.size = 0

    def add(self, query: int, docs: NDArray[np.int64], language: NDArray[np.int64]) -> None:
        """The passages of a query, best first, and the language of each."""
        table = self.table
        low, high = table.judged.indptr[query : query + 2]
        for cell in self.cells:
            if table.languages.index(cell.query_language) != table.query_language[query]:
                continue
            columns = [table.languages.index(b) for b in cell.passage_languages]
            rows = table.judged.rows[low:high]
            inside = np.isin(table.doc_language[rows], columns)
            grades = zip(rows[inside], table.judged.grades[low:high][inside], strict=True)
            qrels = {table.doc_ids[doc]: int(grade) for doc, grade in grades}
            pool = docs[np.isin(language, columns)]
            if qrels and len(pool):
                run = {table.doc_ids[doc]: -float(rank) for rank, doc in enumerate(pool, 1)}
                self.pending.setdefault(cell.name, {})[query] = qrels, run
                self.size += len(run)
        if self.size > BATCH:
            self.flush()

    def flush(self) -> None:
        """Compute the values of all queries since the last time."""
        import ir_measures

        for cell, queries in self.pending.items():
            qrels = {str(query): pair[0] for query, pair in queries.items()}
            run = {str(query): pair[1] for query, pair in queries.items()}
            try:
                for metric in ir_measures.iter_calc(list(self.measures), qrels, run):
                    query_id = self.table.query_ids[int(metric.query_id)]
                    self.found[cell, self.measures[metric.measure], query_id] = float(metric.value)
            except Exception as error:  # of any of its providers, programs among them
                names = ", ".join(self.measures.values())
                raise UsageError(f"ir-measures cannot compute {names}: {type(error).__name__}: {error}") from error
        self.pending, self.size = {}, 0

    def values(self, cell: Cell, query_ids: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """The values of each measure for these queries; what the run lacks has the measure's default, mostly 0."""
        return {
            name: np.array([self.found.get((cell.name, name, q), measure.DEFAULT) for q in query_ids], np.float64)
            for measure, name in self.measures.items()
        }
