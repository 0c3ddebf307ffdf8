"""Every distinct text once: batches by length, tokenized ahead, resumable at any point."""

import contextlib
import hashlib
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.batches import WINDOW, Batch, Window, Work, batches, encode_batch, prepare_ahead
from xbench.errors import IncompleteError
from xbench.models import ROLES, Encoder, Role
from xbench.progress import log, track
from xbench.records import Collection
from xbench.storage import fingerprint
from xbench.store import SCHEMA, Cut, Store

# A killed run loses at most the vectors since the last shard.
SHARD_SECONDS, SHARD_BYTES = 10.0, 64 << 20


class Encoded(NamedTuple):
    """The vectors of a task by role and language, float32 (n, d), and what they took."""

    vectors: dict[Role, dict[str, NDArray[np.float32]]]
    texts: int  # queries and passages in all
    distinct: int  # distinct by role, and by language for a model that is told it
    encoded: int  # in this run; the others were in the store
    cut: dict[Role, dict[str, Cut | None]]  # None where the model does not tell


def encode(model: Encoder, collection: Collection, cache: Path, batch_tokens: int | None = None) -> Encoded:
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

    Raises:
        ModelOutputError: NaN, infinity, a zero vector, a wrong shape, dtype or number of rows.
        IntegrityError, StorageError: the store is damaged or cannot be written.
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
    encoded = _encode_works(model, works, store, budget)
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


def _encode_works(model: Encoder, works: dict[Role, list[Work]], store: Store, budget: int) -> int:
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

    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(track("encoding", sum(len(window.works) for window in windows), "texts"))
        stack.callback(flush)  # also when interrupted: what is encoded is kept
        for window, prepared in prepare_ahead(model, windows):
            for places in batches(model, window, prepared, budget):
                missing = [i for i in places if window.works[i].key not in store]
                if missing:
                    dimension = store.dimension or (pending[0][1].vectors.shape[1] if pending else None)
                    pending.append((window, encode_batch(model, window, prepared, missing, dimension)))
                    done += len(missing)
                advance(len(places))
                size = sum(batch.vectors.nbytes for _, batch in pending)
                if size > SHARD_BYTES or (pending and time.monotonic() - flushed > SHARD_SECONDS):
                    flush()
    return done
