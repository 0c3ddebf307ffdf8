"""Every distinct text once: a store of vectors on disk, batches by length, resumable at any point."""

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import IncompleteError, IntegrityError, ModelOutputError, XbenchError
from xbench.models import ROLES, Encoder, Role
from xbench.progress import log, track
from xbench.records import Collection
from xbench.storage import atomic, fingerprint, sha256, storage
from xbench.strictjson import read_json

# Raised when the layout of the store or the plan of the batches changes: old vectors are then unread.
SCHEMA = 1
# A killed run loses at most the vectors since the last shard.
SHARD_SECONDS, SHARD_BYTES = 10.0, 64 << 20


class Store:
    """The vectors of one model, in a folder of shards named by the SHA-256 of their bytes.

    A shard is a .npy file of records (key: 32 bytes, vector: float32 (d,)). Shards are written
    whole or not at all and never changed, so any number of runs may share the folder: what two
    of them encode at once is stored twice and read once.
    """

    def __init__(self, folder: Path, identity: dict[str, object]):
        """Open the store of a model, or make it.

        Raises:
            IntegrityError: the folder belongs to another model, or a shard is damaged.
            StorageError: it cannot be read or written.
        """
        self.folder = folder
        self._shards: dict[str, NDArray[np.void]] = {}
        self._places: dict[bytes, tuple[str, int]] = {}
        card = folder / "model.json"
        text = json.dumps(identity, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
        if not card.is_file():
            with atomic(card) as file:
                file.write(text.encode())
        elif read_json(card) != json.loads(text):
            raise IntegrityError(f"{card} describes another model than this fingerprint; delete {folder}")
        self.refresh()

    def refresh(self) -> None:
        """Read the shards that are new since the last look, other runs' included."""
        with storage(self.folder, "read"):
            paths = sorted(p for p in self.folder.glob("*.npy") if p.stem not in self._shards)
        for path in paths:
            found = sha256(path)
            if found != path.stem:
                raise IntegrityError(f"{path} is damaged: found sha256 {found}; delete it and run again")
            shard = np.load(path, mmap_mode="r", allow_pickle=False)
            self._shards[path.stem] = shard
            for row, key in enumerate(shard["key"].tolist()):
                self._places.setdefault(key, (path.stem, row))

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    @property
    def dimension(self) -> int | None:
        """Of the vectors; None while there is none."""
        return next((int(shard["vector"].shape[1]) for shard in self._shards.values()), None)

    def add(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Store vectors float32 (n, d) under their keys.

        Raises:
            StorageError: the shard cannot be written; the store is as it was.
        """
        shard = np.empty(len(keys), [("key", "V32"), ("vector", "<f4", (vectors.shape[1],))])
        shard["key"] = np.frombuffer(b"".join(keys), "V32")
        shard["vector"] = vectors
        buffer = io.BytesIO()
        np.save(buffer, shard, allow_pickle=False)
        data = buffer.getbuffer()
        with atomic(self.folder / f"{hashlib.sha256(data).hexdigest()}.npy") as file:
            file.write(data)
        self.refresh()

    def gather(self, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """float32 (n, d): the vectors of keys that are all there."""
        by_shard: dict[str, list[tuple[int, int]]] = {}
        for i, key in enumerate(keys):
            name, row = self._places[key]
            by_shard.setdefault(name, []).append((i, row))
        dimensions = {self._shards[name]["vector"].shape[1] for name in by_shard}
        if len(dimensions) != 1:
            raise ModelOutputError(f"the model gave vectors of different lengths: {sorted(dimensions)}")
        out = np.empty((len(keys), dimensions.pop()), np.float32)
        for name, pairs in by_shard.items():
            at, rows = np.array(pairs).T
            out[at] = self._shards[name]["vector"][rows]
        return out


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


def encode(model: Encoder, collection: Collection, cache: Path, batch_tokens: int | None = None) -> Encoded:
    """The vectors of all queries and passages; only texts that the store lacks are encoded.

    Batches are a function of the collection alone: all distinct texts of a role sorted by length,
    longest first, and cut where a batch would exceed `batch_tokens`. A resumed run encodes the
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
    keys: dict[Role, dict[str, list[bytes]]] = {role: {} for role in ROLES}
    texts = distinct = encoded = 0
    for role in ROLES:
        works: dict[bytes, Work] = {}
        for language, rows in (collection.queries if role == "queries" else collection.passages).items():
            keys[role][language] = [text_key(role, language if model.told_language else "", row.text) for row in rows]
            for key, (id_, text) in zip(keys[role][language], rows, strict=True):
                works.setdefault(key, Work(key, text, language, id_))
            texts += len(rows)
        distinct += len(works)
        encoded += _encode_role(model, role, list(works.values()), store, budget)
    log.info("encoded %d of %d distinct texts (%d in all); the others were stored", encoded, distinct, texts)
    vectors = {role: {a: store.gather(k) for a, k in keys[role].items()} for role in ROLES}
    return Encoded(vectors, texts, distinct, encoded)


def cached(identity: dict[str, object], collection: Collection, cache: Path) -> Encoded:
    """The vectors of all texts by a model that is known by its identity alone (`full_identity`).

    Raises:
        IncompleteError: the store lacks some.
        IntegrityError, StorageError: it is damaged or cannot be read.
    """
    folder = cache / "vectors" / fingerprint(identity)
    store = Store(folder, identity) if folder.is_dir() else None
    fewest, texts = 0, 0
    for told in (False, True):
        keys: dict[Role, dict[str, list[bytes]]] = {
            role: {
                language: [text_key(role, language if told else "", row.text) for row in rows]
                for language, rows in (collection.queries if role == "queries" else collection.passages).items()
            }
            for role in ROLES
        }
        distinct = {key for by_language in keys.values() for some in by_language.values() for key in some}
        missing = sum(store is None or key not in store for key in distinct)
        fewest = min(fewest or missing, missing)
        if store and not missing:
            texts = sum(len(some) for by_language in keys.values() for some in by_language.values())
            vectors = {role: {a: store.gather(some) for a, some in keys[role].items()} for role in ROLES}
            return Encoded(vectors, texts, len(distinct), 0)
    raise IncompleteError(f"{folder}: lacks the vectors of {fewest} texts")


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


def _encode_role(model: Encoder, role: Role, works: list[Work], store: Store, budget: int) -> int:
    """Encode and store what the store lacks; returns how many texts that were."""
    if all(work.key in store for work in works):
        return 0
    lengths = model.lengths([work.text for work in works], role)
    languages = [work.language if model.told_language else "" for work in works]
    method = model.encode_queries if role == "queries" else model.encode_passages
    done = 0
    pending: list[tuple[list[bytes], NDArray[np.float32]]] = []
    flushed = time.monotonic()

    def flush() -> None:
        nonlocal flushed
        if pending:
            keys = [key for batch, _ in pending for key in batch]
            vectors = np.concatenate([v for _, v in pending])
            pending.clear()  # first: what failed to be written is not written twice
            store.add(keys, vectors)
        flushed = time.monotonic()

    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(track(f"encoding {role}", len(works), "texts"))
        stack.callback(flush)  # also when interrupted: what is encoded is kept
        for batch in plan([max(n, 1) for n in lengths], languages, budget):
            missing = [works[i] for i in batch if works[i].key not in store]
            if missing:
                vectors = _ask(model, method, [work.text for work in missing], missing[0].language)
                _check(model, vectors, missing, store.dimension or (pending[0][1].shape[1] if pending else None))
                # A copy: some models give the same array each time, with new content.
                pending.append(([work.key for work in missing], np.array(vectors, order="C")))
                done += len(missing)
            advance(len(batch))
            size = sum(v.nbytes for _, v in pending)
            if size > SHARD_BYTES or (pending and time.monotonic() - flushed > SHARD_SECONDS):
                flush()
    return done


def _ask(
    model: Encoder, method: Callable[[Sequence[str], str], NDArray[np.float32]], texts: list[str], language: str
) -> object:
    """Other people's code: what it raises is a fault of the model, not of xbench."""
    try:
        return method(texts, language)
    except XbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelOutputError(
            f"model {model.name!r} raised {type(error).__name__}: {error} (on {len(texts)} texts; --debug shows where)"
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
