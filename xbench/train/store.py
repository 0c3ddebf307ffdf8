"""Pairs as columns on disk: read once, tokenized once, mapped into memory and never held.

A row is a pair. Columns of a row's facts are made from the files alone, tokens from a tokenizer too;
both lie in the cache under a hash of what made them. A folder's manifest is written last.
"""

import hashlib
import itertools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError, IntegrityError
from xbench.models import Role
from xbench.progress import track
from xbench.storage import atomic, fingerprint, storage
from xbench.strictjson import read_json
from xbench.train.config import KINDS, Data
from xbench.train.contamination import Contamination
from xbench.train.kin import first_of_kin, kin_of
from xbench.train.overlap import blocks
from xbench.train.pairs import Advance, Pair, Pairs, stream

Ints = NDArray[Any]
# Columns of a row. Groups and texts are 64 bits of BLAKE2b: no list of names is held, and two of 100 million
# differ all the same but for a chance of 1 in 3,000.
COLUMNS: dict[str, type] = {
    "group": np.uint64,
    "question": np.uint64,
    "passage": np.uint64,
    "language": np.uint8,
    "passage_language": np.uint8,
    "kind": np.uint8,
    "source": np.uint16,
    "negatives": np.uint16,
    "contaminated": np.uint8,
}
BLOCK = 10_000  # rows held at a time


class Table(NamedTuple):
    """The facts of n rows, and which of them are used."""

    columns: dict[str, Ints]
    """Mapped arrays (n,), as COLUMNS."""
    languages: list[str]
    sources: list[str]
    used: NDArray[np.bool_]
    """(n,): kept by the config's sources, languages, limits and tasks to be clean of."""
    held_out: NDArray[np.bool_]
    """(n,): of those used, for validation alone."""
    contaminated: NDArray[np.bool_]
    """(n,): would be used, but they or their translations have a text of a task to be clean of."""
    kin: NDArray[np.int32]
    """(n,): the same number for rows whose groups share a passage, see `kin`; of rows not used, -1."""
    about: dict[str, Any]
    """The files' names and SHA-256, and how many rows were left out for what reason: JSON values."""

    @property
    def training(self) -> NDArray[np.bool_]:
        """(n,): used, and not held out."""
        return self.used & ~self.held_out

    def dataset(self, rows: Ints) -> list[str]:
        """The data set of each row: `source/kind`."""
        kinds, sources = self.columns["kind"][rows], self.columns["source"][rows]
        return [f"{self.sources[s]}/{KINDS[k]}" for s, k in zip(sources, kinds, strict=True)]


def hash64(text: str) -> int:
    """64 bits of a text's BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def load_table(
    data: Data,
    files: Mapping[str, Pairs],
    cache: Path,
    contamination: Contamination | None = None,
) -> Table:
    """The columns of files, made if they are not in the cache, and the rows that a config uses.

    Args:
        data: what to use.
        files: name -> the pairs of each file or task.
        cache: xbench's.
        contamination: the tasks to be clean of.

    Raises:
        DataError: a line that is no pair; nothing left to train on.
        StorageError, IntegrityError: the cache.
    """
    hashes = {name: pairs.sha256 for name, pairs in files.items()}
    key = fingerprint({"files": list(hashes.values()), "clean_of": contamination and contamination.key, "version": 1})
    folder = cache / "pairs" / key[:32]
    if not (folder / "manifest.json").is_file():
        total = sum(pairs.size for pairs in files.values())
        with _folder(folder) as part, track("reading pairs", total, "bytes") as advance:
            _write_columns(part, files, contamination, advance)
    manifest: Any = read_json(folder / "manifest.json")
    columns = {name: _mapped(folder / name, dtype, manifest["rows"]) for name, dtype in COLUMNS.items()}
    return _select(data, columns, manifest["languages"], manifest["sources"], {"files": hashes})


def _write_columns(
    folder: Path, files: Mapping[str, Pairs], contamination: Contamination | None, advance: Advance
) -> None:
    languages: dict[str, int] = {}
    sources: dict[str, int] = {}
    rows = 0
    with _Files(folder) as out:
        for block in blocks(stream(files, advance), _one, BLOCK):
            values: dict[str, list[int]] = {name: [] for name in COLUMNS}
            for pair in block:
                values["group"].append(hash64(pair.group))
                values["question"].append(hash64(pair.question))
                values["passage"].append(hash64(pair.passage))
                values["language"].append(languages.setdefault(pair.language, len(languages)))
                values["passage_language"].append(languages.setdefault(pair.passage_language, len(languages)))
                values["kind"].append(KINDS.index(pair.kind))
                values["source"].append(sources.setdefault(pair.source, len(sources)))
                values["negatives"].append(len(pair.negatives))
            hits: Sequence[object] = contamination.found(block) if contamination else [None] * len(block)
            values["contaminated"] = [bool(some) for some in hits]
            if len(languages) > 64:
                raise DataError(f"pairs of {len(languages)} languages, such as {[*languages][64]!r}; at most 64")
            for name, dtype in COLUMNS.items():
                out.append(name, np.array(values[name], dtype))
            rows += len(block)
    _manifest(folder, {"rows": rows, "languages": [*languages], "sources": [*sources]})


def _select(
    data: Data, columns: dict[str, Ints], languages: list[str], sources: list[str], about: dict[str, Any]
) -> Table:
    """Which rows a config uses, and why others are left out."""
    for what, names, known in (
        ("language", [*data.languages, *data.limits], languages),
        ("source", [*data.sources, *data.without], sources),
    ):
        if strange := sorted(set(names) - set(known)):
            raise DataError(f"[data] {what} {strange[0]!r} is not in the pairs; found {', '.join(sorted(known))}")
    left_out: dict[str, int] = {}
    used = np.ones(len(columns["group"]), bool)

    def keep(reason: str, mask: NDArray[np.bool_]) -> None:
        nonlocal used
        if lost := int((used & ~mask).sum()):
            left_out[reason] = lost
        used = used & mask

    source = columns["source"]
    wanted = [i for i, name in enumerate(sources) if name in (data.sources or sources) and name not in data.without]
    keep("sources", np.isin(source, wanted))
    chosen = [i for i, name in enumerate(languages) if name in (data.languages or languages)]
    keep("languages", np.isin(columns["language"], chosen) & np.isin(columns["passage_language"], chosen))
    # A translation of what is in a task goes with it.
    found = used & (columns["contaminated"] > 0)
    contaminated = used & np.isin(columns["group"], columns["group"][found])
    keep("contaminated", ~contaminated)
    for name, limit in data.limits.items():
        mine = (columns["language"] == languages.index(name)) & used
        share = min(1.0, limit / max(1, int(mine.sum())))
        keep(f"limit of {name}", ~mine | (_uniform(columns["group"], 2) < share))
    if not used.any():
        raise DataError(f"no pair is left to train on; left out: {left_out}")
    kin = kin_of(columns["group"], columns["passage"], used)
    # Kin together: else a question would be held out, and its passage trained on with another question.
    held_out = used & (_uniform(first_of_kin(columns["group"], kin), 1) < data.holdout)
    about |= {"rows": len(used), "left_out": left_out}
    return Table(columns, languages, sources, used, held_out, contaminated, kin, about)


def _uniform(groups: Ints, salt: int) -> NDArray[np.float64]:
    """A number in [0, 1) of each group's name: the same in every file, and for every salt another."""
    mixed = (groups.astype(np.uint64) ^ np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return np.asarray((mixed >> np.uint64(11)) / 2.0**53)


class Tokens(NamedTuple):
    """The token ids of one text of each row."""

    ids: Ints
    """Mapped int32, all rows one after the other."""
    offsets: Ints
    """Mapped int64 (n + 1): where each text begins."""

    def of(self, rows: Sequence[int] | Ints) -> list[Ints]:
        """The ids of some texts, int32 each."""
        return [self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows]


class TokenStore(NamedTuple):
    """What the model reads of each row; a row that is not used has texts of no token."""

    questions: Tokens
    passages: Tokens
    negatives: Tokens
    """Of all rows one after the other: `first_negative[row]` is where a row's begin."""
    first_negative: Ints


def load_tokens(
    table: Table,
    files: Mapping[str, Pairs],
    tokenize: Callable[[list[str], Role], list[list[int]]],
    key: Mapping[str, Any],
    cache: Path,
) -> TokenStore:
    """The tokens of a table's rows, made if they are not in the cache.

    Args:
        table, files: from `load_table`.
        tokenize: texts, role (queries or passages) -> token ids of each.
        key: identifies `tokenize`.
        cache: xbench's.
    """
    rows = hashlib.sha256(np.packbits(table.used).tobytes()).hexdigest()
    folder = cache / "tokens" / fingerprint({"files": [*table.about["files"].values()], "rows": rows, **key})[:32]
    if not (folder / "manifest.json").is_file():
        with _folder(folder) as part, track("tokenizing", len(table.used), "pairs") as advance:
            _write_tokens(part, table, files, tokenize, advance)
    manifest: Any = read_json(folder / "manifest.json")
    found = {}
    for name in ("questions", "passages", "negatives"):
        offsets = _mapped(folder / f"{name}.offsets", np.int64, manifest[name] + 1)
        found[name] = Tokens(_mapped(folder / f"{name}.ids", np.int32, int(offsets[-1])), offsets)
    counts = np.where(table.used, table.columns["negatives"], 0)
    return TokenStore(**found, first_negative=np.concatenate([[0], np.cumsum(counts)]))


def _write_tokens(
    folder: Path,
    table: Table,
    files: Mapping[str, Pairs],
    tokenize: Callable[[list[str], Role], list[list[int]]],
    advance: Callable[[int], None],
) -> None:
    counts: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    row = 0
    with _Files(folder) as out:
        for name in ("questions", "passages", "negatives"):
            out.append(f"{name}.offsets", np.zeros(1, np.int64))
            out.append(f"{name}.ids", np.zeros(0, np.int32))
        for block in blocks(stream(files), _one, BLOCK):
            mine = table.used[row : row + len(block)]
            kept = [pair for pair, use in zip(block, mine, strict=True) if use]
            negatives = [text for pair in kept for text in pair.negatives]
            parts: list[tuple[str, Role, list[str]]] = [
                ("questions", "queries", [pair.question for pair in kept]),
                ("passages", "passages", [pair.passage for pair in kept]),
                ("negatives", "passages", negatives),
            ]
            for name, role, texts in parts:
                ids = tokenize(texts, role) if texts else []
                lengths = np.zeros(len(ids) if name == "negatives" else len(block), np.int64)
                lengths[slice(None) if name == "negatives" else mine] = [len(each) for each in ids]
                out.append(f"{name}.ids", np.array([i for each in ids for i in each], np.int32))
                out.append(f"{name}.offsets", ends[name] + np.cumsum(lengths))
                ends[name] += int(lengths.sum())
                counts[name] += len(lengths)
            row += len(block)
            advance(len(block))
    _manifest(folder, dict(counts))


def used_texts(table: Table, files: Mapping[str, Pairs], most: int) -> Iterator[str]:
    """The texts that are trained on, of at most about `most` pairs a language, for a tokenizer to be trained on."""
    language = table.columns["language"]
    use = table.training
    share = [most / max(1, int((use & (language == i)).sum())) for i in range(len(table.languages))]
    use &= _uniform(np.arange(len(use), dtype=np.uint64), 3) < np.array(share)[language]
    for pair in itertools.compress(stream(files), use):
        yield pair.question
        if pair.passage != pair.question:
            yield pair.passage


def _one(pair: Pair) -> int:
    return 1


class _Files:
    """Files of a folder that arrays are appended to."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._open = folder, dict[str, IO[bytes]]()

    def append(self, name: str, array: Ints) -> None:
        with storage(self._folder / name, "write"):
            if name not in self._open:
                self._open[name] = (self._folder / name).open("wb")
            self._open[name].write(np.ascontiguousarray(array).tobytes())

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._open.values():
            file.close()


class _folder:
    """A folder that appears whole; of two writers the first wins, with the same content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        with storage(self._folder, "write"):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._folder.parent))
        return self._part

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            with storage(self._folder, "write"):
                try:
                    self._part.rename(self._folder)
                except OSError:  # it is not empty: another writer was first
                    if not self._folder.is_dir():
                        raise
        shutil.rmtree(self._part, ignore_errors=True)


def _manifest(folder: Path, values: Mapping[str, Any]) -> None:
    with atomic(folder / "manifest.json") as file:
        file.write(json.dumps(values, ensure_ascii=False, sort_keys=True).encode())


def _mapped(path: Path, dtype: type, count: int) -> Ints:
    """A mapped array of that many numbers."""
    with storage(path, "read"):
        size = path.stat().st_size
    if size != count * np.dtype(dtype).itemsize:
        raise IntegrityError(f"{path} is damaged: {size} bytes, expected {count} x {np.dtype(dtype).itemsize}")
    return np.memmap(path, dtype, "r") if count else np.zeros(0, dtype)
