"""Texts of a task that is held, encoded by workers: pieces of windows, in the very batches of one process."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from xbench.batches import Batch, Window, batches, encode_batch, prepare_ahead
from xbench.distant import Distant, Spec
from xbench.models import Prepared
from xbench.workers import Workers

# Texts that a worker encodes in one go, about: what is lost with it.
PIECE = 1 << 11
# The window that this process has tokenized last, by the model and its texts.
_PREPARED: dict[tuple[Spec, bytes], Prepared] = {}


class _Shared(NamedTuple):
    model: Distant
    windows: Sequence[Window]
    missing: Sequence[Sequence[bool]]  # of each window, which texts are to be encoded
    budget: int


class _Piece(NamedTuple):
    """The batches of a window that are in part `number` of `of`."""

    window: int
    number: int
    of: int


def encode_apart(
    model: Distant, windows: Sequence[Window], missing: Sequence[Sequence[bool]], budget: int, workers: Workers
) -> Iterator[tuple[Window, Batch]]:
    """The vectors of what is missing, as they are done; several batches come as one.

    A worker tokenizes a window whole, as batches are cut by the lengths of all its texts, and keeps it for the
    next piece.

    Args:
        model: is on the workers.
        windows: of texts; all are sent to each machine.
        missing: of each window, which texts to encode.
        budget: padded tokens in a batch.
        workers: these.

    Raises:
        ModelOutputError: as `batches.encode_batch`.
        IncompleteError: as `Workers.map`.
    """
    pieces = []
    for i, lacks in enumerate(missing):
        of = -(-sum(lacks) // PIECE)
        pieces += [_Piece(i, number, of) for number in range(of)]
    for i, batch in workers.map(_encode_piece, _Shared(model, windows, missing, budget), pieces):
        if batch.places:
            yield windows[i], batch


def _encode_piece(shared: _Shared, piece: _Piece) -> tuple[int, Batch]:
    model, window = shared.model.load(), shared.windows[piece.window]
    key = shared.model.spec, hashlib.sha256(b"".join(work.key for work in window.works)).digest()
    if key not in _PREPARED:
        _PREPARED.clear()
        ((_, _PREPARED[key]),) = prepare_ahead(model, [window])
    prepared, lacks = _PREPARED[key], shared.missing[piece.window]
    each = [[i for i in places if lacks[i]] for places in batches(model, window, prepared, shared.budget)]
    some = [places for places in each if places]
    low, high = (len(some) * n // piece.of for n in (piece.number, piece.number + 1))
    found: list[Batch] = []
    for places in some[low:high]:
        dimension = found[0].vectors.shape[1] if found else None
        found.append(encode_batch(model, window, prepared, places, dimension))
    if not found:  # fewer batches than pieces
        return piece.window, Batch([], np.empty((0, 0), np.float32), [])
    return piece.window, Batch(
        [i for batch in found for i in batch.places],
        np.concatenate([batch.vectors for batch in found]),
        [n for batch in found for n in batch.lost],
    )
