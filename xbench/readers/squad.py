"""SQuAD-with-sentences: SQuAD v1.1 JSON whose paragraphs also carry `sentences` and `sentence_breaks`.

The format of XQuAD-R and MLQA-R (LAReQA, arXiv 2004.05484). Every sentence of every paragraph is
a passage; the answer sentence of a question is the one with `start <= answer_start < end`, taken
from its first answer (google-research/xtreme, utils_lareqa.py). With `<=` on the right edge, 29 of
1,190 Chinese XQuAD-R questions would move to the sentence before.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from xbench.readers.node import Node
from xbench.records import Passage, Query
from xbench.strictjson import read_json


class SquadFile(NamedTuple):
    """One language's file.

    `answers` maps question id -> doc_id of its answer sentence. `counts` says how many
    `paragraphs`, answers `crossing` the end of their sentence (kept, by the rule above) and
    sentences `differing` from their slice of the context (kept: the sentence is the passage).
    """

    queries: list[Query]
    passages: list[Passage]
    answers: dict[str, str]
    counts: dict[str, int]


def read_squad(path: Path, language: str, *, context: bool = False) -> SquadFile:
    r"""Read and check one language's file.

    Args:
        path: the file.
        language: the first part of every id.
        context: a passage is its sentence and then its paragraph, nothing between them and every line feed
            removed: `(sentence + context).replace("\n", "")`, the candidate of XTREME-R (google-research/xtreme,
            evaluate_retrieval.py). The sentence stands twice, first and in its place.

    Raises:
        DataError: not JSON, a field missing or of the wrong type, sentence breaks out of order,
            an answer that is not at its place in the context or in no sentence, an id with white
            space or twice, an empty text; with the file and the row, such as
            `data[3].paragraphs[0].qas[2]`.
        StorageError: the file cannot be read.
    """
    root = Node(read_json(path), f"{path}: ")
    queries: list[Query] = []
    passages: list[Passage] = []
    answers: dict[str, str] = {}
    counts: Counter[str] = Counter(paragraphs=0, crossing=0, differing=0)
    for a, article in enumerate(root.list("data")):
        for p, paragraph in enumerate(article.list("paragraphs")):
            counts["paragraphs"] += 1
            whole = paragraph.text("context")
            breaks = _breaks(paragraph, len(whole))
            sentences = paragraph.list("sentences")
            if len(sentences) != len(breaks):
                paragraph.fail(f"{len(sentences)} sentences but {len(breaks)} sentence_breaks")
            doc_ids = [f"{language}:{a}.{p}.{s}" for s in range(len(sentences))]
            for doc_id, sentence, (start, end) in zip(doc_ids, sentences, breaks, strict=True):
                text = sentence.is_text()
                counts["differing"] += whole[start:end] != text
                passages.append(Passage(doc_id, (text + whole).replace("\n", "") if context else text))
            for question in paragraph.list("qas"):
                question_id = question.text("id")
                if any(c.isspace() for c in question_id):
                    question.fail(f"id {question_id!r} holds white space; run and qrels files could not carry it")
                if question_id in answers:
                    question.fail(f"id {question_id!r} occurs twice in the file")
                queries.append(Query(f"{language}:{question_id}", question.text("question")))
                start, end = _answer(question, whole)
                inside = [s for s, (low, high) in enumerate(breaks) if low <= start < high]
                if not inside:
                    question.fail(f"answer_start {start} lies in no sentence; sentence_breaks: {breaks}")
                answers[question_id] = doc_ids[inside[0]]
                counts["crossing"] += end > breaks[inside[0]][1]
    return SquadFile(queries, passages, answers, dict(counts))


def _breaks(paragraph: Node, length: int) -> list[tuple[int, int]]:
    """The (start, end) character offsets of the sentences, in order and without overlap."""
    breaks: list[tuple[int, int]] = []
    for pair in paragraph.list("sentence_breaks"):
        value = pair.value
        if not (isinstance(value, list) and len(value) == 2 and all(type(x) is int for x in value)):
            pair.fail(f"expected [start, end], found {value!r}")
        if not (breaks[-1][1] if breaks else 0) <= value[0] < value[1] <= length:
            pair.fail(f"{value} is out of order, overlaps or leaves the context of {length} characters")
        breaks.append((value[0], value[1]))
    return breaks


def _answer(question: Node, context: str) -> tuple[int, int]:
    """The (start, end) offsets of the first answer, checked against the context."""
    answers = question.list("answers")
    if not answers:
        question.fail("no answer")
    text, start = answers[0].text("text"), answers[0].get("answer_start")
    if type(start.value) is not int:
        start.fail(f"expected a number, found {start.value!r}")
    found = context[max(start.value, 0) :][: len(text)]
    if start.value < 0 or found != text:
        start.fail(f"the context has {found!r} at {start.value}, the answer is {text!r}")
    return start.value, start.value + len(text)
