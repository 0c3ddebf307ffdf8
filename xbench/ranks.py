"""The small array that every value comes from: for each query, where its relevant passages stand."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.records import Cell, Collection, Joint, Judged, Passage, Ranked


class RankTable(NamedTuple):
    """The judged passages of all queries of a task, and how many passages of each language stand above them.

    The rank of a passage in a pool of some languages is 1 + the sum of their counts: so this table
    gives the ranks of every cell. A passage with a grade below 1 is judged not relevant, as
    trec_eval has it. Languages are numbered in the task's order; queries stand language by language.
    Where pools are too large to hold (`large`), only relevant and first passages have a place in `doc_ids`.
    """

    languages: tuple[str, ...]
    sizes: NDArray[np.int64]  # (languages,) passages of each
    query_ids: list[str]
    query_language: NDArray[np.int64]  # (queries,) ascending
    doc_ids: list[str]
    doc_language: NDArray[np.int64]  # (doc_ids,)
    judged: Judged  # rows are places in `doc_ids`
    above: NDArray[np.int32]  # (nnz, languages); -1: a run did not retrieve it
    top: NDArray[np.int32]  # (queries, depth) first passages of the joint pool; -1: a run is shorter
    # (nnz,) passages above in a pool of the passage's language alone; None: as many as in the joint pool, since
    # the score of a pair does not depend on the pool (BM25's does). -1: not retrieved there.
    alone: NDArray[np.int32] | None = None
    # As `answers.answered` gives it, where a measure asks for it; kept in no file.
    answered: Mapping[str, NDArray[np.int8]] = MappingProxyType({})

    def ranked(self, cell: Cell) -> tuple[Ranked, list[str]]:
        """The ranks of a cell, and its queries: those with a relevant passage in its pool."""
        own = self.languages.index(cell.query_language)
        low, high = (int(i) for i in np.searchsorted(self.query_language, [own, own + 1]))
        indptr = self.judged.indptr[low : high + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        columns = [self.languages.index(b) for b in cell.passage_languages]
        language = self.doc_language[self.judged.rows[entries]]
        inside = np.isin(language, columns) & (self.judged.grades[entries] > 0)
        query = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))[inside]
        above = self.above[entries][inside].astype(np.int64)
        ranks = 1.0 + above[:, columns].sum(axis=1)
        ranks[above[:, columns[0]] < 0] = np.inf
        if self.alone is not None and len(columns) == 1:
            alone = self.alone[entries][inside]
            ranks = np.where(alone < 0, np.inf, 1.0 + alone)
        sequence = np.lexsort((ranks, query))
        kept, relevant = np.unique(query, return_counts=True)
        ranked = Ranked(
            np.concatenate([[0], np.cumsum(relevant)]).astype(np.int64),
            ranks[sequence],
            self.judged.grades[entries][inside][sequence],
            int(self.sizes[columns].sum()),
            answered=self._answered(low + kept, columns),
        )
        if cell.setting == "multi":
            top = self.top[low + kept].astype(np.int64)
            joint = Joint(
                above[sequence],
                language[inside][sequence],
                own,
                self.sizes,
                top,
                np.where(top < 0, -1, self.doc_language[top]),
                self._grades(low + kept, top),
                self._asked(low + kept),
            )
            ranked = ranked._replace(joint=joint)
        return ranked, [self.query_ids[low + i] for i in kept]

    def _answered(self, queries: NDArray[np.int64], columns: list[int]) -> dict[str, NDArray[np.float64]]:
        """For the pool of one language or, last of the columns, the joint one."""
        column = columns[0] if len(columns) == 1 else len(self.languages)
        known = {family: values[queries, column] for family, values in self.answered.items()}
        return {family: np.where(some < 0, np.nan, some) for family, some in known.items()}

    def _asked(self, queries: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, languages, depth) first passages for the same question in each language.

        Two queries are the same question if they differ in nothing but the language of their id, and the
        same passages are relevant to both.
        """
        found = np.full((len(queries), len(self.languages), self.top.shape[1]), -1, np.int64)
        if not found.size:
            return found
        indptr, rows = self.judged.indptr, np.where(self.judged.grades > 0, self.judged.rows, -1)
        questions = [
            (query_id.partition(":")[2], frozenset(rows[indptr[i] : indptr[i + 1]].tolist()) - {-1})
            for i, query_id in enumerate(self.query_ids)
        ]
        alike: dict[tuple[str, frozenset[int]], list[int]] = {}
        for i, question in enumerate(questions):
            alike.setdefault(question, []).append(i)
        for at, query in enumerate(queries):
            for i in alike[questions[query]]:
                found[at, self.query_language[i]] = self.top[i]
        return found

    def _grades(self, queries: NDArray[np.int64], top: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, depth) grades of the first passages; 0 for what is not relevant."""
        size = len(self.doc_ids) + 1
        every = np.repeat(np.arange(len(self.query_ids)), np.diff(self.judged.indptr))
        keys = every * size + self.judged.rows  # ascending: rows are, within a query
        wanted = queries[:, None] * size + np.where(top < 0, size - 1, top)
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        return np.where(keys[place] == wanted, np.maximum(self.judged.grades[place], 0), 0)


def _light(collection: Collection, doc_ids: Iterable[str]) -> Collection:
    """With the judged passages, and those of `doc_ids`, without their texts, instead of corpora.

    The language of a passage is what its id begins with; of languages that have no corpus there are none.
    """

    def inside(doc_id: str) -> bool:
        return doc_id.partition(":")[0] in collection.large

    qrels = {q: {d: grade for d, grade in judged.items() if inside(d)} for q, judged in collection.qrels.items()}
    named = {doc_id for judged in qrels.values() for doc_id in judged} | set(filter(inside, doc_ids))
    passages: dict[str, list[Passage]] = {language: [] for language in collection.large}
    for doc_id in sorted(named):
        passages[doc_id.partition(":")[0]].append(Passage(doc_id, ""))
    return collection._replace(passages=passages, qrels=qrels, large={})


def judge(collection: Collection, languages: Sequence[str], doc_ids: Iterable[str] = ()) -> RankTable:
    """The judged passages of all queries, language by language, with nothing ranked yet.

    Of passages that are not held, the table has the judged ones and those of `doc_ids`; `sizes` are true all the same.
    """
    held, large = collection.passages, collection.large
    sizes = np.array([len(large[a]) if a in large else len(held.get(a, [])) for a in languages], np.int64)
    collection = _light(collection, doc_ids) if large else collection
    names = [doc_id for a in languages for doc_id in collection.ids("passages", a)]
    row_of = {doc_id: row for row, doc_id in enumerate(names)}
    lists = [
        sorted((row_of[d], g) for d, g in collection.qrels.get(q.query_id, {}).items())
        for a in languages
        for q in collection.queries.get(a, [])
    ]
    flat = np.array([pair for pairs in lists for pair in pairs], np.int64).reshape(-1, 2)
    indptr = np.concatenate([[0], np.cumsum([len(pairs) for pairs in lists])]).astype(np.int64)
    numbers = np.arange(len(languages))
    return RankTable(
        tuple(languages),
        sizes,
        [query_id for a in languages for query_id in collection.ids("queries", a)],
        np.repeat(numbers, [len(collection.queries.get(a, [])) for a in languages]),
        names,
        np.repeat(numbers, [len(collection.passages.get(a, [])) for a in languages]),
        Judged(indptr, flat[:, 0].copy(), flat[:, 1].copy()),
        np.full((len(flat), len(languages)), -1, np.int32),
        np.full((len(lists), 0), -1, np.int32),
    )
