"""XOR-Retrieve of XOR-TyDi QA: questions in seven languages, answered by a passage of the English Wikipedia.

Questions are JSON lines, `{"id", "question", "answers": [English strings], "lang", "split"}` (AkariAsai/XORQA,
xor_dev_retrieve_eng_span_v1_1.jsonl). Passages are DPR's tab-separated file of 100-word passages, `id`, `text`, `title`
with a line of heads, fields quoted as in CSV (facebookresearch/DPR, psgs_w100.tsv; XORQA's own of the dump of
2019-02-01 is enwiki_20190201_w100.tsv). A passage is its title, `[options] join` and its text.

No passage is judged: one answers if it holds an answer string. As in evals/eval_xor_retrieve.py, `yes` and `no` are no
answers, and a question without another one does not count: it is left out, and counted as `unspanned`.
"""

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from xbench.errors import DataError
from xbench.lines import objects, text_lines
from xbench.readers.node import Node
from xbench.readers.part import Part
from xbench.records import Collection, Corpus, CorpusFile, Passage, Query
from xbench.task import Task

# Raised when another passage is made of a line.
VERSION = 1
HEAD = ["id", "text", "title"]


def read_xor(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """Sources `questions`, and with `passages = true` those of the passages; there are answers and no qrels.

    Raises:
        DataError: a field is missing or of the wrong type, a text is empty, an id has white space or occurs twice; with
            file and line.
        StorageError: a file cannot be read.
    """
    (english,) = task.passage_languages
    queries: dict[str, list[Query]] = {language: [] for language in task.query_languages}
    unspanned = dict.fromkeys(queries, 0)
    answers: dict[str, tuple[str, ...]] = {}
    seen: dict[str, int] = {}
    for number, value in objects(paths["questions"]):
        row = Node(value, f"{paths['questions']}:{number}")
        id_, language = row.text("id"), row.text("lang")
        if id_.split() != [id_]:
            row.fail(f"id {id_!r} holds white space")
        if id_ in seen:
            row.fail(f"id {id_!r} for the second time, first in line {seen[id_]}")
        seen[id_] = number
        if language not in queries:
            continue
        found = dict.fromkeys(answer.is_text() for answer in row.list("answers"))
        spans = tuple(answer for answer in found if answer not in ("yes", "no"))
        if not spans:
            unspanned[language] += 1
            continue
        query = Query(f"{language}:{id_}", row.text("question"))
        queries[language].append(query)
        answers[query.query_id] = spans
    join = str(task.options.get("join", " "))
    keys = [key for key, source in task.sources.items() if source.passages and key in paths]
    corpus = Corpus(
        tuple(CorpusFile(paths[key], task.sources[key].sha256) for key in keys),
        partial(read_wikipedia, language=english, join=join),
        task.counts[english]["passages"],
        f"dpr {VERSION} {english} {join!r}",
    )
    counts = {a: {"queries": len(queries[a]), "unspanned": unspanned[a]} for a in queries} | {english: {}}
    qrels: dict[str, dict[str, int]] = {query_id: {} for query_id in answers}
    collection = Collection(queries, {}, qrels, {}, answers=answers, large={english: corpus})
    yield Part(task.cells(), collection, counts)


def read_wikipedia(path: Path, language: str, join: str = " ") -> Iterator[Passage]:
    """The passages of DPR's file, one at a time.

    Raises:
        DataError: no line of heads, not three fields, an id that is empty or holds white space, an empty text; with
            file and line.
        StorageError: the file cannot be read.
    """
    for number, line in text_lines(path):
        try:
            fields = next(csv.reader([line], delimiter="\t", strict=True)) if '"' in line else line.split("\t")
        except (csv.Error, StopIteration) as error:
            raise DataError(f"{path}:{number}: quotes that do not match: {error}") from error
        if number == 1:
            if fields != HEAD:
                raise DataError(f"{path}:1: found {fields[:5]}, expected the heads {HEAD}")
            continue
        if len(fields) != 3:
            raise DataError(f"{path}:{number}: {len(fields)} fields, expected 3: id<TAB>text<TAB>title")
        id_, text, title = fields
        if id_.split() != [id_]:
            raise DataError(f"{path}:{number}: id {id_!r} is empty or holds white space")
        if not text.strip():
            raise DataError(f"{path}:{number}: the text of passage {id_} is empty")
        yield Passage(f"{language}:{id_}", f"{title}{join}{text}".strip())
