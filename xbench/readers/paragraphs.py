"""Paragraphs of SQuAD v1.1 files as passages, or their sentences, by the rules of MTEB.

MTEB's XQuADRetrieval and MLQARetrieval (embeddings-benchmark/mteb, tasks/retrieval/multilingual) key queries by their
text and passages by theirs: questions of one text are one query, which has the id of the last of them and all their
paragraphs for relevant; paragraphs of one text are one passage. The same holds for the other tasks here: a passage
that a file repeats for each of its questions (TyDi QA) is one passage. All that merges is counted.

`options` of a task:

- `ids = "mteb"`: the id of a passage is the SHA-256 of its text; else its place, `<article>.<paragraph>`, from 0.
- `questions = "place"`: the id of a question is its place, `<article>.<paragraph>.<question>`; else the file's.
- `strip = true`: white space around texts goes, as in Hugging Face's `google/xquad`, which MTEB reads.
- `unit = "sentence"`, `splitter = "ICU 78"`: passages are sentences, as `splitting.sentences`; the relevant one has
  `start <= answer_start < end`, from the first answer, as in `squad`. Equal sentences of two paragraphs are two.
- `files = "pair"`: for pools of a cell's own, there is a file for each cell, its key `<query>-<passage>`; else one
  for each language, its key the language, and the cell has the questions that both have.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xbench.errors import DataError
from xbench.readers.clusters import clusters
from xbench.readers.node import Node
from xbench.readers.part import Part
from xbench.readers.splitting import sentences
from xbench.records import Collection, Passage, Query
from xbench.strictjson import read_json
from xbench.task import Task

OPTIONS = {"ids", "questions", "strip", "unit", "splitter", "files"}


class Row(NamedTuple):
    """A question with its paragraph; `paragraph` and `start`, of the first answer, are places in the file."""

    paragraph: str
    context: str
    question: str
    text: str
    answers: tuple[str, ...]  # those that are not blank
    start: int


def read_paragraphs(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """One part, or one for each cell; as above, and as `read_rows`.

    Raises:
        DataError: a cell that these files cannot give; besides those of `read_rows`.
    """
    options = task.options
    if unknown := set(options) - OPTIONS:
        raise DataError(f"task {task.name}: unknown options {sorted(unknown)}; known: {', '.join(sorted(OPTIONS))}")
    if task.pools == "cell":
        yield from _pairs(task, paths)
        return
    if wrong := [cell.name for cell in task.cells() if cell.setting != "mono"]:
        raise DataError(f"task {task.name}: {wrong[0]}: these files say nothing of passages in other languages")
    pools = {a: _pool(a, a, *read_rows(paths[a], options), options) for a in task.languages}
    qrels = {query_id: relevant for pool in pools.values() for query_id, relevant in pool.qrels.items()}
    collection = Collection(
        {a: pool.queries for a, pool in pools.items()},
        {a: pool.passages for a, pool in pools.items()},
        qrels,
        _clusters(task, list(pools.values())),
        answers={query_id: some for pool in pools.values() for query_id, some in pool.answers.items()},
    )
    yield Part(task.cells(), collection, {a: pool.counts for a, pool in pools.items()})


def _pairs(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """MTEB's pools: only the paragraphs of the questions that a pair of languages has."""
    read = {key: read_rows(path, task.options) for key, path in paths.items()}
    found = []
    for cell in task.cells():
        asked, searched = cell.query_language, cell.passage_languages[0]
        if task.options.get("files") == "pair":
            rows, unasked = read[f"{asked}-{searched}"]
        else:
            texts = {row.question: row.text for row in read[asked][0]}
            rows, unasked = [r._replace(text=texts[r.question]) for r in read[searched][0] if r.question in texts], 0
        found.append((cell, asked, searched, _pool(asked, searched, rows, unasked, task.options)))
    together = _clusters(task, [pool for *_, pool in found])
    for cell, asked, searched, pool in found:
        texts_of = {asked: pool.queries}, {searched: pool.passages}
        yield Part([cell], Collection(*texts_of, pool.qrels, together, answers=pool.answers), {cell.name: pool.counts})


class _Pool(NamedTuple):
    queries: list[Query]
    passages: list[Passage]
    qrels: dict[str, dict[str, int]]
    answers: dict[str, tuple[str, ...]]
    counts: dict[str, int]
    links: list[tuple[str, str, str]]  # question id, query_id, paragraph's doc_id


def _pool(asked: str, searched: str, rows: Sequence[Row], unasked: int, options: Mapping[str, Any]) -> _Pool:
    """What merges, merges here."""
    ids = {row.text: row.question for row in rows}  # of several the last, as in MTEB
    queries: dict[str, Query] = {}
    pieces: dict[str, list[tuple[int, int, str]]] = {}  # context -> start, end and doc_id of its passages
    passages: list[Passage] = []
    answers: dict[str, tuple[str, ...]] = {}
    found = _Pool([], passages, {}, answers, {}, [])
    homes: dict[str, str] = {}
    crossing = 0
    for row in rows:
        query_id = f"{asked}:{ids[row.text]}"
        queries.setdefault(query_id, Query(query_id, row.text))
        answers[query_id] = tuple(dict.fromkeys((*answers.get(query_id, ()), *row.answers)))
        if row.context not in pieces:
            by_text = options.get("ids") == "mteb"
            home = hashlib.sha256(row.context.encode()).hexdigest() if by_text else row.paragraph
            homes[row.context] = f"{searched}:{home}"
            pieces[row.context] = _pieces(row.context, homes[row.context], options)
            passages += [Passage(doc_id, row.context[low:high]) for low, high, doc_id in pieces[row.context]]
        there = pieces[row.context]
        _, high, doc_id = next((piece for piece in there if row.start < piece[1]), there[-1])
        crossing += bool(row.answers) and row.start + len(row.answers[0]) > high
        found.qrels.setdefault(query_id, {})[doc_id] = 1
        found.links.append((row.question, query_id, homes[row.context]))
    counts = {"questions": len(rows), "queries": len(queries), "paragraphs": len({row.paragraph for row in rows})}
    counts |= {"passages": len(passages), "blank": sum(not row.answers for row in rows)}
    counts |= {"unasked": unasked} if unasked else {}  # paragraphs without a question, which are in no pool
    counts |= {"crossing": crossing} if options.get("unit") == "sentence" else {}
    answered = {query_id: some for query_id, some in answers.items() if some}
    return found._replace(queries=list(queries.values()), answers=answered, counts=counts)


def _pieces(context: str, home: str, options: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    if options.get("unit") != "sentence":
        return [(0, len(context), home)]
    spans = sentences(context, options["splitter"])
    return [(low, high, f"{home}.{s}") for s, (low, high) in enumerate(spans)]


def _clusters(task: Task, pools: Sequence[_Pool]) -> dict[str, str]:
    """Questions that share a paragraph; in all languages together, where these are translations."""
    links = [link for pool in pools for link in pool.links]
    if not task.parallel:
        return clusters([(query_id, home) for _, query_id, home in links])
    named = [(name, home) for own, query_id, home in links for name in (own, query_id.partition(":")[2])]
    return clusters(named)


def read_rows(path: Path, options: Mapping[str, Any]) -> tuple[list[Row], int]:
    """The questions of a file in order, each with its paragraph, and how many paragraphs have no question.

    Raises:
        DataError: not JSON, a field missing or of the wrong type, an empty text, an answer that is not at its place in
            the context (a blank one, as in XTREME's TyDi QA dev files, is no answer), an id with white space or of
            two questions; with the file and the row, such as `data[3].paragraphs[0].qas[2]`.
        StorageError: the file cannot be read.
    """
    rows: list[Row] = []
    texts: dict[str, str] = {}
    unasked = 0
    for a, article in enumerate(Node(read_json(path), f"{path}: ").list("data")):
        for p, paragraph in enumerate(article.list("paragraphs")):
            whole = paragraph.text("context")
            questions = paragraph.list("qas")
            unasked += not questions
            for q, question in enumerate(questions):
                id_ = f"{a}.{p}.{q}" if options.get("questions") == "place" else question.text("id")
                if any(c.isspace() for c in id_):
                    question.fail(f"id {id_!r} holds white space; run and qrels files could not carry it")
                text = question.text("question")
                if texts.setdefault(id_, text) != text:
                    question.fail(f"id {id_!r} occurs twice in the file, with another question")
                answers = _answers(question, whole)
                start = answers[0][1] if answers else 0
                if not answers and options.get("unit") == "sentence":
                    question.fail("no answer that is not blank; the sentence that holds it is wanted")
                strip = options.get("strip") is True
                context, text = (whole.strip(), text.strip()) if strip else (whole, text)
                rows.append(Row(f"{a}.{p}", context, id_, text, tuple(t for t, _ in answers), start))
    return rows, unasked


def _answers(question: Node, context: str) -> list[tuple[str, int]]:
    """The answers that are not blank and where each starts, checked against the context."""
    found = []
    for answer in question.list("answers"):
        text, start = answer.get("text"), answer.get("answer_start")
        if type(start.value) is not int:
            start.fail(f"expected a number, found {start.value!r}")
        if text.value == "":
            continue
        wanted = text.is_text()
        there = context[max(start.value, 0) :][: len(wanted)]
        if start.value < 0 or there != wanted:
            start.fail(f"the context has {there!r} at {start.value}, the answer is {wanted!r}")
        found.append((wanted, start.value))
    return found
