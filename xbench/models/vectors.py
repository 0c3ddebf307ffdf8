"""`vectors:DIR`: vectors computed elsewhere."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError
from xbench.models import Role
from xbench.records import Collection
from xbench.storage import sha256


class GivenVectors:
    """`DIR/queries.<language>.npy` and `DIR/passages.<language>.npy`: float32 (n, d), rows in the task's order.

    They are memory-mapped while they are read.
    """

    def __init__(self, spelling: str):
        """Look at the folder.

        Raises:
            DataError: there is no such folder.
        """
        self.name = spelling
        self.folder = Path(spelling.removeprefix("vectors:"))
        if not self.folder.is_dir():
            raise DataError(f"vectors folder {self.folder} does not exist")
        self._files: dict[str, str] = {}
        self.identity: dict[str, object] = {"kind": "vectors", "files": self._files}

    def vectors(self, role: Role, language: str, collection: Collection) -> NDArray[np.float32]:
        """float32 (n, d), the rows of a role and language; the file's SHA-256 joins the identity.

        Raises:
            DataError: the file is missing, no .npy file, or of the wrong dtype, shape or number of rows.
        """
        ids = collection.ids(role, language)
        path = self.folder / f"{role}.{language}.npy"
        if not path.is_file():
            raise DataError(f"{path} is missing; expected float32 ({len(ids)}, d), rows in the task's order")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path}: not a .npy file of numbers: {error}") from error
        if not isinstance(array, np.ndarray):
            array.close()
            raise DataError(f"{path}: an archive of arrays (.npz); expected one array, saved with numpy.save")
        if array.dtype != np.float32 or array.ndim != 2 or len(array) != len(ids) or not array.size:
            raise DataError(
                f"{path}: found {array.dtype} {array.shape}, expected float32 ({len(ids)}, d); "
                f"rows in the task's order, {ids[0]} first"
            )
        self._files[path.name] = sha256(path)
        return np.ascontiguousarray(array)
