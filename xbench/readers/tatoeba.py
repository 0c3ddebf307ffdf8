"""Tatoeba as LASER cut it: line i of one file translates line i of the other (Artetxe and Schwenk 2019).

Each language has up to 1,000 sentences and English ones of its own; a sentence searches those for its
translation, which is relevant alone, even if another has the same text (there is none in LASER's files). XTREME
and XTREME-R use these files and print accuracy@1, which is Success@1 (google-research/xtreme,
third_party/evaluate_retrieval.py).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from xbench.errors import DataError
from xbench.readers.part import Part
from xbench.records import Collection, Passage, Query
from xbench.storage import storage
from xbench.task import Task


def read_tatoeba(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """One part for each cell `cross/a-en`.

    The sentences of language `a` are the source `a`, the English ones `a-en`; ids are those of LASER's files,
    `af:afr.17` and `en:afr.17`, lines counted from 0.

    Raises:
        DataError: files of different lengths, an empty line, text that is not UTF-8 or does not end with a line feed.
        StorageError: a file cannot be read.
    """
    for cell in task.cells():
        asked, searched = cell.query_language, cell.passage_languages[0]
        sides = paths[asked], paths[f"{asked}-{searched}"]
        queries, passages = map(_lines, sides)
        if len(queries) != len(passages):
            raise DataError(f"{sides[0]}: {len(queries)} lines, but {len(passages)} in {sides[1]}; expected as many")
        code = sides[0].suffix.removeprefix(".")
        names = [f"{code}.{i}" for i in range(len(queries))]
        collection = Collection(
            {asked: [Query(f"{asked}:{name}", text) for name, text in zip(names, queries, strict=True)]},
            {searched: [Passage(f"{searched}:{name}", text) for name, text in zip(names, passages, strict=True)]},
            {f"{asked}:{name}": {f"{searched}:{name}": 1} for name in names},
            {},
        )
        counts = {"queries": len(queries), "passages": len(passages), "duplicates": len(passages) - len(set(passages))}
        yield Part([cell], collection, {cell.name: counts})


def _lines(path: Path) -> list[str]:
    """The lines of a file; only a line feed ends one."""
    with storage(path, "read"):
        content = path.read_bytes()
    try:
        *lines, rest = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{row}: not UTF-8 (byte {error.start}: {content[error.start]:#04x})") from error
    if rest:
        raise DataError(f"{path}:{len(lines) + 1}: the last line does not end with a line feed; is the file whole?")
    for row, line in enumerate(lines, 1):
        if not line.strip():
            raise DataError(f"{path}:{row}: the line is empty")
        if "\r" in line or "\ufeff" in line:
            raise DataError(f"{path}:{row}: a carriage return or byte order mark; expected the file as LASER has it")
    return lines
