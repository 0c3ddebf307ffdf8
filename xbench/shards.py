"""The vectors of corpora that are too large to hold: shards of passages, each written whole, verified, resumable.

A shard is `rows` passages of one corpus file, from `start` on. Which batches its texts are encoded in depends on
nothing but the shard, so a killed and resumed run ends with the same bytes, and any machine can encode any shard.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.batches import WINDOW, Batch, Window, Work, batches, encode_batch, prepare_ahead
from xbench.encode import full_identity, text_key
from xbench.errors import DataError, IntegrityError
from xbench.models import Encoder
from xbench.progress import log, track
from xbench.records import Corpus, CorpusFile, Passage
from xbench.storage import atomic, fingerprint, sha256, storage
from xbench.store import UNKNOWN, Cut, describe
from xbench.strictjson import read_json

SCHEMA = 1  # raised when the layout of a shard or the plan of its batches changes: old shards are then unread
ROWS = 1 << 16
CARD = ("start", "rows", "last", "dimension", "vectors", "ids", "cut")


@dataclass(frozen=True)
class Shard:
    """Passages `start` to `start + rows` of a corpus file on disk: `card` and the two files that it names.

    `vectors` and `ids` are the SHA-256 of these: a .npy of float32 (rows, d), and UTF-8 text with a doc_id a line.
    """

    card: Path
    source: Path
    start: int
    rows: int
    last: bool  # of its file
    dimension: int
    vectors: str
    ids: str
    cut: Cut | None  # None where the model does not tell

    @property
    def files(self) -> dict[str, Path]:
        """The files by the SHA-256 they must have. Named by it: two runs never write different bytes under one name."""
        stem, folder = self.card.stem, self.card.parent
        return {
            self.vectors: folder / f"{stem}-{self.vectors[:16]}.npy",
            self.ids: folder / f"{stem}-{self.ids[:16]}.ids",
        }

    def verify(self) -> None:
        """Read the files and compare their hashes.

        Raises:
            IntegrityError: one is damaged.
            StorageError: one cannot be read.
        """
        for expected, path in self.files.items():
            if (found := sha256(path)) != expected:
                raise IntegrityError(f"{path} is damaged: found sha256 {found}; delete it and run again")

    def matrix(self) -> NDArray[np.float32]:
        """float32 (rows, d), mapped from the file."""
        path = self.files[self.vectors]
        if not self.rows:
            return np.empty((0, self.dimension), np.float32)
        with storage(path, "read"):
            # As a plain array: what is computed from a memmap would be one too.
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))

    def doc_ids(self) -> list[str]:
        """(rows,) of the passages."""
        path = self.files[self.ids]
        with storage(path, "read"):
            found = path.read_bytes().decode().split("\n")[:-1]
        if len(found) != self.rows:
            raise IntegrityError(f"{path}: found {len(found)} ids of {self.rows} passages; delete it and run again")
        return found

    def some_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The doc_ids of some rows; of a few a tenth of the time that all take."""
        path = self.files[self.ids]
        with storage(path, "read"):
            content = path.read_bytes()
        ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        starts = np.concatenate([[0], ends + 1])
        return [content[starts[row] : ends[row]].decode() for row in rows.tolist()]


def shard_identity(model: Encoder, batch_tokens: int | None, shard_rows: int) -> dict[str, object]:
    """All that can move a vector of a shard: the model, and how batches are cut."""
    return {**full_identity(model, batch_tokens), "shards": SCHEMA, "shard_rows": shard_rows}


class Shards(NamedTuple):
    """Of a corpus, in its order; `encoded` passages are of this run."""

    shards: list[Shard]
    encoded: int

    @property
    def cut(self) -> Cut | None:
        """What was cut off the passages; None if the model did not tell."""
        each = [shard.cut for shard in self.shards]
        told = [cut for cut in each if cut is not None]
        return None if len(told) < len(each) else Cut(sum(c.texts for c in told), sum(c.tokens for c in told))


class _File(NamedTuple):
    """A corpus file and its shards that are there, by number."""

    file: CorpusFile
    folder: Path
    shards: dict[int, Shard]

    @property
    def complete(self) -> bool:
        return any(shard.last for shard in self.shards.values()) and max(self.shards) + 1 == len(self.shards)


def encode_corpus(
    model: Encoder,
    language: str,
    corpus: Corpus,
    cache: Path,
    *,
    shard_rows: int = ROWS,
    batch_tokens: int | None = None,
) -> Shards:
    """The shards of a corpus, in its order; those that are there are verified, the others encoded.

    A file whose shards are all there is not read. Of texts that are equal within a shard one is encoded.
    Held at once: the texts and ids of two shards, the vectors of one (of two, if it has equal texts).

    Args:
        model: the encoder.
        language: of all passages.
        corpus: its files are known by their hashes.
        cache: the folder of all stores.
        shard_rows: passages a shard; part of the store's key.
        batch_tokens: as in `encode.encode`.

    Raises:
        DataError: the number of passages is not the expected one; besides what `corpus.read` raises.
        ModelOutputError: as in `encode.encode`.
        IntegrityError, StorageError: a shard is damaged or cannot be read or written.
    """
    identity = shard_identity(model, batch_tokens, shard_rows)
    folder = cache / "shards" / fingerprint(identity)
    describe(folder, identity)
    told = language if model.told_language else ""
    files = [_stored(file, folder / _key(file, corpus.form, told), shard_rows) for file in corpus.files]
    with track(f"encoding {language}", len(corpus), "passages") as advance:
        there = [shard for file in files for shard in file.shards.values()]
        for shard in there:
            shard.verify()
            advance(shard.rows)
        dimension = next((shard.dimension for shard in there if shard.rows), None)
        drafts = _drafts([file for file in files if not file.complete], corpus, shard_rows)
        windows = (window for draft in drafts for window in draft.windows(language, told))
        for window, prepared in prepare_ahead(model, windows):
            draft, low, ends = window.of
            for places in batches(model, window, prepared, batch_tokens or model.batch_tokens):
                batch = encode_batch(model, window, prepared, places, dimension)
                dimension = batch.vectors.shape[1]
                draft.put(low, batch)
                advance(len(places))
            if ends:
                shard = draft.write(shard_rows)
                draft.file.shards[draft.number] = shard
                advance(shard.rows - draft.distinct)
    shards = [file.shards[number] for file in files for number in sorted(file.shards)]
    if (found := sum(shard.rows for shard in shards)) != len(corpus):
        where = f"{corpus.files[0].path.parent}: " if corpus.files else ""
        raise DataError(f"{where}{language}: found {found} passages, expected {len(corpus)}; is a file missing?")
    log.info("%s: %d passages in %d shards, %d of them new", language, found, len(shards), len(shards) - len(there))
    return Shards(shards, found - sum(shard.rows for shard in there))


def _key(file: CorpusFile, form: str, told: str) -> str:
    """The folder of a corpus file's shards: other bytes, another way to read them or another language, another one."""
    return fingerprint({"file": file.sha256, "form": form, "language": told})[:32]


def _stored(file: CorpusFile, folder: Path, shard_rows: int) -> _File:
    """What is there of a file. A shard whose card has lost a file, such as a damaged one, is not."""
    found = _File(file, folder, {})
    with storage(folder, "read"):
        cards = sorted(folder.glob("*.json"))
    for card in cards:
        content: Any = read_json(card)
        if not isinstance(content, dict) or content.pop("sha256", None) != fingerprint(content):
            raise IntegrityError(f"{card} is damaged; delete it and run again")
        content["cut"] = None if content["cut"] is None else Cut(*content["cut"])
        shard = Shard(card, file.path, **content)
        if all(path.is_file() for path in shard.files.values()):
            found.shards[shard.start // shard_rows] = shard
    return found


def _drafts(files: Sequence[_File], corpus: Corpus, shard_rows: int) -> Iterator["_Draft"]:
    """The shards that are missing, each with its passages; a file is read no further than to its last one."""
    for file in files:
        there = dict(file.shards)  # of now: what is missing grows less meanwhile
        after = next((number + 1 for number, shard in there.items() if shard.last), None)
        left = None if after is None else max(number for number in range(after) if number not in there)
        for number, (rows, last) in enumerate(_chunks(corpus.read(file.file.path), shard_rows)):
            if number not in there:
                yield _Draft(file, number, rows, last)
            if number == left:
                break


def _chunks(rows: Iterator[Passage], size: int) -> Iterator[tuple[list[Passage], bool]]:
    """`size` rows at a time, and whether they are the last; at least once."""
    following = list(itertools.islice(rows, 1))
    while True:
        some = following + list(itertools.islice(rows, size - len(following)))
        following = list(itertools.islice(rows, 1))
        yield some, not following
        if not following:
            return


class _Draft:
    """A shard that is being encoded."""

    def __init__(self, file: _File, number: int, passages: list[Passage], last: bool):
        self.file, self.number, self.last = file, number, last
        self._passages = passages  # until its windows are made
        self._ids: list[str] = []
        self._vectors = np.empty((0, 0), np.float32)
        self._lost = np.zeros(0, np.int64)
        self._slots = np.zeros(0, np.int64)  # (rows,) of each passage the row of its vector
        self.distinct = 0

    def windows(self, language: str, told: str) -> Iterator[Window]:
        """The distinct texts, WINDOW at a time; called by the thread that prepares, before anything is put."""
        works: dict[bytes, Work] = {}
        places: dict[bytes, int] = {}
        slots = []
        for doc_id, text in self._passages:
            key = text_key("passages", told, text)
            works.setdefault(key, Work(key, text, language, doc_id))
            slots.append(places.setdefault(key, len(places)))
        self._ids = [passage.doc_id for passage in self._passages]
        self._passages = []
        self._slots, self.distinct = np.array(slots, np.int64), len(works)
        distinct = list(works.values())
        for low in range(0, max(1, len(distinct)), WINDOW):
            yield Window("passages", distinct[low : low + WINDOW], (self, low, low + WINDOW >= len(distinct)))

    def put(self, low: int, batch: Batch) -> None:
        """Take vectors of works low, low + 1, ... of the shard."""
        if not len(self._vectors):
            self._vectors = np.empty((self.distinct, batch.vectors.shape[1]), np.float32)
            self._lost = np.empty(self.distinct, np.int64)
        places = low + np.array(batch.places)
        self._vectors[places] = batch.vectors
        self._lost[places] = batch.lost

    def write(self, shard_rows: int) -> Shard:
        """Write the shard, its card last: where that is, the rest is."""
        alike = self.distinct < len(self._slots)
        vectors = self._vectors[self._slots] if alike else self._vectors
        lost = self._lost[self._slots]
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(vectors))
        ids = "".join(f"{doc_id}\n" for doc_id in self._ids).encode()
        digest = hashlib.sha256(header.getbuffer())
        digest.update(vectors.data)
        shard = Shard(
            self.file.folder / f"{self.number:06d}.json",
            self.file.file.path,
            self.number * shard_rows,
            len(self._ids),
            self.last,
            vectors.shape[1],
            digest.hexdigest(),
            hashlib.sha256(ids).hexdigest(),
            None if UNKNOWN in lost else Cut(int((lost > 0).sum()), int(lost.sum())),
        )
        with atomic(shard.files[shard.vectors]) as file:
            file.write(header.getbuffer())
            file.write(vectors.data)
        with atomic(shard.files[shard.ids]) as file:
            file.write(ids)
        content = {name: getattr(shard, name) for name in CARD}
        with atomic(shard.card) as file:
            file.write((json.dumps({**content, "sha256": fingerprint(content)}) + "\n").encode())
        return shard
