"""Every distinct text once: batches by length, tokenized ahead, resumable at any point."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import IncompleteError, ModelOutputError, XbenchError
from xbench.models import ROLES, Encoder, Prepared, Role
from xbench.progress import log, track
from xbench.records import Collection
from xbench.storage import fingerprint
from xbench.store import SCHEMA, UNKNOWN, Cut, Store

# A killed run loses at most the vectors since the last shard.
SHARD_SECONDS, SHARD_BYTES = 10.0, 64 << 20
# Texts that are tokenized, sorted and cut into batches together; two such windows are held at once.
WINDOW = 1 << 15


class Work(NamedTuple):
    """A distinct text to encode, with the id of its first occurrence for errors."""

    key: bytes
    text: str
    language: str
    first_id: str


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


def plan(lengths: Sequence[int], languages: Sequence[str], budget: int) -> Iterator[list[int]]:
    """Cut texts into batches of one language, longest first, of at most `budget` padded tokens.

    The price of a batch is its longest text times its size; a text longer than the budget goes
    alone. Longest first: what does not fit in memory fails at once, and times left are not rosy.
    """
    order = sorted(range(len(lengths)), key=lambda i: (languages[i], -lengths[i], i))
    batch: list[int] = []
    for i in order:
        full = batch and (languages[i] != languages[batch[0]] or lengths[batch[0]] * (len(batch) + 1) > budget)
        if full:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


class _Batch(NamedTuple):
    """What is encoded and not yet stored."""

    keys: list[bytes]
    vectors: NDArray[np.float32]
    lost: list[int]


class _Window(NamedTuple):
    """Texts of one role that are batched together."""

    role: Role
    works: list[Work]


def _encode_works(model: Encoder, works: dict[Role, list[Work]], store: Store, budget: int) -> int:
    """Encode and store what the store lacks; returns how many texts that were."""
    windows = [
        _Window(role, works[role][low : low + WINDOW])
        for role in ROLES
        for low in range(0, len(works[role]), WINDOW)
        if any(work.key not in store for work in works[role][low : low + WINDOW])
    ]
    if not windows:
        return 0
    done = 0
    pending: list[_Batch] = []
    flushed = time.monotonic()

    def flush() -> None:
        nonlocal flushed
        batches = pending.copy()
        pending.clear()  # first: what failed to be written is not written twice
        if batches:
            keys = [key for batch in batches for key in batch.keys]
            lost = [tokens for batch in batches for tokens in batch.lost]
            store.add(keys, np.concatenate([batch.vectors for batch in batches]), lost)
        flushed = time.monotonic()

    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(track("encoding", sum(len(window.works) for window in windows), "texts"))
        stack.callback(flush)  # also when interrupted: what is encoded is kept
        for (role, some), prepared in _prepared(model, windows):
            languages = [work.language if model.told_language else "" for work in some]
            for places in plan([max(n, 1) for n in prepared.lengths], languages, budget):
                missing = [i for i in places if some[i].key not in store]
                if missing:
                    dimension = store.dimension or (pending[0].vectors.shape[1] if pending else None)
                    pending.append(_encode_batch(model, role, some, prepared, missing, dimension))
                    done += len(missing)
                advance(len(places))
                size = sum(batch.vectors.nbytes for batch in pending)
                if size > SHARD_BYTES or (pending and time.monotonic() - flushed > SHARD_SECONDS):
                    flush()
    return done


def _encode_batch(
    model: Encoder, role: Role, works: list[Work], prepared: Prepared, places: list[int], dimension: int | None
) -> _Batch:
    chosen = [works[i] for i in places]
    items = [prepared.items[i] for i in places]
    vectors = _ask(model, len(items), lambda: model.encode(items, role, chosen[0].language))
    _check(model, vectors, chosen, dimension)
    lost = [UNKNOWN if prepared.lost is None else prepared.lost[i] for i in places]
    # A copy: some models give the same array each time, with new content.
    return _Batch([work.key for work in chosen], np.array(vectors, order="C"), lost)


def _prepared(model: Encoder, windows: Sequence[_Window]) -> Iterator[tuple[_Window, Prepared]]:
    """Each window with its texts tokenized; while one is encoded, a thread tokenizes the next."""

    def prepare(window: _Window) -> Prepared:
        texts = [work.text for work in window.works]
        prepared: Any = _ask(model, len(texts), lambda: model.prepare(texts, window.role))
        sizes = [len(part) for part in prepared if part is not None]
        if sizes != [len(texts)] * len(sizes):
            raise ModelOutputError(f"model {model.name!r} prepared {sizes} of {len(texts)} texts")
        return Prepared(*prepared)

    with ThreadPoolExecutor(1) as executor:
        futures = [executor.submit(prepare, window) for window in windows[:1]]
        for i, window in enumerate(windows):
            current = futures.pop()
            futures = [executor.submit(prepare, following) for following in windows[i + 1 : i + 2]]
            yield window, current.result()


def _ask(model: Encoder, texts: int, call: Callable[[], Any]) -> Any:
    """Other people's code: what it raises is a fault of the model, not of xbench."""
    try:
        return call()
    except XbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelOutputError(
            f"model {model.name!r} raised {type(error).__name__}: {error} (on {texts} texts; --debug shows where)"
        ) from error


def _check(model: Encoder, vectors: object, works: Sequence[Work], dimension: int | None) -> None:
    """Refuse what cannot be ranked, naming the first text it happened to."""
    first = works[0].first_id
    if not isinstance(vectors, np.ndarray):
        raise ModelOutputError(
            f"model {model.name!r}, batch of {first}: expected a NumPy array, found {type(vectors).__name__}"
        )
    if vectors.dtype != np.float32:
        raise ModelOutputError(f"model {model.name!r}, batch of {first}: expected float32, found {vectors.dtype}")
    if vectors.ndim != 2 or len(vectors) != len(works) or not vectors.shape[1]:
        raise ModelOutputError(
            f"model {model.name!r}, batch of {first}: expected shape ({len(works)}, d), found {vectors.shape}"
        )
    if dimension is not None and vectors.shape[1] != dimension:
        raise ModelOutputError(
            f"model {model.name!r}, batch of {first}: {vectors.shape[1]} dimensions, but {dimension} before"
        )
    check_finite(model.name, vectors, [work.first_id for work in works])


def check_finite(name: str, vectors: NDArray[np.float32], ids: Sequence[str]) -> None:
    """Refuse NaN, infinity and zero vectors; names the first text.

    Raises:
        ModelOutputError: there is one.
    """
    step = max(1, (1 << 22) // vectors.shape[1])
    for low in range(0, len(vectors), step):
        block = vectors[low : low + step]
        finite = np.isfinite(block).all(axis=1)
        for bad, what in ((~finite, "NaN or infinity"), (~block.any(axis=1), "a zero vector")):
            if bad.any():
                row = int(bad.argmax())
                raise ModelOutputError(
                    f"model {name!r}: {what} for {ids[low + row]} ({int(bad.sum())} of {len(block)} texts); "
                    "it cannot be ranked"
                )
