"""The vectors of one model on disk: shards that exist whole or not at all, checked whenever they are opened."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import IntegrityError, ModelOutputError
from xbench.folders import LocalFolder, describe
from xbench.storage import atomic, sha256, storage

# Raised when the layout of the store or the plan of the batches changes: old vectors are then unread.
SCHEMA = 2
UNKNOWN = -1  # tokens lost, where a model does not tell


class Cut(NamedTuple):
    """What was cut off the texts of a role and language."""

    texts: int
    tokens: int


class Store:
    """The vectors of one model, in a folder of shards named by the SHA-256 of their bytes.

    A shard is a .npy file of records (key: 32 bytes, lost: int32 tokens cut off the text, vector: float32 (d,)).
    Shards are written whole or not at all and never changed, so any number of runs may share the folder: what two
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
        describe(LocalFolder(folder), identity)
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

    def add(self, keys: Sequence[bytes], vectors: NDArray[np.float32], lost: Sequence[int]) -> None:
        """Store vectors float32 (n, d), and how many tokens each text lost, under their keys.

        Raises:
            StorageError: the shard cannot be written; the store is as it was.
        """
        shard = np.empty(len(keys), [("key", "V32"), ("lost", "<i4"), ("vector", "<f4", (vectors.shape[1],))])
        shard["key"] = np.frombuffer(b"".join(keys), "V32")
        shard["lost"] = lost
        shard["vector"] = vectors
        buffer = io.BytesIO()
        np.save(buffer, shard, allow_pickle=False)
        data = buffer.getbuffer()
        with atomic(self.folder / f"{hashlib.sha256(data).hexdigest()}.npy") as file:
            file.write(data)
        self.refresh()

    def lost(self, keys: Sequence[bytes]) -> Cut | None:
        """What was cut off these texts, which are all there; None if the model did not tell."""
        places = [self._places[key] for key in keys]
        lost = [int(self._shards[name]["lost"][row]) for name, row in places]
        return None if UNKNOWN in lost else Cut(sum(n > 0 for n in lost), sum(lost))

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
