"""`bm25`: Lucene's BM25 with each language's analyzer, as Anserini runs it."""

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError
from xbench.models.analyzers import Analyzers
from xbench.models.jvm import anserini, cast, check, java_class, java_errors, start
from xbench.models.lucene import Index, Indexes
from xbench.progress import log
from xbench.records import Corpus, Passage, Query
from xbench.storage import storage

K1, B = 0.9, 0.4  # Anserini's defaults
BUFFER_MB = 64  # of an index in Java's memory; Anserini's default is 4 GB
KEPT = 1 << 24  # postings of terms that are held, for queries to come; 12 bytes each
Postings = tuple[NDArray[np.int64], NDArray[np.float32]]


class Bm25:
    """BM25 (Robertson and Zaragoza 2009, section 3.3, in Lucene's variant) with k1 = 0.9 and b = 0.4.

    idf = ln(1 + (N - n + 0.5) / (n + 0.5)), where N counts the passages with a term; a term's score is
    idf * tf / (tf + k1 * (1 - b + b * length / mean length)), lengths rounded to Lucene's byte, all in float32.
    (Lucene leaves out the factor k1 + 1, which moves no rank.) Statistics are those of the pool. A pool of one
    language takes its analyzer for queries of any language; in the joint pool every text takes its own.
    """

    name = "bm25"

    def __init__(self) -> None:
        """Start Java.

        Raises:
            UsageError: pyserini or a Java is missing.
        """
        start()
        self._told: set[str] = set()  # languages with passages that have no term
        with java_errors("starting Lucene"):
            self._analyzers = Analyzers()
        self.identity: dict[str, object] = {
            "kind": "bm25",
            "version": 1,
            "k1": K1,
            "b": B,
            "anserini": anserini()[1],
            **self._analyzers.identity,
        }

    @contextlib.contextmanager
    def search(self, passages: Mapping[str, Sequence[Passage]], folder: Path) -> Iterator["Lucene"]:
        """Index a pool; the index is gone when the block ends.

        Raises:
            DataError: a language without a single term, or Lucene indexed fewer passages than it was given.
            StorageError: `folder` cannot be written.
        """
        check()
        terms: list[list[str]] = []
        for language, some in passages.items():
            found = self._analyzers.terms([passage.text for passage in some], language)
            if empty := sum(not each for each in found):
                if empty == len(found):
                    raise DataError(
                        f"bm25: none of the {empty} passages of {language} has a term; its analyzer cannot read them"
                    )
                if language not in self._told:
                    log.info("bm25: %d of %d passages of %s have no term", empty, len(found), language)
                    self._told.add(language)
            terms += found
        with storage(folder, "write"):
            scratch = tempfile.TemporaryDirectory(prefix=".lucene.", dir=folder)
        pool = ", ".join(passages)
        with scratch, java_errors(f"bm25 on {pool}"):
            vocabulary = _index(terms, Path(scratch.name))
            only = next(iter(passages)) if len(passages) == 1 else None
            lucene = Lucene(Path(scratch.name), vocabulary, len(terms), self._analyzers, only)
            with contextlib.closing(lucene):
                # Anserini only logs what it could not index, or leaves out a passage without a word.
                if lucene.indexed != (expected := sum(map(bool, terms))):
                    raise DataError(f"bm25: Lucene indexed {lucene.indexed} passages of {pool}, expected {expected}")
                yield lucene

    @contextlib.contextmanager
    def search_large(self, corpora: Mapping[str, Corpus], cache: Path) -> Iterator[Indexes]:
        """As `models.LargeRetriever`: the scores that `search` has, of the first passages alone.

        Raises:
            DataError, IncompleteError, IntegrityError, StorageError: as `lucene.Index`.
        """
        check()
        with contextlib.ExitStack() as stack:
            indexes = {}
            for language, corpus in corpora.items():
                indexes[language] = Index(self.identity, language, corpus, cache, self._analyzers)
                stack.callback(indexes[language].close)
            yield Indexes(indexes, self._analyzers, K1, B)


def _index(terms: list[list[str]], folder: Path) -> dict[str, int]:
    """Index passages; each term by its number, so that nothing in Lucene can split or cut it. Returns the numbers."""
    vocabulary: dict[str, int] = {}
    arguments = java_class("io.anserini.index.IndexCollection$Args")()
    arguments.index, arguments.pretokenized = str(folder), True
    arguments.threads, arguments.memoryBuffer = 1, BUFFER_MB
    indexer = java_class("io.anserini.index.SimpleIndexer")(arguments)
    try:
        for row, some in enumerate(terms):
            numbers = " ".join(str(vocabulary.setdefault(term, len(vocabulary))) for term in some)
            if numbers:  # Anserini leaves out a passage without a term, and so does N
                # One by one, in this thread: Ctrl-C is heard, and Java's memory, when full, raises rather than hangs.
                indexer.addRawDocument(json.dumps({"id": str(row), "contents": numbers}))
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong first is what to tell
            indexer.close()
        raise
    indexer.close()
    return vocabulary


class Lucene:
    """A Lucene index of one pool."""

    def __init__(self, folder: Path, vocabulary: dict[str, int], passages: int, analyzers: Analyzers, only: str | None):
        """Open it.

        Args:
            folder: where the index is.
            vocabulary: the numbers of terms.
            passages: how many there are, those without a term included.
            analyzers: of all languages.
            only: the language of the pool, whose analyzer all queries take; None for that of each query.
        """
        self._vocabulary, self._passages, self._analyzers, self._only = vocabulary, passages, analyzers, only
        path = java_class("java.io.File")(str(folder)).toPath()
        self._directory = java_class("org.apache.lucene.store.FSDirectory").open(path)
        self._reader = java_class("org.apache.lucene.index.DirectoryReader").open(self._directory)
        reader = cast("org.apache.lucene.index.IndexReader", self._reader)
        self._searcher = java_class("org.apache.lucene.search.IndexSearcher")(reader)
        self._searcher.setSimilarity(java_class("org.apache.lucene.search.similarities.BM25Similarity")(K1, B))
        self._term = java_class("org.apache.lucene.index.Term")
        self._query = java_class("org.apache.lucene.search.TermQuery")
        self._boost = java_class("org.apache.lucene.search.BoostQuery")
        stored = self._reader.storedFields()
        self.indexed = int(self._reader.numDocs())
        self._rows = np.array([int(stored.document(i).get("id")) for i in range(self._reader.maxDoc())], np.int64)
        self._postings: dict[tuple[int, int], Postings] = {}
        self._held = 0

    def close(self) -> None:
        """Let go of the files."""
        self._reader.close()
        self._directory.close()

    def scores(self, queries: Sequence[Query], language: str) -> NDArray[np.float64]:
        """float64 (n, m), of float32 precision as in Lucene; minus infinity where no term is shared.

        Lucene scores each term of all queries once. A query's score is the sum of its terms' in float64, rounded to
        float32 at the end, as Lucene's own sums are; a term that the query has k times counts as Anserini counts it,
        k-fold. These sums are exact, and so free of order, as long as term scores lie within a factor of a million.
        """
        check()
        asked = self._analyzers.terms([query.text for query in queries], self._only or language)
        total = np.zeros((len(queries), self._passages))
        for row, terms in zip(total, asked, strict=True):
            for term, count in Counter(terms).items():
                if term in self._vocabulary:
                    places, scores = self._score(self._vocabulary[term], count)
                    row[places] += scores
        found = total.astype(np.float32).astype(np.float64)
        found[total == 0] = -np.inf  # the score of a term that occurs is above zero
        return found

    def _score(self, number: int, count: int) -> Postings:
        """The passages with a term and its scores there, by Lucene."""
        if (number, count) not in self._postings:
            if self._held > KEPT:
                self._postings, self._held = {}, 0
            with java_errors("bm25: searching"):
                query: Any = self._query(self._term("contents", str(number)))
                if count > 1:
                    query = self._boost(query, float(count))
                hits = [(hit.doc, hit.score) for hit in self._searcher.search(query, len(self._rows)).scoreDocs]
            places, scores = zip(*hits, strict=True)
            self._postings[number, count] = self._rows[list(places)], np.array(scores, np.float32)
            self._held += len(places)
        return self._postings[number, count]
