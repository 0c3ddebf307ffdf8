r"""Topics, qrels and corpora of MIRACL and Mr. TyDi, as they are published.

Topics are `query_id<TAB>text` lines, qrels TREC's (castorini/anserini-tools, plain or gzip). Corpora are JSON lines,
plain or gzip: `{"docid": "32589#0", "title": ..., "text": ...}` (miracl/miracl-corpus, files of 500,000 lines;
castorini/mr-tydi-corpus, a file a language; the fields that Anserini's `MrTyDiCollection` reads), or
`{"id": ..., "contents": "title\n\ntext"}`, as in the archives of castorini/mr.tydi (pyserini encodes these with
`--fields title text --delimiter "\n\n"`; index-metadata/faiss.mrtydi-v1.1-arabic.20220207.5df364.README.md).

A passage is its title, `[options] join` (white space) and its text, without white space around it. A single space is
what MTEB's MIRACLRetrieval encodes (`_corpus_to_dict` in mteb/_create_dataloaders.py) and what pyserini's dense
encoders do (`f"{title} {text}"`); Anserini's BM25 has a line feed, which its analyzers treat alike. A query is its
topic's text.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from xbench.errors import DataError
from xbench.lines import objects, text_lines
from xbench.readers.part import Part
from xbench.records import Collection, Corpus, CorpusFile, Passage, Query
from xbench.task import Task
from xbench.trec import read_qrels

# Raised when another passage is made of a line.
VERSION = 1


def read_miracl(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """Sources `topics-<language>`, `qrels-<language>` and, for passages, `<anything>` with `passages = true`.

    Corpora whose files are not among `paths` are known by their size alone: a run can be scored without them.
    Whether each judged passage is in its corpus is found out when that is read.

    Raises:
        DataError: a file is not in its format, an id has white space or occurs twice, a text is empty, a judged
            query is no topic; with file and line.
        StorageError: a file cannot be read.
    """
    queries: dict[str, list[Query]] = {}
    qrels: dict[str, dict[str, int]] = {}
    large: dict[str, Corpus] = {}
    counts: dict[str, dict[str, int]] = {}
    for language in task.languages:
        queries[language] = read_topics(paths[f"topics-{language}"], language)
        judged = read_judgements(paths[f"qrels-{language}"], language, queries[language])
        qrels |= judged
        large[language] = _corpus(task, paths, language)
        grades = [grade for some in judged.values() for grade in some.values()]
        relevant = sum(grade > 0 for grade in grades)
        counts[language] = {"queries": len(queries[language]), "judged": len(grades), "relevant": relevant}
    yield Part(task.cells(), Collection(queries, {}, qrels, {}, large=large), counts)


def _corpus(task: Task, paths: Mapping[str, Path], language: str) -> Corpus:
    join = str(task.options.get("join", " "))
    keys = [key for key, source in task.sources.items() if source.passages and language in task.file_languages[key]]
    return Corpus(
        tuple(CorpusFile(paths[key], task.sources[key].sha256) for key in keys if key in paths),
        partial(read_passages, language=language, join=join),
        task.counts[language]["passages"],
        f"miracl {VERSION} {language} {join!r}",
    )


def read_topics(path: Path, language: str) -> list[Query]:
    """The topics of a language, in the file's order.

    Raises:
        DataError, StorageError: as `read_miracl`.
    """
    seen: dict[str, int] = {}
    found: list[Query] = []
    for number, line in text_lines(path):
        fields = line.split("\t")
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: {len(fields)} columns, expected 2: query_id<TAB>text")
        id_, text = fields
        if id_.split() != [id_]:
            raise DataError(f"{path}:{number}: query id {id_!r} is empty or holds white space")
        if id_ in seen:
            raise DataError(f"{path}:{number}: query id {id_!r} for the second time, first in line {seen[id_]}")
        if not text.strip():
            raise DataError(f"{path}:{number}: the text of query {id_} is empty")
        seen[id_] = number
        found.append(Query(f"{language}:{id_}", text))
    if not found:
        raise DataError(f"{path}: no line in it, expected query_id<TAB>text")
    return found


def read_judgements(path: Path, language: str, queries: list[Query]) -> dict[str, dict[str, int]]:
    """query_id -> doc_id -> grade of a language; a query that is not judged has no passages.

    Raises:
        DataError, StorageError: as `read_miracl`.
    """
    found: dict[str, dict[str, int]] = {query.query_id: {} for query in queries}
    for number, id_, doc_id, grade in read_qrels(path):
        query_id = f"{language}:{id_}"
        if query_id not in found:
            raise DataError(f"{path}:{number}: query {id_} is judged, but no topic; are topics and qrels of one set?")
        found[query_id][f"{language}:{doc_id}"] = grade
    return found


def read_passages(path: Path, language: str, join: str = " ") -> Iterator[Passage]:
    """The passages of a corpus file, one at a time.

    Raises:
        DataError: not JSON lines, `docid` or `text` missing or no text, an id that is empty or holds white space,
            nothing in title and text; with file and line.
        StorageError: the file cannot be read.
    """
    for number, found in objects(path):
        row = _unpacked(found) if "docid" not in found and "contents" in found else found
        docid, title, text = row.get("docid"), row.get("title", ""), row.get("text")
        if not (type(docid) is type(title) is type(text) is str):
            raise DataError(f"{path}:{number}: {_lacking(row)}")
        if docid.split() != [docid]:
            raise DataError(f"{path}:{number}: docid {docid!r} is empty or holds white space")
        whole = f"{title}{join}{text}".strip()
        if not whole:
            raise DataError(f"{path}:{number}: title and text of passage {docid} are empty")
        yield Passage(f"{language}:{docid}", whole)


def _unpacked(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of Mr. TyDi's archives, as one of its corpora."""
    contents = row["contents"]
    if type(contents) is not str:
        return {"docid": row.get("id"), "text": contents}
    title, gap, text = contents.partition("\n\n")
    return {"docid": row.get("id"), "title": title if gap else "", "text": text if gap else contents}


def _lacking(row: Mapping[str, Any]) -> str:
    """Which field of a line is missing or no text."""
    for key in ("docid", "text"):
        if key not in row:
            return f"field {key!r} is missing; fields: {', '.join(map(repr, sorted(row))) or 'none'}"
    wrong = next(key for key in ("docid", "title", "text") if type(row.get(key, "")) is not str)
    return f"field {wrong!r}: expected text, found {type(row[wrong]).__name__}"
