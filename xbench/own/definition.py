"""The text of a task's definition: TOML, the same bytes for the same task."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from xbench.errors import DataError
from xbench.readers.part import Part
from xbench.records import Passage
from xbench.task import Task


def text_of(value: Any) -> str:
    """A value as TOML has it.

    Raises:
        DataError: text that is no Unicode, as a file's name can be.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{value!r}: not UTF-8; a task's definition could not hold it: rename the file") from error
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(name)} = {text_of(each)}' for name, each in value.items())} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(text_of(each) for each in value)}]"
    return str(value)


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else text_of(name)


def definition(task: Task, at: str, golden: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The definition of a task of one's own, whose files lie `at` a folder."""
    lines = [
        "# Made by `xbench tasks new`.",
        "# Licence and citation are for you to fill in; they move no number, nor do title and description.",
        "# All else is what was found. If a file changes, make the task anew.",
    ]
    head: dict[str, Any] = {"name": task.name, "version": task.version, "title": task.title}
    head |= {"description": task.description, "format": task.format, "licence": task.licence, "citation": task.citation}
    head |= {"languages": task.languages, "settings": task.settings, "measures": task.measures, "primary": task.primary}
    head |= {} if task.query_languages == task.languages else {"query_languages": task.query_languages}
    head |= {} if task.passage_languages == task.languages else {"passage_languages": task.passage_languages}
    head |= {} if task.cross is None else {"cross": task.cross}
    head |= {"parallel": task.parallel} | ({} if task.pools == "language" else {"pools": task.pools})
    lines += _pairs(head)
    lines += ["", "[options]", *_pairs(task.options)]
    lines += ["", "# Where the files lie: a folder, absolute or from this file on.", "[source]"]
    lines += _pairs({"at": at, "url": "file:{name}", "repository": task.repository, "revision": task.revision})
    lines += ["", "# size in bytes", "[files]"]
    for key, source in task.sources.items():
        name = source.name.replace("{", "{{").replace("}", "}}")  # a template elsewhere
        file = {"name": name, "languages": task.file_languages[key], "size": source.size, "sha256": source.sha256}
        lines += _pairs({key: file})
    lines += [
        "",
        "# queries: with a passage judged relevant; judgements: lines of qrels of these. Left out and counted:",
        "# queries that no line judges (unjudged) or for which nothing is relevant (irrelevant), passages without",
        "# text (empty). Kept: passages with the text of another (duplicates), queries with the text of a passage",
        "# (copies; self: by id too).",
        "[counts]",
        *_pairs(task.counts),
    ]
    if task.shared and len(task.languages) > 1:
        lines += ["", "# Queries with a relevant passage in each language.", "[shared]", *_pairs(task.shared)]
    lines += ["", "# First, tenth and last row; texts as the first 16 digits of their SHA-256."]
    for key, rows in golden.items():
        lines += [f"[golden.{_key(key)}]", *_pairs(rows)]
    return ("\n".join(lines) + "\n").encode()


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{_key(name)} = {text_of(value)}" for name, value in values.items()]


def golden_rows(part: Part, asked: str, searched: str, first: Sequence[Passage] = ()) -> dict[str, Any]:
    """First, tenth and last query and passage of a language or cell, and of the judgements; `first` of a large one."""
    collection = part.collection
    queries = collection.queries.get(asked, [])
    passages = collection.passages.get(searched, first)
    found: dict[str, Any] = {}
    for role, rows in (("queries", queries), ("passages", passages)):
        places = [i for i in dict.fromkeys((0, 9, len(rows) - 1)) if 0 <= i < len(rows)]
        chosen = [(i, rows[i][0], rows[i][1]) for i in places]
        if chosen:
            found[role] = [[i, id_, hashlib.sha256(text.encode()).hexdigest()[:16]] for i, id_, text in chosen]
    relevant = []
    for query_id, _ in queries:
        docs = [doc_id for doc_id, grade in collection.qrels[query_id].items() if grade > 0]
        own = [doc_id for doc_id in docs if doc_id.startswith(f"{asked}:")]
        relevant += [[query_id, (own or docs)[0]]] if docs else []
    if relevant:
        found["qrels"] = [relevant[i] for i in dict.fromkeys((0, 9, len(relevant) - 1)) if i < len(relevant)]
    return found
