"""A shard on disk: vectors and ids of some passages of a corpus file, written whole, verified, and never changed."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbench.errors import IntegrityError
from xbench.folders import Folder, read_json
from xbench.storage import fingerprint
from xbench.store import Cut

CARD = ("start", "rows", "last", "dimension", "vectors", "ids", "cut")


@dataclass(frozen=True)
class Shard:
    """Passages `start` to `start + rows` of a corpus file: a card and the two files that it names.

    `vectors` and `ids` are the SHA-256 of these: a .npy of float32 (rows, d), and UTF-8 text with a doc_id a line.
    """

    folder: Folder
    number: int  # in its file
    source: Path
    start: int
    rows: int
    last: bool  # of its file
    dimension: int
    vectors: str
    ids: str
    cut: Cut | None  # None where the model does not tell

    @property
    def card(self) -> str:
        """As `card_name`."""
        return card_name(self.number)

    @property
    def files(self) -> dict[str, str]:
        """Names by the SHA-256 the files must have. Named by it: runs never write different bytes under one name."""
        stem = f"{self.number:06d}"
        return {self.vectors: f"{stem}-{self.vectors[:16]}.npy", self.ids: f"{stem}-{self.ids[:16]}.ids"}

    def verify(self) -> None:
        """Read the files and compare their hashes.

        Raises:
            IntegrityError: one is damaged.
            StorageError: one cannot be read.
        """
        for expected, name in self.files.items():
            if (found := self.folder.sha256(name)) != expected:
                where = self.folder.where(name)
                raise IntegrityError(f"{where} is damaged: found sha256 {found}; delete it and run again")

    def matrix(self) -> NDArray[np.float32]:
        """float32 (rows, d), mapped from a file on a disk, else held."""
        if not self.rows:
            return np.empty((0, self.dimension), np.float32)
        content = self.folder.read(self.files[self.vectors])
        head = io.BytesIO(content[: 1 << 12].tobytes())
        np.lib.format.read_magic(head)
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        return content[head.tell() :].view(dtype).reshape(shape)

    def doc_ids(self) -> list[str]:
        """(rows,) of the passages."""
        name = self.files[self.ids]
        found = self.folder.read(name).tobytes().decode().split("\n")[:-1]
        if len(found) != self.rows:
            where = self.folder.where(name)
            raise IntegrityError(f"{where}: found {len(found)} ids of {self.rows} passages; delete it and run again")
        return found

    def some_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The doc_ids of some rows; of a few a tenth of the time that all take."""
        content = self.folder.read(self.files[self.ids])
        ends = np.flatnonzero(content == ord("\n"))
        starts = np.concatenate([[0], ends + 1])
        return [content[starts[row] : ends[row]].tobytes().decode() for row in rows.tolist()]


def write_shard(
    folder: Folder,
    number: int,
    source: Path,
    start: int,
    last: bool,
    vectors: NDArray[np.float32],
    doc_ids: list[str],
    cut: Cut | None,
) -> Shard:
    """Write a shard, its card last: where that is, the rest is.

    Raises:
        StorageError: a file cannot be written.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(vectors))
    ids = "".join(f"{doc_id}\n" for doc_id in doc_ids).encode()
    digest = hashlib.sha256(header.getbuffer())
    digest.update(vectors.data)
    hashes = digest.hexdigest(), hashlib.sha256(ids).hexdigest()
    shard = Shard(folder, number, source, start, len(doc_ids), last, vectors.shape[1], *hashes, cut)
    folder.write(shard.files[shard.vectors], [header.getvalue(), vectors.reshape(-1).view(np.uint8).data])
    folder.write(shard.files[shard.ids], [ids])
    content = {name: getattr(shard, name) for name in CARD}
    folder.write(shard.card, [(json.dumps({**content, "sha256": fingerprint(content)}) + "\n").encode()])
    return shard


def stored_shards(folder: Folder, source: Path) -> dict[int, Shard]:
    """The shards that are there of a corpus file, by number; one whose card has lost a file, as a damaged one, is not.

    Raises:
        IntegrityError: a card is damaged.
        StorageError: the folder cannot be read.
    """
    names = folder.names()
    some = (_read_card(folder, name, source) for name in sorted(names) if name.endswith(".json"))
    return {shard.number: shard for shard in some if names.issuperset(shard.files.values())}


def stored_shard(folder: Folder, source: Path, number: int) -> Shard | None:
    """One of them, verified; None if it is not there.

    Raises:
        IntegrityError, StorageError: as `stored_shards`, and as `Shard.verify`.
    """
    names, card = folder.names(), card_name(number)
    shard = _read_card(folder, card, source) if card in names else None
    if shard is None or not names.issuperset(shard.files.values()):
        return None
    shard.verify()
    return shard


def card_name(number: int) -> str:
    """The name of the file that says what the others hold; it is written last."""
    return f"{number:06d}.json"


def _read_card(folder: Folder, name: str, source: Path) -> Shard:
    content: Any = read_json(folder, name)
    if not isinstance(content, dict) or content.pop("sha256", None) != fingerprint(content):
        raise IntegrityError(f"{folder.where(name)} is damaged; delete it and run again")
    content["cut"] = None if content["cut"] is None else Cut(*content["cut"])
    return Shard(folder, int(name.removesuffix(".json")), source, **content)
