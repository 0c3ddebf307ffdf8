"""Rows of JSON Lines, tab-separated and Parquet files, all alike, and the fields that hold id, text and language."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from xbench import parquet
from xbench.errors import DataError
from xbench.lines import raw_lines
from xbench.readers.checks import check_id, json_rows, shown, tsv_rows
from xbench.readers.node import Node
from xbench.readers.qrels import DOC_COLUMNS, GRADE_COLUMNS, QUERY_COLUMNS, Judgement, grade_of, text_qrels

# The names under which BEIR, MTEB and ir_datasets keep the same thing; a row may have one of each line.
IDS = {"passages": ("_id", "id", *DOC_COLUMNS), "queries": ("_id", "id", *QUERY_COLUMNS)}
TEXTS = {"passages": ("text",), "queries": ("text", "query")}
TITLE = "title"
LANGUAGES = ("language", "lang")


class Text(NamedTuple):
    """A query or a passage as a file has it, its id without language; `where` is `file:row`."""

    where: str
    language: str
    id: str
    text: str
    body: str  # the text without the title
    answers: tuple[str, ...] = ()  # of the fields `answers`, a list, or `answer`


def suffix(path: Path) -> str:
    """`.jsonl`, `.tsv` or `.parquet`: what kind of file a name promises, packed or not.

    Raises:
        DataError: none of these.
    """
    name = path.name.lower().removesuffix(".gz")
    for kind, endings in {".jsonl": (".jsonl", ".json"), ".tsv": (".tsv", ".txt", ".trec"), ".parquet": ()}.items():
        if name.endswith((kind, *endings)):
            return kind
    raise DataError(
        f"{path}: expected a name that ends in .jsonl, .json, .tsv, .txt, .trec (each also .gz) or .parquet"
    )


def read_texts(path: Path, role: str, languages: tuple[str, ...], *, answers: bool = False) -> Iterator[Text]:
    """The queries or passages (`role`) of a file; with their answer strings, if these are to be read.

    A passage's text is its title, a space and its text, without white space at the ends, as BEIR (`(title + sep +
    text).strip()`, beir/retrieval/models/sentence_bert.py) and MTEB (`_corpus_to_dict`, mteb/_create_dataloaders.py)
    give it to a model; a query's is as it stands. A passage's may come out empty: that is for the caller to judge.
    Where the file holds several languages, each row says its own.

    Raises:
        DataError: not in its format, a field missing or twice under two names, of the wrong type, an id that cannot
            be one, a language that is none of `languages`; with file and row.
    """
    kind: type | None = None
    for row in _nodes(path, role):
        where, name = row.where.removesuffix(": "), _one(row, IDS[role])
        value = row.value[name]  # type: ignore[index]
        kind = kind or type(value)
        if type(value) is not kind:
            row.fail(f"{name} is {shown(value)}, a {type(value).__name__}; in the rows before it is a {kind.__name__}")
        id_ = check_id(_id_text(row, name), where)
        text_name = _one(row, TEXTS[role])
        if role == "queries":
            text = body = row.text(text_name)
        else:
            body = _free_text(row, text_name)
            text = f"{_free_text(row, TITLE)} {body}".strip()
        language = languages[0] if len(languages) == 1 else _language(row, languages)
        yield Text(where, language, id_, text, body, _answers(row) if answers else ())


def read_judgements(path: Path) -> Iterator[Judgement]:
    """The judgements of a file: TREC's or BEIR's columns, or JSON Lines or Parquet with BEIR's columns (MTEB).

    Raises:
        DataError: not in its format; with file and row.
    """
    if suffix(path) == ".tsv":
        yield from text_qrels(path)
        return
    for row in _nodes(path, "qrels"):
        where = row.where.removesuffix(": ")
        query, doc, grade = (_one(row, names) for names in (QUERY_COLUMNS, DOC_COLUMNS, GRADE_COLUMNS))
        query_id, doc_id = (check_id(_id_text(row, name), where) for name in (query, doc))
        yield Judgement(query_id, doc_id, grade_of(row.value[grade], where), where)  # type: ignore[index]


def count_rows(path: Path) -> int:
    """How many rows a file has at most, without looking into them."""
    kind = suffix(path)
    if kind == ".parquet":
        return parquet.count_rows(path)
    return sum(1 for _ in raw_lines(path, marked=True))


def _nodes(path: Path, role: str) -> Iterator[Node]:
    kind = suffix(path)
    if kind == ".parquet":
        return (Node(value, f"{path}:{row}: ") for row, value in enumerate(parquet.read_rows(path), 1))
    return json_rows(path) if kind == ".jsonl" else _table(path, role)


def _table(path: Path, role: str) -> Iterator[Node]:
    """Rows of a tab-separated file: a header that names the columns, or else two columns, id and text."""
    names: list[str] = []
    for where, cells in tsv_rows(path):
        if not names:
            if cells[0] in IDS[role]:
                names = cells
                if len(set(names)) != len(names):
                    raise DataError(f"{where}: a column name twice in {shown(names)}")
                continue
            names = ["id", "text"]
        if len(cells) != len(names):
            raise DataError(f"{where}: {len(cells)} columns, expected {len(names)} between tabs: {', '.join(names)}")
        yield Node(dict(zip(names, cells, strict=True)), f"{where}: ")


def _one(row: Node, names: tuple[str, ...]) -> str:
    """Which of the names the row has.

    Raises:
        DataError: none, or more than one.
    """
    found = [name for name in names if name in row.value]  # type: ignore[operator]
    if len(found) > 1:
        row.fail(f"fields {' and '.join(map(repr, found))} mean the same; one of them must go")
    if not found:
        row.get(names[0])  # which says what is there
    return found[0]


def _id_text(row: Node, name: str) -> str:
    """An id: text as it stands; a whole number (MTEB casts it to a string) as its digits."""
    value = row.value[name]  # type: ignore[index]
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        row.fail(f"{name} is {shown(value)}, expected text or a whole number")
    return value


def _free_text(row: Node, name: str) -> str:
    """A text that may be empty; a title may also be null or absent."""
    if name == TITLE and row.value.get(name) is None:  # type: ignore[attr-defined]
        return ""
    node = row.get(name)
    if not isinstance(node.value, str):
        node.fail(f"expected text, found {type(node.value).__name__}")
    return node.value


def _answers(row: Node) -> tuple[str, ...]:
    """The answer strings of a row, none if it has no such field."""
    has = [name for name in ("answers", "answer") if row.value.get(name) is not None]  # type: ignore[attr-defined]
    if len(has) > 1:
        row.fail("fields 'answers' and 'answer' mean the same; one of them must go")
    if has == ["answers"]:
        return tuple(dict.fromkeys(each.is_text() for each in row.list("answers")))
    return (row.text("answer"),) if has else ()


def _language(row: Node, languages: tuple[str, ...]) -> str:
    name = _one(row, LANGUAGES)
    language = row.text(name)
    if language not in languages:
        row.fail(f"{name} is {shown(language)}, expected one of {', '.join(languages)}")
    return language
