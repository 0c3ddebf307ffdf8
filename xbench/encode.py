"""Every distinct text once: batches by length, tokenized ahead, resumable at any point."""

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.apart import encode_apart
from xbench.batches import WINDOW, Batch, Window, Work, batches, check_width, encode_batch, prepare_ahead
from xbench.distant import Distant
from xbench.errors import IncompleteError
from xbench.models import ROLES, Encoder, Role
from xbench.progress import log, track
from xbench.records import Collection
from xbench.storage import fingerprint
from xbench.store import SCHEMA, Cut, Store
from xbench.workers import Here, Workers

# A killed run loses at most the vectors since the last shard.
SHARD_SECONDS, SHARD_BYTES = 10.0, 64 << 20


class Encoded(NamedTuple):
    """The vectors of a task by role and language, float32 (n, d), and what they took."""

    vectors: dict[Role, dict[str, NDArray[np.float32]]]
    texts: int  # queries and passages in all
    distinct: int  # distinct by role, and by language for a model that is told it
    encoded: int  # in this run; the others were in the store
    cut: dict[Role, dict[str, Cut | None]]  # None where the model does not tell


def encode(
    model: Encoder,
    collection: Collection,
    cache: Path,
    batch_tokens: int | None = None,
    workers: Workers | None = None,
) -> Encoded:
    """The vectors of all queries and passages; only texts that the store lacks are encoded.

    Batches are a function of the collection alone: the distinct texts of a role, WINDOW at a time, sorted by
    length, longest first, and cut where a batch would exceed `batch_tokens`. A resumed run encodes the
    same batches as an undisturbed one, and so ends with the same bytes. Only a text that another
    task has brought into the store before keeps the vector it got in that company, which may differ
    in its last bits.

    Args:
        model: the encoder.
        collection: the texts of one task.
        cache: the folder of all stores.
        batch_tokens: padded tokens in a batch; by default what the model proposes. Part of the
            store's key, since the last bits of a vector may depend on it.
        workers: those that a model is on that is `Distant`; others are encoded by this process.

    Raises:
        ModelOutputError: NaN, infinity, a zero vector, a wrong shape, dtype or number of rows.
        IntegrityError, StorageError: the store is damaged or cannot be written.
        IncompleteError: as `Workers.map`.
    """
    identity = full_identity(model, batch_tokens)
    budget = batch_tokens or model.batch_tokens
    store = Store(cache / "vectors" / fingerprint(identity), identity)
    keys = _keys(collection, told=model.told_language)
    works: dict[Role, list[Work]] = {}
    for role in ROLES:
        found: dict[bytes, Work] = {}
        for language, rows in collection.rows(role).items():
            for key, (id_, text) in zip(keys[role][language], rows, strict=True):
                found.setdefault(key, Work(key, text, language, id_))
        works[role] = list(found.values())
    encoded = _encode_works(model, works, store, budget, workers)
    all_ = _gather(store, keys, encoded)
    log.info("encoded %d of %d distinct texts (%d in all); the others were stored", encoded, all_.distinct, all_.texts)
    return all_


def cached(identity: dict[str, object], collection: Collection, cache: Path) -> Encoded:
    """The vectors of all texts by a model that is known by its identity alone (`full_identity`).

    Raises:
        IncompleteError: the store lacks some.
        IntegrityError, StorageError: it is damaged or cannot be read.
    """
    folder = cache / "vectors" / fingerprint(identity)
    store = Store(folder, identity) if folder.is_dir() else None
    fewest = 0
    for told in (False, True):
        keys = _keys(collection, told=told)
        missing = sum(store is None or key not in store for key in _distinct(keys))
        fewest = min(fewest or missing, missing)
        if store and not missing:
            return _gather(store, keys, 0)
    raise IncompleteError(f"{folder}: lacks the vectors of {fewest} texts")


def missing(model: Encoder, collection: Collection, cache: Path, batch_tokens: int | None = None) -> tuple[int, int]:
    """How many distinct texts a collection has, and how many of them the store lacks.

    Raises:
        IntegrityError, StorageError: it is damaged or cannot be read.
    """
    keys = _distinct(_keys(collection, told=model.told_language))
    identity = full_identity(model, batch_tokens)
    folder = cache / "vectors" / fingerprint(identity)
    store = Store(folder, identity) if folder.is_dir() else ()
    return len(keys), sum(key not in store for key in keys)


Keys = dict[Role, dict[str, list[bytes]]]


def _keys(collection: Collection, *, told: bool) -> Keys:
    """The key of every text, by role and language; `told`: whether the model is told the language."""
    return {
        role: {
            language: [text_key(role, language if told else "", row.text) for row in rows]
            for language, rows in collection.rows(role).items()
        }
        for role in ROLES
    }


def _distinct(keys: Keys) -> set[bytes]:
    return {key for by_language in keys.values() for some in by_language.values() for key in some}


def _gather(store: Store, keys: Keys, encoded: int) -> Encoded:
    return Encoded(
        {role: {a: store.gather(some) for a, some in keys[role].items()} for role in ROLES},
        sum(len(some) for by_language in keys.values() for some in by_language.values()),
        len(_distinct(keys)),
        encoded,
        {role: {a: store.lost(some) for a, some in keys[role].items()} for role in ROLES},
    )


def full_identity(model: Encoder, batch_tokens: int | None) -> dict[str, object]:
    """All that can move a vector: the model's own identity, and how its batches are cut."""
    return {"schema": SCHEMA, "batch_tokens": batch_tokens or model.batch_tokens, **model.identity}


def text_key(role: Role, language: str, text: str) -> bytes:
    """32 bytes that name a text in a role (and a language, for a model that is told it)."""
    return hashlib.sha256(f"{role}\0{language}\0{text}".encode()).digest()


def _encode_works(
    model: Encoder, works: dict[Role, list[Work]], store: Store, budget: int, workers: Workers | None
) -> int:
    """Encode and store what the store lacks; returns how many texts that were."""
    windows = [
        Window(role, works[role][low : low + WINDOW])
        for role in ROLES
        for low in range(0, len(works[role]), WINDOW)
        if any(work.key not in store for work in works[role][low : low + WINDOW])
    ]
    if not windows:
        return 0
    done = 0
    pending: list[tuple[Window, Batch]] = []
    flushed = time.monotonic()

    def flush() -> None:
        nonlocal flushed
        some = pending.copy()
        pending.clear()  # first: what failed to be written is not written twice
        if some:
            keys = [window.works[i].key for window, batch in some for i in batch.places]
            lost = [tokens for _, batch in some for tokens in batch.lost]
            store.add(keys, np.concatenate([batch.vectors for _, batch in some]), lost)
        flushed = time.monotonic()

    missing = [[work.key not in store for work in window.works] for window in windows]
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(track("encoding", sum(map(sum, missing)), "texts"))
        stack.callback(flush)  # also when interrupted: what is encoded is kept
        if isinstance(model, Distant):
            found = encode_apart(model, windows, missing, budget, workers or Here())
        else:
            found = _encode_here(model, windows, missing, budget)
        dimension = store.dimension
        for window, batch in found:
            dimension = dimension or batch.vectors.shape[1]
            check_width(model.name, batch.vectors.shape[1], dimension, window.works[batch.places[0]].first_id)
            pending.append((window, batch))
            done += len(batch.places)
            advance(len(batch.places))
            size = sum(batch.vectors.nbytes for _, batch in pending)
            if size > SHARD_BYTES or time.monotonic() - flushed > SHARD_SECONDS:
                flush()
    return done


def _encode_here(
    model: Encoder, windows: Sequence[Window], missing: Sequence[Sequence[bool]], budget: int
) -> Iterator[tuple[Window, Batch]]:
    """The batches of all that is missing, in order."""
    lacking = iter(missing)
    for window, prepared in prepare_ahead(model, windows):
        lacks = next(lacking)
        for places in batches(model, window, prepared, budget):
            if some := [i for i in places if lacks[i]]:
                yield window, encode_batch(model, window, prepared, some, None)
