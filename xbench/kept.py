"""Arrays kept on disk between runs, whole or not at all, with the SHA-256 of their bytes in front."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbench.errors import IntegrityError
from xbench.storage import atomic, storage


def keep(file: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays under their names.

    Raises:
        StorageError: the file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    with atomic(file) as out:
        out.write(hashlib.sha256(data).digest() + data)


def kept(file: Path) -> dict[str, NDArray[Any]] | None:
    """What `keep` wrote; None where there is no file.

    Raises:
        IntegrityError: it is damaged.
        StorageError: it cannot be read.
    """
    if not file.is_file():
        return None
    with storage(file, "read"):
        content = file.read_bytes()
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest:
        raise IntegrityError(
            f"{file} is damaged: found sha256 {hashlib.sha256(data).hexdigest()}; delete it, run again"
        )
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(arrays)
