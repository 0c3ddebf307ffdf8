"""The vectors of corpora that are too large to hold: shards of passages, each written whole, verified, resumable.

A shard is `rows` passages of one corpus file, from `start` on. Which batches its texts are encoded in depends on
nothing but the shard, so a killed and resumed run ends with the same bytes, and any machine can encode any shard.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.batches import WINDOW, Batch, Window, Work, batches, check_width, encode_batch, prepare_ahead
from xbench.distant import Distant
from xbench.encode import full_identity, text_key
from xbench.errors import DataError
from xbench.folders import Folder, describe
from xbench.models import Encoder
from xbench.progress import log, track
from xbench.records import Corpus, CorpusFile, Passage
from xbench.shard import Shard, stored_shard, stored_shards, write_shard
from xbench.storage import fingerprint
from xbench.store import UNKNOWN, Cut
from xbench.workers import Here, Workers

SCHEMA = 1  # raised when the layout of a shard or the plan of its batches changes: old shards are then unread
ROWS = 1 << 16
Advance = Callable[[int], None]


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


class Draft(NamedTuple):
    """A shard to be encoded, with its passages: all that any process needs for it."""

    folder: Folder
    number: int  # in its file
    source: Path
    start: int
    last: bool  # of its file
    passages: list[Passage]
    language: str
    told: str  # the language as the model is told it


class _File(NamedTuple):
    """A corpus file and its shards that are there, by number."""

    file: CorpusFile
    folder: Folder
    shards: dict[int, Shard]

    @property
    def complete(self) -> bool:
        return any(shard.last for shard in self.shards.values()) and max(self.shards) + 1 == len(self.shards)


def encode_corpus(
    model: Encoder,
    language: str,
    corpus: Corpus,
    root: Folder,
    *,
    shard_rows: int = ROWS,
    batch_tokens: int | None = None,
    workers: Workers | None = None,
) -> Shards:
    """The shards of a corpus, in its order; those that are there are verified, the others encoded.

    A file whose shards are all there is not read. Of texts that are equal within a shard one is encoded.
    Held at once: the texts and ids of two shards, the vectors of one (of two, if it has equal texts). With workers
    of a cluster each of them holds that much; here are the texts of as many shards as they encode, and of two more.

    Args:
        model: the encoder; one that is `Distant` needs the workers that it is on.
        language: of all passages.
        corpus: its files are known by their hashes.
        root: the folder of all shards.
        shard_rows: passages a shard; part of the store's key.
        batch_tokens: as in `encode.encode`.
        workers: by default this process.

    Raises:
        DataError: the number of passages is not the expected one; besides what `corpus.read` raises.
        ModelOutputError: as in `encode.encode`.
        IntegrityError, StorageError: a shard is damaged or cannot be read or written.
        IncompleteError: as `Workers.map`.
    """
    workers = workers or Here()
    identity = shard_identity(model, batch_tokens, shard_rows)
    describe(root / fingerprint(identity), identity)
    files = find_files(model, language, corpus, root, shard_rows, batch_tokens)
    there = [shard for file in files for shard in file.shards.values()]
    verify(there, language, workers)
    rows = sum(shard.rows for shard in there)
    dimension = next((shard.dimension for shard in there if shard.rows), None)
    told = language if model.told_language else ""
    by_folder = {file.folder: file for file in files}
    with track(f"encoding {language}", max(0, len(corpus) - rows), "passages") as advance:
        drafts = _drafts([file for file in files if not file.complete], corpus, shard_rows, language, told)
        for shard in _encoded(model, drafts, batch_tokens, dimension, workers, advance):
            by_folder[shard.folder].shards[shard.number] = shard
            if shard.rows:
                dimension = dimension or shard.dimension
                check_width(model.name, shard.dimension, dimension, f"{shard.source}, row {shard.start + 1}")
    shards = [file.shards[number] for file in files for number in sorted(file.shards)]
    if (found := sum(shard.rows for shard in shards)) != len(corpus):
        where = f"{corpus.files[0].path.parent}: " if corpus.files else ""
        raise DataError(f"{where}{language}: found {found} passages, expected {len(corpus)}; is a file missing?")
    log.info("%s: %d passages in %d shards, %d of them new", language, found, len(shards), len(shards) - len(there))
    return Shards(shards, found - rows)


def find_files(
    model: Encoder, language: str, corpus: Corpus, root: Folder, shard_rows: int, batch_tokens: int | None
) -> list[_File]:
    """The files of a corpus, each with its shards that are there, not verified.

    Raises:
        IntegrityError, StorageError: as `encode_corpus`.
    """
    folder = root / fingerprint(shard_identity(model, batch_tokens, shard_rows))
    told = language if model.told_language else ""
    folders = [folder / _key(file, corpus.form, told) for file in corpus.files]
    return [_File(f, own, stored_shards(own, f.path)) for f, own in zip(corpus.files, folders, strict=True)]


def verify(shards: Sequence[Shard], language: str, workers: Workers) -> None:
    """Read shards and compare their hashes."""
    if shards:
        with track(f"verifying {language}", sum(shard.rows for shard in shards), "passages") as advance:
            for rows in workers.map(_verify, None, shards):
                advance(rows)


def _verify(_: None, shard: Shard) -> int:
    shard.verify()
    return shard.rows


def _key(file: CorpusFile, form: str, told: str) -> str:
    """The folder of a corpus file's shards: other bytes, another way to read them or another language, another one."""
    return fingerprint({"file": file.sha256, "form": form, "language": told})[:32]


def _drafts(files: Sequence[_File], corpus: Corpus, shard_rows: int, language: str, told: str) -> Iterator[Draft]:
    """The shards that are missing, each with its passages; a file is read no further than to its last one."""
    for file in files:
        there = dict(file.shards)  # of now: what is missing grows less meanwhile
        after = next((number + 1 for number, shard in there.items() if shard.last), None)
        left = None if after is None else max(number for number in range(after) if number not in there)
        path = file.file.path
        for number, (rows, last) in enumerate(_chunks(corpus.read(path), shard_rows)):
            if number not in there:
                yield Draft(file.folder, number, path, number * shard_rows, last, rows, language, told)
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


def _encoded(
    model: Encoder,
    drafts: Iterator[Draft],
    batch_tokens: int | None,
    dimension: int | None,
    workers: Workers,
    advance: Advance,
) -> Iterator[Shard]:
    """The shards of drafts, as they are done."""
    if not isinstance(model, Distant):
        yield from encode_drafts(model, drafts, batch_tokens, dimension, advance)
        return
    for shard in workers.map(encode_draft, (model, batch_tokens), _read_ahead(drafts)):
        advance(shard.rows)
        yield shard


def _read_ahead(drafts: Iterator[Draft]) -> Iterator[Draft]:
    """A thread reads the next draft while the last one is on its way: no worker waits for a file."""
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(next, drafts, None)
        while (draft := future.result()) is not None:
            future = executor.submit(next, drafts, None)
            yield draft


def encode_draft(how: tuple[Distant, int | None], draft: Draft) -> Shard:
    """On a worker: one shard, unless a worker that was lost had written it."""
    model, batch_tokens = how
    if (found := stored_shard(draft.folder, draft.source, draft.number)) is not None:
        return found
    (shard,) = encode_drafts(model.load(), [draft], batch_tokens)
    return shard


def encode_drafts(
    model: Encoder,
    drafts: Iterator[Draft] | Sequence[Draft],
    batch_tokens: int | None = None,
    dimension: int | None = None,
    advance: Advance = lambda _: None,
) -> Iterator[Shard]:
    """Encode and write shards, in order; while one is encoded, a thread reads and tokenizes what follows.

    Args:
        model: the encoder.
        drafts: iterated by that thread.
        batch_tokens: as in `encode.encode`.
        dimension: of vectors that are there already, if there are any.
        advance: called with each number of passages done.

    Raises:
        ModelOutputError, StorageError: as `encode_corpus`.
    """
    windows = (window for draft in drafts for window in _Making(draft).windows())
    for window, prepared in prepare_ahead(model, windows):
        making, low, ends = window.of
        for places in batches(model, window, prepared, batch_tokens or model.batch_tokens):
            batch = encode_batch(model, window, prepared, places, dimension)
            dimension = batch.vectors.shape[1]
            making.put(low, batch)
            advance(len(places))
        if ends:
            shard = making.write()
            advance(shard.rows - making.distinct)
            yield shard


class _Making:
    """A shard that is being encoded."""

    def __init__(self, draft: Draft):
        self._draft = draft
        self._ids: list[str] = []
        self._vectors = np.empty((0, 0), np.float32)
        self._lost = np.zeros(0, np.int64)
        self._slots = np.zeros(0, np.int64)  # (rows,) of each passage the row of its vector
        self.distinct = 0

    def windows(self) -> Iterator[Window]:
        """The distinct texts, WINDOW at a time; called by the thread that prepares, before anything is put."""
        language, told, passages = self._draft.language, self._draft.told, self._draft.passages
        works: dict[bytes, Work] = {}
        places: dict[bytes, int] = {}
        slots = []
        for doc_id, text in passages:
            key = text_key("passages", told, text)
            works.setdefault(key, Work(key, text, language, doc_id))
            slots.append(places.setdefault(key, len(places)))
        self._ids = [passage.doc_id for passage in passages]
        passages.clear()  # the distinct ones are held by the windows now
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

    def write(self) -> Shard:
        """Write the shard."""
        alike = self.distinct < len(self._slots)
        vectors: NDArray[np.float32] = self._vectors[self._slots] if alike else self._vectors
        lost = self._lost[self._slots]
        cut = None if UNKNOWN in lost else Cut(int((lost > 0).sum()), int(lost.sum()))
        _, number, source, start, last, *_ = self._draft
        return write_shard(self._draft.folder, number, source, start, last, vectors, self._ids, cut)
