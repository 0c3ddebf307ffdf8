"""Pairs to train on, streamed from JSONL, plain or gzip, and from Parquet."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from xbench import parquet
from xbench.errors import DataError
from xbench.lines import objects
from xbench.storage import sha256
from xbench.train.config import KINDS

REQUIRED = ("group", "lang", "question", "passage")
OPTIONAL = ("passage_lang", "kind", "source", "negatives")
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")
Advance = Callable[[int], None]


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


class Pairs(NamedTuple):
    """Where pairs come from: a file, or a task."""

    sha256: str
    """Of all that decides them."""
    size: int
    """What `read` tells its argument in all: bytes."""
    read: Callable[[Advance], Iterator[Pair]]
    """The pairs, in their order, one held at a time."""


def stream(files: Mapping[str, Pairs], advance: Advance = lambda _: None) -> Iterator[Pair]:
    """All pairs, file by file."""
    return itertools.chain.from_iterable(pairs.read(advance) for pairs in files.values())


def file_pairs(path: Path) -> Pairs:
    """The pairs of a file, as `read_pairs`.

    Raises:
        DataError: its name does not say what it is.
        StorageError: it cannot be read.
    """
    if not path.name.endswith(ENDINGS):
        raise DataError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
    return Pairs(sha256(path), path.stat().st_size, partial(read_pairs, path))


def read_pairs(path: Path, advance: Advance = lambda _: None) -> Iterator[Pair]:
    """The pairs of a file, in its order, one held at a time; `advance` is told the bytes of it that are read.

    Raises:
        DataError: a row that is no pair, with file and line (Parquet: row).
        StorageError: the file cannot be read.
    """
    rows = _rows(path, advance) if path.name.endswith(".parquet") else objects(path, advance)
    for number, values in rows:
        yield _pair(values, f"{path}:{number}")


def _rows(path: Path, advance: Advance) -> Iterator[tuple[int, dict[str, Any]]]:
    total, size, told = parquet.count_rows(path), path.stat().st_size, 0
    for number, values in enumerate(parquet.read_rows(path), 1):
        if number % parquet.BATCH == 0 or number == total:
            advance(size * number // total - told)
            told = size * number // total
        yield number, values


def _pair(values: dict[str, Any], where: str) -> Pair:
    """A pair of its columns; `passage_lang` is by default `lang`, `kind` qa, `source` empty, `negatives` none.

    A column that is not known is refused: it may be one of these, spelled otherwise.
    """
    if lacking := [name for name in REQUIRED if name not in values]:
        raise DataError(f"{where}: no {lacking[0]!r}; expected {', '.join(REQUIRED)}")
    if len(values) > len(REQUIRED) and (strange := sorted(values.keys() - {*REQUIRED, *OPTIONAL})):
        raise DataError(
            f"{where}: {strange[0]!r} is no column of pairs; expected {', '.join(REQUIRED)} and, if need be, "
            f"{', '.join(OPTIONAL)}; take it out"
        )
    texts = {name: values[name] for name in REQUIRED}  # first: what is wrong is not blamed on its copy
    texts |= {"passage_lang": values["lang"], "kind": "qa", "source": "", "negatives": []}
    texts |= {name: values[name] for name in OPTIONAL if values.get(name) is not None}
    negatives = texts.pop("negatives")
    for name, text in texts.items():
        if type(text) is not str:
            raise DataError(f"{where}: {name}: found {_kind(text)}, expected a string")
        if name != "source" and not text.strip():
            raise DataError(f"{where}: {name} is empty")
    for name in ("lang", "passage_lang"):
        if texts[name].split() != [texts[name]]:
            raise DataError(f"{where}: {name}: found {texts[name]!r}, expected the code of a language, without spaces")
    if texts["kind"] not in KINDS:
        raise DataError(f"{where}: kind: found {texts['kind']!r}, expected one of {', '.join(KINDS)}")
    if type(negatives) is not list or not all(type(text) is str and text.strip() for text in negatives):
        raise DataError(f"{where}: negatives: expected a list of texts, none of them empty")
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


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
