"""Lucene indexes of corpora that are too large to hold: each written once, kept in the cache, searched for the first.

Passages go from their file through Lucene's analyzer into its index one by one; no term and no list of terms comes
into Python. Lucene holds at most BUFFER_MB of them, and writes the rest to disk. An index exists once Lucene has
committed it, which is the last thing done: what a killed run leaves is no index, and the next run clears it away.
"""

import contextlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError, IntegrityError
from xbench.models import Hits
from xbench.models.analyzers import FIELD, Analyzers
from xbench.models.jvm import cast, check, java_class, java_errors
from xbench.progress import log, track
from xbench.records import Corpus, Query
from xbench.storage import atomic, fingerprint, storage

SCHEMA = 1  # raised when what is written into an index changes: old ones are then unread
BUFFER_MB = 64.0  # of an index in Java's memory
CLAUSES = 1 << 20  # distinct terms of a query; Lucene refuses more than 1,024 by default, Anserini too
ID = "id"
LUCENE = "org.apache.lucene."
STEP = 1000  # passages between two signs of progress
Stream = Callable[[str], Any]


class Index:
    """The index of one language's corpus on disk, open for reading."""

    def __init__(
        self, identity: Mapping[str, object], language: str, corpus: Corpus, cache: Path, analyzers: Analyzers
    ) -> None:
        """Open it; it is made first if it is not there.

        Args:
            identity: of the model; with the language, the corpus files' hashes and `Corpus.form` the index's key.
            language: of all passages.
            corpus: the passages.
            cache: the folder of all stores; the index is in `lucene/<key>`.
            analyzers: of all languages.

        Raises:
            DataError: the corpus has not as many passages as expected, a doc_id twice, or not a single term.
            IntegrityError: the index is damaged.
            IncompleteError: Java's memory is full.
            StorageError: it cannot be written or read, or another process writes it.
        """
        files = [file.sha256 for file in corpus.files]
        key = {"schema": SCHEMA, "model": identity, "language": language, "files": files, "form": corpus.form}
        folder = cache / "lucene" / fingerprint(key)[:32]
        with storage(folder, "write"):
            (folder / "index").mkdir(parents=True, exist_ok=True)
        opener = java_class(LUCENE + "index.DirectoryReader")
        with contextlib.ExitStack() as stack, java_errors(f"bm25: index of {language} in {folder}"):
            path = java_class("java.io.File")(str(folder / "index")).toPath()
            directory = java_class(LUCENE + "store.FSDirectory").open(path)
            stack.callback(directory.close)
            if not opener.indexExists(directory):
                with atomic(folder / "about.json") as file:
                    file.write(json.dumps(key, indent=1).encode())
                _write(directory, language, corpus, analyzers.streams(language))
            self.reader = opener.open(directory)
            stack.callback(self.reader.close)
            self.leaves = [leaf.reader() for leaf in self.reader.leaves().toArray()]
            for leaf in self.leaves:
                cast(LUCENE + "index.CodecReader", leaf).checkIntegrity()  # the checksums of its files
            found, terms = int(self.reader.numDocs()), int(self.reader.getDocCount(FIELD))
            if found != len(corpus):
                raise IntegrityError(f"{folder}: {found} passages, expected {len(corpus)}; delete it and run again")
            if not terms:
                raise DataError(
                    f"bm25: none of the {found} passages of {language} has a term; its analyzer cannot read them"
                )
            if found > terms:
                log.info("bm25: %d of %d passages of %s have no term", found - terms, found, language)
            self.close = stack.pop_all().close

    def has(self, doc_id: str) -> bool:
        """Whether it is the id of a passage."""
        value = java_class(LUCENE + "util.BytesRef")(doc_id.encode())
        return any(leaf.getSortedDocValues(ID).lookupTerm(value) >= 0 for leaf in self.leaves)


def _write(directory: Any, language: str, corpus: Corpus, stream: Stream) -> None:
    """Index a corpus: all of it, or nothing is committed."""
    config = java_class(LUCENE + "index.IndexWriterConfig")()
    config.setOpenMode(java_class(LUCENE + "index.IndexWriterConfig$OpenMode").CREATE)
    config.setRAMBufferSizeMB(BUFFER_MB)
    # Merges happen in this thread: where memory or disk are full, the error comes from here.
    config.setMergeScheduler(java_class(LUCENE + "index.SerialMergeScheduler")())
    # A length counts all terms, as in an index of terms told before: some analyzers put two in one place.
    config.setSimilarity(java_class(LUCENE + "search.similarities.BM25Similarity")(False))
    writer = java_class(LUCENE + "index.IndexWriter")(directory, config)
    try:
        _add(writer, language, corpus, stream)
        writer.commit()
    except BaseException:
        with contextlib.suppress(Exception):  # what went wrong first is what to tell
            writer.rollback()
        raise
    writer.close()


def _add(writer: Any, language: str, corpus: Corpus, stream: Stream) -> None:
    kind = java_class(LUCENE + "document.FieldType")()
    kind.setTokenized(True)
    kind.setIndexOptions(java_class(LUCENE + "index.IndexOptions").DOCS_AND_FREQS)
    new_bytes, any_field = java_class(LUCENE + "util.BytesRef"), LUCENE + "index.IndexableField"
    name = java_class(LUCENE + "document.SortedDocValuesField")(ID, new_bytes(b""))
    contents = java_class(LUCENE + "document.Field")(FIELD, new_bytes(b""), kind)
    document = java_class(LUCENE + "document.Document")()
    for field in (name, contents):
        document.add(cast(any_field, field))
    hashes = array("q")  # of doc_ids; 64 bits, other ones in each process
    with track(f"indexing {language}", len(corpus), "passages") as advance:
        for doc_id, text in corpus:
            name.setBytesValue(new_bytes(doc_id.encode()))
            try:
                contents.setTokenStream(stream(text))
            except UnicodeEncodeError as error:
                raise DataError(f"{doc_id}: its text is no Unicode: {error}; repair the source") from error
            writer.addDocument(document)
            hashes.append(hash(doc_id))
            if not len(hashes) % STEP:
                advance(STEP)
        advance(len(hashes) % STEP)
    if len(hashes) != len(corpus):
        where = f"{corpus.files[0].path.parent}: " if corpus.files else ""
        raise DataError(f"{where}{language}: found {len(hashes)} passages, expected {len(corpus)}; is a file missing?")
    _refuse_twice(corpus, np.frombuffer(hashes, np.int64))


def _refuse_twice(corpus: Corpus, hashes: NDArray[np.int64]) -> None:
    distinct, counts = np.unique(hashes, return_counts=True)
    suspects = set(distinct[counts > 1].tolist())
    first: dict[str, str] = {}
    for file in corpus.files if suspects else ():
        for row, passage in enumerate(corpus.read(file.path), 1):
            if hash(passage.doc_id) in suspects:
                where = f"{file.path}: row {row}"
                if passage.doc_id in first:
                    raise DataError(
                        f"{where}: doc_id {passage.doc_id!r} occurs twice; first in {first[passage.doc_id]}"
                    )
                first[passage.doc_id] = where


class Indexes(NamedTuple):
    """Indexes by language, open, and how they are searched."""

    indexes: Mapping[str, Index]
    analyzers: Analyzers
    k1: float
    b: float

    def pool(self, languages: Sequence[str]) -> "First":
        """As `models.Pooler`; the statistics of the languages' indexes are added up."""
        some = {language: self.indexes[language] for language in languages}
        with java_errors(f"bm25 on {', '.join(languages)}"):
            return First(some, self.analyzers, self.k1, self.b)


class First:
    """The first passages of a pool.

    Queries take the analyzer of the language of a pool that has but one, else that of their own language.
    """

    def __init__(self, indexes: Mapping[str, Index], analyzers: Analyzers, k1: float, b: float) -> None:
        self._indexes, self._analyzers = indexes, analyzers
        self._only = next(iter(indexes)) if len(indexes) == 1 else None
        any_reader = LUCENE + "index.IndexReader"
        readers = [cast(any_reader, index.reader) for index in indexes.values()]
        joined = java_class(LUCENE + "index.MultiReader")(readers, False)
        self._searcher = java_class(LUCENE + "search.IndexSearcher")(cast(any_reader, joined))
        self._searcher.setMaxClauseCount(CLAUSES)
        self._searcher.setSimilarity(java_class(LUCENE + "search.similarities.BM25Similarity")(k1, b))
        fields = java_class(LUCENE + "search.SortField")
        text = java_class(LUCENE + "search.SortField$Type").STRING
        # Score descending, then doc_id descending in the order of its bytes: the ranking rule. Lucene skips what
        # cannot reach the k-th score and, with this order, nothing that ties with it.
        self._order = java_class(LUCENE + "search.Sort")(fields.FIELD_SCORE, fields(ID, text, True))
        self._should = java_class(LUCENE + "search.BooleanClause$Occur").SHOULD
        self._term, self._builder = (
            java_class(LUCENE + "index.Term"),
            java_class(LUCENE + "search.BooleanQuery$Builder"),
        )
        self._query, self._boost = java_class(LUCENE + "search.TermQuery"), java_class(LUCENE + "search.BoostQuery")

    def hits(self, queries: Sequence[Query], language: str, k: int) -> Iterator[Hits]:
        """As `models.FirstSearcher`; float32 scores, the bits that `bm25.Lucene.scores` has for the same pool.

        Lucene adds up the terms' scores in float64 and rounds once. A term that the query has n times counts n-fold.
        """
        check()
        for terms in self._analyzers.terms([query.text for query in queries], self._only or language):
            with java_errors("bm25: searching"):
                yield self._search(Counter(terms), k)

    def _search(self, terms: Mapping[str, int], k: int) -> Hits:
        builder = self._builder()
        for term, count in terms.items():
            query = cast(LUCENE + "search.Query", self._query(self._term(FIELD, term)))
            if count > 1:
                query = cast(LUCENE + "search.Query", self._boost(query, float(count)))
            builder.add(query, self._should)
        whole = cast(LUCENE + "search.Query", builder.build())
        found = Hits([], [])
        for hit in self._searcher.search(whole, k, self._order).scoreDocs:
            score, doc_id = cast(LUCENE + "search.FieldDoc", hit).fields
            found.doc_ids.append(doc_id.utf8ToString())
            found.scores.append(score)
        return found

    def missing(self, doc_ids: Sequence[str]) -> list[str]:
        """As `models.FirstSearcher`."""
        with java_errors("bm25: looking for passages"):
            return [doc_id for doc_id in doc_ids if not any(index.has(doc_id) for index in self._indexes.values())]
