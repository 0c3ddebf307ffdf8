"""Ranks of the relevant passages by a retriever: every pool is searched, and kept when it is done.

A retriever's score may depend on the pool (BM25's does), so every pool is searched for itself: each
language's, for mono and cross, and the joint one. What is kept of a pool and a query language is the
small array that values need, so an interrupted evaluation goes on with the next one.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.answers import UNSEARCHED, answered
from xbench.errors import ModelOutputError
from xbench.kept import keep, kept
from xbench.models import Retriever, Searcher
from xbench.progress import log
from xbench.ranking import rule_order, tie_order
from xbench.ranks import RankTable
from xbench.records import Cell, Collection, Query
from xbench.storage import fingerprint, storage
from xbench.task import Task

# Of scores of a block of queries, held at once.
BLOCK_BYTES = 16 << 20
SCHEMA = 1  # raised when what is kept of a pool changes
Scores = NDArray[np.float64]


class Found(NamedTuple):
    """What is kept of the queries of one language against one pool."""

    above: NDArray[np.int32]  # (nnz, languages of the pool) passages above each judged passage of the pool
    matched: NDArray[np.int64]  # (queries,) passages retrieved
    lost: NDArray[np.int64]  # (queries,) relevant passages not retrieved
    top: NDArray[np.int32]  # (queries, depth) first passages, as rows of the pool


class Pools(NamedTuple):
    """What searches which pools: those of some cells of a task, whose texts one collection holds."""

    retriever: Retriever
    task: Task
    cells: Sequence[Cell]
    collection: Collection
    answers: bool = False  # whether to look for answer strings in first passages


def retrieve(
    job: Pools, table: RankTable, depth: int, cache: Path, advance: Callable[[int], None] = lambda _: None
) -> tuple[RankTable, dict[str, dict[str, int]]]:
    """Search every pool.

    Args:
        job: what searches which pools.
        table: from `ranks.judge`.
        depth: first passages of the joint pool to keep.
        cache: the folder of all stores; what is kept of each pool goes there.
        advance: called with each number of queries done.

    Returns:
        The table with its ranks, and for each cell's name what was not retrieved, as `CellResult.unmatched`.

    Raises:
        ModelOutputError: scores that cannot be ranked.
        XbenchError: whatever the retriever raises.
    """
    retriever, task, _, collection, answers = job
    pools: dict[tuple[str, ...], list[Cell]] = {}
    for cell in job.cells:
        pools.setdefault(cell.passage_languages, []).append(cell)
    above, alone = np.full_like(table.above, -1), np.full(len(table.above), -1, np.int32)
    top = np.full((len(table.query_ids), min(depth, len(table.doc_ids))), -1, np.int32)
    first = np.full((len(table.query_ids), len(table.languages) + 1), UNSEARCHED, np.int64)
    unmatched: dict[str, dict[str, int]] = {}
    folder = cache / "pools" / fingerprint({"schema": SCHEMA, "model": retriever.identity, "task": task.sha256})
    for languages, cells in pools.items():
        joint = any(cell.setting == "multi" for cell in cells)
        part = _Part(table, languages, depth if joint else int(answers))
        kept = _search(retriever, collection, part, cells, folder, advance)
        for cell, (low, high, entries), found in zip(cells, map(part.of, cells), kept, strict=True):
            if len(languages) == 1:
                alone[entries] = found.above[:, 0]
            if joint:
                above[entries] = 0  # a language without passages has none above
                above[entries[:, None], part.columns] = found.above
                top[low:high] = part.rows[found.top]
            if answers and len(part.rows):
                columns = [*([-1] if joint else []), *(part.columns if len(languages) == 1 else [])]
                first[low:high, columns] = part.rows[found.top[:, :1]]
            counted = part.relevant[low:high] > 0
            unmatched[cell.name] = {
                "queries": int((found.matched[counted] == 0).sum()),
                "relevant": int(found.lost[counted].sum()),
                "passages": int((len(part.rows) - found.matched[counted]).sum()),
            }
    table = table._replace(above=above, alone=alone, top=top)
    if answers:
        table = table._replace(answered=answered(collection, table.languages, first))
    return table, unmatched


class _Part:
    """The share of one pool in the table."""

    def __init__(self, table: RankTable, languages: tuple[str, ...], depth: int):
        self.table, self.languages = table, languages
        self.columns = columns = [table.languages.index(language) for language in languages]
        self.rows = np.flatnonzero(np.isin(table.doc_language, columns))  # of the pool, in the table's order
        self.place = np.full(len(table.doc_ids), -1)
        self.place[self.rows] = np.arange(len(self.rows))
        self.starts = np.searchsorted(table.doc_language[self.rows], columns)
        self.order = tie_order([table.doc_ids[row] for row in self.rows])
        self.depth = min(depth, len(self.rows))
        judged = table.judged
        inside = self.place[judged.rows] >= 0
        self.inside = inside
        good = np.concatenate([[0], np.cumsum(inside & (judged.grades > 0))])
        self.relevant = np.diff(good[judged.indptr])  # (queries,) relevant passages in the pool

    def of(self, cell: Cell) -> tuple[int, int, NDArray[np.int64]]:
        """The queries of a cell, from and to, and the entries of `judged` that are theirs and in the pool."""
        own = self.table.languages.index(cell.query_language)
        low, high = (int(i) for i in np.searchsorted(self.table.query_language, [own, own + 1]))
        first, last = (int(i) for i in self.table.judged.indptr[[low, high]])
        return low, high, first + np.flatnonzero(self.inside[first:last])

    def find(self, scores: Scores, low: int) -> Found:
        """What to keep of the scores (n, m) of queries low, low + 1, ..."""
        n = len(scores)
        indptr = self.table.judged.indptr[low : low + n + 1]
        entries = indptr[0] + np.flatnonzero(self.inside[indptr[0] : indptr[-1]])
        query = np.searchsorted(indptr, entries, side="right") - 1
        place = self.place[self.table.judged.rows[entries]]
        above = np.empty((len(entries), len(self.languages)), np.int32)
        for i, (q, p) in enumerate(zip(query, place, strict=True)):
            mine = scores[q, p]
            wins = (scores[q] > mine) | ((scores[q] == mine) & (self.order > self.order[p]))
            above[i] = np.add.reduceat(wins, self.starts, dtype=np.int32)
        lost = np.isneginf(scores[query, place]) & (self.table.judged.grades[entries] > 0)
        top = np.stack([first(row, self.order, self.depth) for row in scores])
        return Found(above, (~np.isneginf(scores)).sum(axis=1), np.bincount(query, lost, n).astype(np.int64), top)


def first(scores: Scores, order: NDArray[np.int64], k: int) -> NDArray[np.int32]:
    """(k,) the first passages of one query by the ranking rule, as rows of scores (m,)."""
    if not k:
        return np.empty(0, np.int32)
    near = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return near[rule_order(scores[near], order[near])[:k]].astype(np.int32)


def _search(
    retriever: Retriever,
    collection: Collection,
    part: _Part,
    cells: Sequence[Cell],
    folder: Path,
    advance: Callable[[int], None],
) -> Iterator[Found]:
    """What to keep for each cell of a pool: from the cache, or searched; it is indexed when it is first needed."""
    passages = {language: collection.passages[language] for language in part.languages}
    with contextlib.ExitStack() as stack:
        searcher: Searcher | None = None
        for cell in cells:
            queries = collection.queries[cell.query_language]
            name = f"{cell.query_language}.{'-'.join(part.languages)}.{part.depth}"
            file = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npz"
            arrays = kept(file)
            if arrays is not None:
                found = Found(**arrays)
                advance(len(queries))
            else:
                if searcher is None:  # its index in the system's folder: what a kill leaves there is cleared by others
                    with storage(Path(tempfile.gettempdir()), "write"):
                        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="xbench."))
                    searcher = stack.enter_context(retriever.search(passages, Path(scratch)))
                found = _found(retriever, searcher, part, cell, queries, advance)
                keep(file, found._asdict())
            yield found


def _found(
    retriever: Retriever,
    searcher: Searcher,
    part: _Part,
    cell: Cell,
    queries: Sequence[Query],
    advance: Callable[[int], None],
) -> Found:
    low = part.of(cell)[0]
    step = max(1, min(256, BLOCK_BYTES // (8 * max(1, len(part.rows)))))
    blocks = []
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        scores = searcher.scores(some, cell.query_language)
        check_scores(retriever.name, scores, [query.query_id for query in some], len(part.rows))
        blocks.append(part.find(scores, low + start))
        advance(len(some))
    return Found(*(np.concatenate(arrays) for arrays in zip(*blocks, strict=True)))


def check_scores(name: str, scores: Scores, query_ids: Sequence[str], passages: int) -> None:
    """Refuse scores that cannot be ranked, naming the first query.

    Raises:
        ModelOutputError: a wrong shape or dtype, NaN or plus infinity.
    """
    if scores.dtype != np.float64 or scores.shape != (len(query_ids), passages):
        raise ModelOutputError(
            f"model {name!r}, queries from {query_ids[0]}: found scores {scores.dtype} {scores.shape}, "
            f"expected float64 ({len(query_ids)}, {passages})"
        )
    bad = (np.isnan(scores) | np.isposinf(scores)).any(axis=1)
    if bad.any():
        raise ModelOutputError(f"model {name!r}: NaN or infinity among the scores of {query_ids[int(bad.argmax())]}")


def log_unmatched(unmatched: Mapping[str, Mapping[str, int]]) -> None:
    """Say what was not retrieved, and so ranked last by the tie rule."""
    total = {key: sum(counts[key] for counts in unmatched.values()) for key in ("queries", "relevant", "passages")}
    if total["passages"]:
        log.info(
            "not retrieved and ranked last by the tie rule, over all cells: %d relevant passages, %d passages in all; "
            "%d queries retrieve nothing",
            *(total[key] for key in ("relevant", "passages", "queries")),
        )
