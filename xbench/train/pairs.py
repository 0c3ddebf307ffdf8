"""Pairs to train on, streamed from JSONL, plain or gzip."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from xbench.errors import DataError
from xbench.lines import objects
from xbench.train.config import KINDS


class Pair(NamedTuple):
    """A question and the passage that answers it; pairs of one group are translations of each other."""

    group: str
    language: str
    question: str
    passage: str
    passage_language: str
    kind: str
    source: str
    negatives: tuple[str, ...] = ()
    """Passages, in the passage's language, that look like answers and are none."""


def read_pairs(path: Path, advance: Callable[[int], None] = lambda _: None) -> Iterator[Pair]:
    """The pairs of a file, in its order, one held at a time; `advance` is told the bytes of it that are read.

    Raises:
        DataError: a line that is no pair, with file and line.
        StorageError: the file cannot be read.
    """
    for number, values in objects(path, advance):
        yield _pair(values, f"{path}:{number}")


def _pair(values: dict[str, Any], where: str) -> Pair:
    """A pair of its columns; `passage_lang` is by default `lang`, `kind` qa, `source` empty, `negatives` none."""
    for name in ("group", "lang", "question", "passage"):
        if name not in values:
            raise DataError(f"{where}: no {name!r}; expected group, lang, question and passage")
    texts = {"passage_lang": values["lang"], "kind": "qa", "source": "", **values}
    for name in ("group", "lang", "question", "passage", "passage_lang", "kind", "source"):
        if type(texts[name]) is not str:
            raise DataError(f"{where}: {name}: found {type(texts[name]).__name__}, expected a string")
        if name != "source" and not texts[name].strip():
            raise DataError(f"{where}: {name} is empty")
    if texts["kind"] not in KINDS:
        raise DataError(f"{where}: kind: found {texts['kind']!r}, expected one of {', '.join(KINDS)}")
    negatives = values.get("negatives") or []
    if type(negatives) is not list or not all(type(text) is str and text.strip() for text in negatives):
        raise DataError(f"{where}: negatives: expected a list of texts")
    return Pair(
        texts["group"],
        texts["lang"],
        texts["question"],
        texts["passage"],
        texts["passage_lang"],
        texts["kind"],
        texts["source"],
        tuple(negatives),
    )
