"""Ranks among the first passages: of a retriever whose pools are too large for scores of all passages.

What is not among the first DEPTH of a pool counts as not retrieved, as in a TREC run of that depth: its rank is
infinite, and `CellResult.unmatched` counts it. So the depth is part of what is evaluated.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xbench.catalogue import Measure
from xbench.errors import DataError, UsageError
from xbench.models import FirstSearcher, Hits, LargeRetriever, Pooler
from xbench.progress import log
from xbench.ranks import RankTable
from xbench.readers.part import Part
from xbench.records import Cell, Query

DEPTH = 1000  # of trec_eval's runs, and of the published BM25 runs of MIRACL
BLOCK = 64  # queries that are analysed together


def check_depth(measures: Sequence[Measure]) -> None:
    """Refuse measures that look further than DEPTH; to one without a cut-off, what is further down is not retrieved.

    Raises:
        UsageError: there is one.
    """
    for measure in measures:
        if DEPTH < measure.k < np.inf:
            raise UsageError(f"measure {measure.name}: only the first {DEPTH} passages of a large pool are ranked")


def large_identity(model: LargeRetriever) -> dict[str, object]:
    """All that can move a number of a model's results on large pools."""
    return model.identity | {"depth": DEPTH}


def retrieve_first(
    part: Part,
    searchers: Pooler,
    table: RankTable,
    depth: int,
    advance: Callable[[int], None],
    dangling: int = 0,
) -> tuple[RankTable, dict[str, dict[str, int]]]:
    """Search the first DEPTH passages of every pool.

    Args:
        part: the cells, and their texts.
        searchers: of a `LargeRetriever`, of all languages.
        table: from `ranks.judge`.
        depth: first passages of the joint pool to keep.
        advance: called with each number of queries that are done.
        dangling: relevant passages that are in no corpus, as the task says.

    Returns:
        The table with its ranks, and for each cell's name what was not retrieved, as `CellResult.unmatched`.

    Raises:
        DataError: there are other dangling ones.
        XbenchError: whatever the retriever raises.
    """
    pools: dict[tuple[str, ...], list[Cell]] = {}
    for cell in part.cells:
        pools.setdefault(cell.passage_languages, []).append(cell)
    relevant = np.unique(table.judged.rows[table.judged.grades > 0])
    wanted = [table.doc_ids[row] for row in relevant]
    missing = sorted(searchers.pool(list(part.collection.large)).missing(wanted))
    if len(missing) != dangling:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(f"{len(missing)} judged passages are in no corpus, expected {dangling}: {shown}")
    found = _Found(table, depth if any(cell.setting == "multi" for cell in part.cells) else 0)
    unmatched: dict[str, dict[str, int]] = {}
    for languages, cells in pools.items():
        searcher = searchers.pool(languages)
        for cell in cells:
            queries = part.collection.queries[cell.query_language]
            unmatched[cell.name] = found.search(cell, searcher, queries, advance)
    return found.table(), unmatched


def log_cut(unmatched: dict[str, dict[str, int]]) -> None:
    """Say how many relevant passages were not found."""
    lost, nothing = (sum(counts[key] for counts in unmatched.values()) for key in ("relevant", "queries"))
    log.info(
        "not among the first %d passages, and so not retrieved, over all cells: %d relevant ones; "
        "%d queries retrieve nothing",
        *(DEPTH, lost, nothing),
    )


def _language(doc_id: str) -> str:
    return doc_id.partition(":")[0]


class _Found:
    """The ranks found so far."""

    def __init__(self, table: RankTable, depth: int):
        self._table, self._depth = table, depth
        self._above = np.full_like(table.above, -1)
        self._alone = np.full(len(table.above), -1, np.int32)
        self._top: dict[int, list[str]] = {}

    def search(
        self, cell: Cell, searcher: FirstSearcher, queries: Sequence[Query], advance: Callable[[int], None]
    ) -> dict[str, int]:
        """Note the ranks of a cell; returns what was not retrieved."""
        t = self._table
        own = t.languages.index(cell.query_language)
        columns = [t.languages.index(language) for language in cell.passage_languages]
        row = int(np.searchsorted(t.query_language, own))
        counts = {"queries": 0, "relevant": 0, "passages": 0}
        pool = int(t.sizes[columns].sum())
        for low in range(0, len(queries), BLOCK):
            for hits in searcher.hits(queries[low : low + BLOCK], cell.query_language, DEPTH):
                entries = np.arange(*t.judged.indptr[row : row + 2])
                inside = np.isin(t.doc_language[t.judged.rows[entries]], columns)
                entries = entries[inside & (t.judged.grades[entries] > 0)]
                placed = self._note(cell, hits, entries)
                if len(entries):
                    counts["queries"] += not hits.doc_ids
                    counts["relevant"] += len(entries) - placed
                    counts["passages"] += pool - len(hits.doc_ids)
                if cell.setting == "multi":
                    self._top[row] = hits.doc_ids[: self._depth]
                row += 1
            advance(len(queries[low : low + BLOCK]))
        return counts

    def _note(self, cell: Cell, hits: Hits, entries: NDArray[np.int64]) -> int:
        """Note where relevant passages stand; returns how many of them were retrieved."""
        t = self._table
        place_of = {doc_id: place for place, doc_id in enumerate(hits.doc_ids)}
        places = {int(e): place_of[d] for e in entries if (d := t.doc_ids[t.judged.rows[e]]) in place_of}
        if len(cell.passage_languages) == 1:
            for entry, place in places.items():
                self._alone[entry] = place
        if cell.setting == "multi" and places:
            number = {language: i for i, language in enumerate(t.languages)}
            languages = np.array([number[_language(d)] for d in hits.doc_ids[: max(places.values())]], np.int64)
            for entry, place in places.items():
                self._above[entry] = np.bincount(languages[:place], minlength=len(t.languages))
        return len(places)

    def table(self) -> RankTable:
        """The table, with the first passages of the joint pool among its `doc_ids`."""
        t = self._table
        place = {doc_id: row for row, doc_id in enumerate(t.doc_ids)}
        top = np.full((len(t.query_ids), self._depth), -1, np.int32)
        for row, doc_ids in self._top.items():
            top[row, : len(doc_ids)] = [place.setdefault(doc_id, len(place)) for doc_id in doc_ids]
        more = [t.languages.index(_language(doc_id)) for doc_id in list(place)[len(t.doc_ids) :]]
        return t._replace(
            doc_ids=list(place),
            doc_language=np.concatenate([t.doc_language, np.array(more, np.int64)]),
            above=self._above,
            alone=self._alone,
            top=top,
        )
