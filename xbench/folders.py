"""Folders whose files exist whole or not at all: on a disk, which machines may share, or at a URL, by fsspec.

A URL is anything that fsspec opens (s3://, gs://, hf://, ftp://, ...); its protocol's own package must be installed.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xbench.errors import IntegrityError, StorageError, UsageError, XbenchError
from xbench.storage import atomic, sha256, storage

Bytes = NDArray[np.uint8]


class Folder(Protocol):
    """A folder; equal ones are equal, and it can be sent to another process.

    Every method raises StorageError where a file cannot be read or written.
    """

    def __truediv__(self, name: str) -> "Folder":
        """A folder in it."""

    def where(self, name: str) -> str:
        """A file of it, for messages."""

    def names(self) -> set[str]:
        """Its files; none if there is no such folder."""

    def read(self, name: str) -> Bytes:
        """The bytes of a file, read-only: mapped from a disk, else held."""

    def sha256(self, name: str) -> str:
        """Of a file, in hexadecimal."""

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """Write a file, whole or not at all; the folder is made if need be."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a disk, or on what looks like one."""

    path: Path

    def __truediv__(self, name: str) -> "LocalFolder":
        return LocalFolder(self.path / name)

    def where(self, name: str) -> str:
        """As `Folder` has it, like all that follows."""
        return str(self.path / name)

    def names(self) -> set[str]:
        """The temporary files of `atomic` are none."""
        with storage(self.path, "read"):
            found = list(self.path.iterdir()) if self.path.is_dir() else []
            return {path.name for path in found if path.suffix != ".tmp" and path.is_file()}

    def read(self, name: str) -> Bytes:
        """Mapped; as a plain array, since what is computed from a memmap would be one too."""
        path = self.path / name
        with storage(path, "read"):
            return np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.empty(0, np.uint8)

    def sha256(self, name: str) -> str:
        """Never held."""
        return sha256(self.path / name)

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """By a rename."""
        with atomic(self.path / name) as file:
            for part in parts:
                file.write(part)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder at a URL. Its files are held while they are read."""

    url: str

    def __truediv__(self, name: str) -> "RemoteFolder":
        return RemoteFolder(f"{self.url}/{name}")

    def where(self, name: str) -> str:
        """As `Folder` has it, like all that follows."""
        return f"{self.url}/{name}"

    def names(self) -> set[str]:
        """As they are now."""
        with self._access("", "read") as (files, path):
            try:
                found = files.ls(path, detail=True)
            except FileNotFoundError:
                return set()
            return {str(one["name"]).rstrip("/").rsplit("/", 1)[-1] for one in found if one["type"] == "file"}

    def read(self, name: str) -> Bytes:
        """Held."""
        with self._access(name, "read") as (files, path):
            return np.frombuffer(files.cat_file(path), np.uint8)

    def sha256(self, name: str) -> str:
        """A block at a time."""
        with self._access(name, "read") as (files, path), files.open(path, "rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 22):
                digest.update(block)
            return digest.hexdigest()

    def write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """In a transaction of fsspec: the file appears when it ends, where the protocol can do that."""
        with self._access(name, "write") as (files, path):
            _make(files, path.rpartition("/")[0])
            with files.transaction, files.open(path, "wb") as file:
                for part in parts:
                    file.write(part)

    @contextmanager
    def _access(self, name: str, verb: str) -> Iterator[tuple[Any, str]]:
        """The file system, and the path of a file on it."""
        import fsspec

        url = f"{self.url}/{name}" if name else self.url
        try:
            files, path = fsspec.url_to_fs(url)
            files.invalidate_cache()  # what it remembers of a folder may be what was there before others wrote
            yield files, path
        except XbenchError:
            raise
        except ImportError as error:
            raise UsageError(f"{self.url}: {error}") from error
        except Exception as error:  # of any protocol's package: it need not be an OSError
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise StorageError(f"cannot {verb} {url}: {reason}; the same command goes on from here") from error


def _make(files: Any, folder: str) -> None:
    """Make a folder, which another worker may be making at the same moment."""
    try:
        files.makedirs(folder, exist_ok=True)
    except Exception:  # of any protocol's package
        files.invalidate_cache()
        if not files.isdir(folder):
            raise


def open_folder(where: str | Path) -> Folder:
    """The folder of a path or a URL.

    Raises:
        UsageError: fsspec knows no such protocol, or the package of it is not installed.
    """
    if not isinstance(where, str) or "://" not in where:
        return LocalFolder(Path(where).expanduser().absolute())
    import fsspec

    url = where.rstrip("/")
    protocol = url.partition("://")[0]
    if protocol in ("file", "local"):
        return LocalFolder(Path(url.partition("://")[2]).absolute())
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{where}: {error}") from error
    return RemoteFolder(url)


def describe(folder: Folder, identity: dict[str, object]) -> None:
    """Say in `model.json` whose vectors a folder holds, or make sure that it says so.

    Raises:
        IntegrityError: the folder belongs to another model.
        StorageError: it cannot be read or written.
    """
    text = json.dumps(identity, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    if "model.json" not in folder.names():
        folder.write("model.json", [text.encode()])
    elif read_json(folder, "model.json") != json.loads(text):
        where = folder.where("model.json")
        raise IntegrityError(f"{where} describes another model than this fingerprint; delete its folder")


def read_json(folder: Folder, name: str) -> object:
    """The value of a file that xbench wrote; None for what is not JSON: it is damaged.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        found: object = json.loads(folder.read(name).tobytes())
    except ValueError:  # not JSON, or not UTF-8
        return None
    return found
