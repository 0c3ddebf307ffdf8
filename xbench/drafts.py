"""Shards in the making: the passages of one, encoded in batches that depend on nothing but the shard."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.batches import WINDOW, Batch, Window, Work, batches, encode_batch, prepare_ahead
from xbench.encode import text_key
from xbench.folders import Folder
from xbench.models import Encoder
from xbench.shard import Shard, write_shard
from xbench.store import UNKNOWN, Cut

Advance = Callable[[int], None]


class Draft(NamedTuple):
    """A shard to be encoded, with its passages: all that any process needs for it."""

    folder: Folder
    number: int  # in its file
    source: Path
    start: int
    last: bool  # of its file
    ids: list[str]  # of its passages
    texts: list[str]
    language: str
    told: str  # the language as the model is told it


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
        ModelOutputError, StorageError: as `encode_corpora`.
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
        self._vectors = np.empty((0, 0), np.float32)
        self._lost = np.zeros(0, np.int64)
        self._slots = np.zeros(0, np.int64)  # (rows,) of each passage the row of its vector
        self.distinct = 0

    def windows(self) -> Iterator[Window]:
        """The distinct texts, WINDOW at a time; called by the thread that prepares, before anything is put."""
        language, told, texts = self._draft.language, self._draft.told, self._draft.texts
        works: dict[bytes, Work] = {}
        places: dict[bytes, int] = {}
        slots = []
        for doc_id, text in zip(self._draft.ids, texts, strict=True):
            key = text_key("passages", told, text)
            works.setdefault(key, Work(key, text, language, doc_id))
            slots.append(places.setdefault(key, len(places)))
        texts.clear()  # the distinct ones are held by the windows now
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
        folder, number, source, start, last, ids, *_ = self._draft
        return write_shard(folder, number, source, start, last, vectors, ids, cut)
