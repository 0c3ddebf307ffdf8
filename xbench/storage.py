"""Files that exist whole or not at all, and their SHA-256."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from xbench.errors import StorageError


@contextlib.contextmanager
def storage(path: Path, verb: str) -> Iterator[None]:
    """Turn an OSError on `path` into a StorageError that says what could not be done."""
    try:
        yield
    except OSError as error:
        cure = "" if verb == "read" else "; free space or choose another folder"
        raise StorageError(f"cannot {verb} {path}: {error.strerror or error}{cure}") from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under `path`, synced, when the block ends; else not at all.

    Two writers never mix: each writes a temporary file of its own in the same folder, and the
    rename replaces at once. Nothing depends on locks, which some network file systems ignore.

    Raises:
        StorageError: the folder or the file cannot be written.
    """
    with storage(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~umask())
            os.replace(name, path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


def umask() -> int:
    """What the user wants no file to allow."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; folders cannot be opened on Windows, which needs no sync."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync(folder: Path) -> None:
    """Make all files of a folder survive a power cut, before a rename says that it is whole."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        StorageError: the file cannot be read.
    """
    with storage(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(identity: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of a model's identity: the key of its cached vectors."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def writable(folder: Path) -> None:
    """Make sure that files can be written into a folder, which is made if need be.

    Raises:
        StorageError: they cannot.
    """
    with storage(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
