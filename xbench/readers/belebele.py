"""Belebele: questions on passages of FLORES-200, one JSONL file a language (arXiv 2308.16884).

A line has `link` and `question_number`, which name passage and question in all languages alike, the texts
`flores_passage` and `question`, four `mc_answer`s, `correct_answer_num` (from 1), `dialect` (the FLORES-200 code) and
`ds`, a date. As MTEB's BelebeleRetrieval has it (embeddings-benchmark/mteb, belebele_retrieval.py): a link is one
passage, with the text of its first line; questions of one text are one query, with all their passages for relevant.
The answers are choices, not strings of the passage, so there is no has-answer measure.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from xbench.errors import DataError
from xbench.progress import log
from xbench.readers.clusters import clusters
from xbench.readers.node import Node
from xbench.readers.part import Part
from xbench.records import Collection, Passage, Query
from xbench.storage import storage
from xbench.strictjson import parse_json
from xbench.task import Task

CHOICES = tuple(f"mc_answer{n}" for n in (1, 2, 3, 4))


class Questions(NamedTuple):
    """One language's file: `asked` maps the name of each query to the links of its passages."""

    texts: dict[str, str]  # query -> text; a query is named by the first question of that text, `<link>#<number>`
    asked: dict[str, list[str]]
    passages: dict[str, str]  # link -> text
    links: list[tuple[str, str]]  # of every question, merged or not, its name and the link
    counts: dict[str, int]


def read_belebele(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """One part; a query's relevant passages are those of the languages that some cell of its language searches.

    Raises:
        DataError: as `read_questions`, or a question on a passage that another language has not.
    """
    files = {language: read_questions(paths[language], language) for language in task.languages}
    searched: dict[str, list[str]] = {a: [] for a in task.languages}
    for cell in task.cells():
        searched[cell.query_language] += [b for b in cell.passage_languages if b not in searched[cell.query_language]]
    qrels: dict[str, dict[str, int]] = {}
    for a, file in files.items():
        for name, links in file.asked.items():
            for b in searched[a]:
                if lacking := [link for link in links if link not in files[b].passages]:
                    raise DataError(f"{paths[b]}: no passage {lacking[0]!r}, which {paths[a]} has a question on")
                qrels.setdefault(f"{a}:{name}", {}).update({f"{b}:{link}": 1 for link in links})
    yield Part(
        task.cells(),
        Collection(
            {a: [Query(f"{a}:{name}", text) for name, text in file.texts.items()] for a, file in files.items()},
            {a: [Passage(f"{a}:{link}", text) for link, text in file.passages.items()] for a, file in files.items()},
            qrels,
            clusters([link for file in files.values() for link in file.links]),
        ),
        {a: file.counts for a, file in files.items()},
    )


def read_questions(path: Path, language: str) -> Questions:
    r"""Read and check one language's file; only `\n` ends a line.

    Raises:
        DataError: not UTF-8, not JSON, a field missing or of the wrong type, an empty text, another `dialect`, a link
            with white space, a question twice; with file and row.
        StorageError: the file cannot be read.
    """
    texts: dict[str, str] = {}
    asked: dict[str, list[str]] = {}
    passages: dict[str, str] = {}
    links: list[tuple[str, str]] = []
    first: dict[str, str] = {}  # text -> query
    seen: set[str] = set()
    counts = Counter(questions=0)
    for row in _rows(path):
        link = row.text("link")
        if any(c.isspace() for c in link):
            row.fail(f"link {link!r} holds white space; run and qrels files could not carry it")
        if (dialect := row.text("dialect").casefold()) != language.casefold():  # the README has ary_arab
            row.fail(f"dialect {dialect!r}, expected {language!r}")
        name = f"{link}#{_whole(row, 'question_number', 2)}"
        if name in seen:
            row.fail(f"question {name} occurs twice in the file")
        seen.add(name)
        _whole(row, "correct_answer_num", len(CHOICES))
        for choice in CHOICES:
            row.text(choice)
        question, passage = row.text("question"), row.text("flores_passage")
        counts["questions"] += 1
        counts["differing"] += passages.setdefault(link, passage) != passage
        query = first.setdefault(question, name)
        texts.setdefault(query, question)
        asked.setdefault(query, []).append(link)
        links += [(name, link), (query, link)]
    if counts["differing"]:
        log.info("%s: %d lines have another text for a passage than its first line", path.name, counts["differing"])
    sizes = {"questions": counts["questions"], "queries": len(texts), "passages": len(passages)}
    return Questions(texts, asked, passages, links, sizes)


def _rows(path: Path) -> Iterator[Node]:
    with storage(path, "read"):
        content = path.read_bytes()
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), 1):
        if not line.strip():
            raise DataError(f"{path}:{number}: the line is empty; expected a JSON object")
        yield Node(parse_json(line, f"{path}:{number}"), f"{path}:{number}: ")


def _whole(row: Node, key: str, highest: int) -> int:
    """A number from 1, which JSONL files of tables also write as text."""
    value = row.get(key).value
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if type(number) is not int or not 1 <= number <= highest:
        row.get(key).fail(f"expected a number from 1 to {highest}, found {value!r}")
    return number
