"""Questions and their human translations into English, line by line: XOR-TyDi's question translation data.

Two text files a language, of which line i of the one is the translation of line i of the other (AkariAsai/XORQA,
README, "Question translation data": released for the train questions). A declared task of ours, not XOR-Retrieve.

A query is a distinct question, a passage a distinct English line, and relevant are all English lines that the file has
for that question. Left out and counted are pairs of which one line is empty and pairs that are the same text twice
(untranslated: 401 of the 4,638 Finnish ones).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from xbench.errors import DataError
from xbench.lines import text_lines
from xbench.readers.part import Part
from xbench.records import Collection, Passage, Query
from xbench.task import Task


def read_translations(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """Sources `<language>` and `<language>-en`; ids are the numbers of the lines where a text stands first, from 1.

    Raises:
        DataError: not UTF-8, or files of different lengths, with file and line.
        StorageError: a file cannot be read.
    """
    for cell in task.cells():
        language, (english,) = cell.query_language, cell.passage_languages
        sources, targets = paths[language], paths[f"{language}-{english}"]
        first, second = ([text for _, text in text_lines(path)] for path in (sources, targets))
        if len(first) != len(second):
            raise DataError(f"{sources} has {len(first)} lines, {targets} {len(second)}; expected as many")
        queries: dict[str, Query] = {}
        passages: dict[str, Passage] = {}
        qrels: dict[str, dict[str, int]] = {}
        counts = {"pairs": len(first), "empty": 0, "untranslated": 0}
        for number, (text, translation) in enumerate(zip(first, second, strict=True), 1):
            if not (text.strip() and translation.strip()):
                counts["empty"] += 1
            elif text == translation:
                counts["untranslated"] += 1
            else:
                query = queries.setdefault(text, Query(f"{language}:{number}", text))
                passage = passages.setdefault(translation, Passage(f"{english}:{language}.{number}", translation))
                qrels.setdefault(query.query_id, {})[passage.doc_id] = 1
        counts |= {"queries": len(queries), "passages": len(passages)}
        collection = Collection({language: [*queries.values()]}, {english: [*passages.values()]}, qrels, {})
        yield Part([cell], collection, {cell.name: counts})
