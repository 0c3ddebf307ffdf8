"""The records that every layer passes on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Query(NamedTuple):
    """A text searched with; `query_id` is `<language>:<question id>`."""

    query_id: str
    text: str


class Passage(NamedTuple):
    """A text searched for; `doc_id` is `<language>:<article>.<paragraph>.<sentence>`."""

    doc_id: str
    text: str


class CorpusFile(NamedTuple):
    """A file of passages, known by the SHA-256 of its bytes."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """The passages of one language in files that are read one after the other and never held.

    `read` gives and checks the passages of a file; its errors name file and row. `size` is how many passages
    the task says there are, `form` names what `read` makes of a file, with a version: vectors are kept under it.
    """

    files: tuple[CorpusFile, ...]
    read: Callable[[Path], Iterator[Passage]]
    size: int
    form: str

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Passage]:
        for file in self.files:
            yield from self.read(file.path)


class Collection(NamedTuple):
    """The texts of a task by language, in file order, and what is relevant to what.

    `qrels` maps query_id -> doc_id -> grade over all languages: the relevant passages of a
    query in every pool. Passages with equal text stay separate. `clusters` names, for a question
    (a query_id without its language), the group of questions that share material, so that their
    values are not independent; a question without one stands alone. A query_id of its own there says
    that the query is no translation of those with the same question id.

    `answers`: query_id -> its answer strings, where the data have some. `items`: doc_id -> the answer string
    that goes with the passage, where passages are questions or candidates with an answer.
    """

    queries: dict[str, list[Query]]
    passages: dict[str, list[Passage]]
    qrels: dict[str, dict[str, int]]
    clusters: dict[str, str]
    answers: Mapping[str, Sequence[str]] = MappingProxyType({})
    items: Mapping[str, str] = MappingProxyType({})
    large: Mapping[str, Corpus] = MappingProxyType({})  # instead of `passages`, where these are too many to hold

    def ids(self, role: str, language: str) -> list[str]:
        """The ids of the `queries` or `passages` of a language, in the task's order; none of one that has none."""
        rows: Sequence[tuple[str, str]] = self.rows(role).get(language, [])
        return [row[0] for row in rows]

    def rows(self, role: str) -> Mapping[str, Sequence[Query | Passage]]:
        """The `queries` or `passages` by language."""
        return self.queries if role == "queries" else self.passages


class Cell(NamedTuple):
    """One setting for one query language: the smallest thing with a value."""

    setting: str
    query_language: str
    passage_languages: tuple[str, ...]

    @property
    def name(self) -> str:
        """`mono/en`, `cross/ar-de` or `multi/en`: the `cell` column of the per-query file."""
        if self.setting == "cross":
            return f"cross/{self.query_language}-{self.passage_languages[0]}"
        return f"{self.setting}/{self.query_language}"


class Judged(NamedTuple):
    """The relevant passages of queries, as arrays (compressed sparse rows).

    The relevant passages of query `i` are entries `indptr[i]:indptr[i + 1]`.
    """

    indptr: NDArray[np.int64]  # (n + 1,)
    rows: NDArray[np.int64]  # (nnz,) rows of the joint pool
    grades: NDArray[np.int64]  # (nnz,)


class Joint(NamedTuple):
    """What the joint pool tells of languages, which are numbered in the task's order.

    It goes with a `Ranked` of a multi cell, whose n queries are all of one language.
    """

    above: NDArray[np.int64]  # (nnz, languages) passages of each language above; -1: not retrieved
    language: NDArray[np.int64]  # (nnz,) of each relevant passage
    own: int  # the language of the queries
    sizes: NDArray[np.int64]  # (languages,) passages of each in the pool
    top: NDArray[np.int64]  # (n, depth) the first passages, as numbers; -1: the list is shorter
    top_language: NDArray[np.int64]  # (n, depth) of these; -1 likewise
    top_grade: NDArray[np.int64]  # (n, depth) 0 where it is not relevant
    asked: NDArray[np.int64]  # (n, languages, depth) `top` for the same question in each language; -1 without


class Ranked(NamedTuple):
    """The relevant passages of n queries, each with at least one, ranks ascending within a query.

    Compressed sparse rows: query `i` has entries `indptr[i]:indptr[i + 1]`. Ranks are 1-based and
    of the full pool of `pool` passages; infinite for what a run did not retrieve.
    """

    indptr: NDArray[np.int64]  # (n + 1,)
    ranks: NDArray[np.float64]  # (nnz,)
    grades: NDArray[np.int64]  # (nnz,) parallel to ranks
    pool: int
    joint: Joint | None = None
    # family of measures -> (n,) whether the first passage of the pool has the answer: 1, 0, NaN where it is unknown
    answered: Mapping[str, NDArray[np.float64]] = MappingProxyType({})

    @property
    def query(self) -> NDArray[np.int64]:
        """(nnz,) which query each entry belongs to."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    @property
    def place(self) -> NDArray[np.int64]:
        """(nnz,) 1 for the best relevant passage of a query, 2 for the next, ..."""
        return np.arange(len(self.ranks)) - self.indptr[:-1][self.query] + 1

    @property
    def relevant(self) -> NDArray[np.float64]:
        """(n,) |R|: how many relevant passages each query has."""
        return np.diff(self.indptr).astype(np.float64)

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) sum over the entries of each query, in order."""
        return np.add.reduceat(values, self.indptr[:-1]) if len(values) else np.zeros(0)

    def within(self, k: float) -> NDArray[np.float64]:
        """(n,) how many relevant passages each query has among the first k."""
        return self.sum((self.ranks <= k).astype(np.float64))

    def first(self) -> NDArray[np.float64]:
        """(n,) rank of the best relevant passage."""
        return self.ranks[self.indptr[:-1]]

    def last(self) -> NDArray[np.float64]:
        """(n,) rank of the worst relevant passage."""
        return self.ranks[self.indptr[1:] - 1]
