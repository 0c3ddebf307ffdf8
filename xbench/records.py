"""The records that every layer passes on."""

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


class Collection(NamedTuple):
    """The texts of a task by language, in file order, and what is relevant to what.

    `qrels` maps query_id -> doc_id -> grade over all languages: the relevant passages of a
    query in every pool. Passages with equal text stay separate.
    """

    queries: dict[str, list[Query]]
    passages: dict[str, list[Passage]]
    qrels: dict[str, dict[str, int]]

    def ids(self, role: str, language: str) -> list[str]:
        """The ids of the `queries` or `passages` of a language, in the task's order."""
        return [row[0] for row in (self.queries if role == "queries" else self.passages)[language]]


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
