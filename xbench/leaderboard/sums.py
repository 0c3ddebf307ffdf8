"""`SHA256SUMS` of a folder of results: a line a file, as `sha256sum --check` reads it.

Numbers that follow from others are recomputed (see `verify`). The hashes make every other change visible as well: of
counts of tokens, say, or of a result and its table at once, which then contradict nothing but the list.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from xbench.errors import DataError
from xbench.storage import atomic, storage

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)", re.ASCII)


def read_sums(folder: Path) -> dict[str, str]:
    """`<slug>/<file>` -> SHA-256; empty without a list.

    Raises:
        DataError: the list is not in its form.
        StorageError: it cannot be read.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    with storage(path, "read"):
        content = path.read_bytes()
    found: dict[str, str] = {}
    lines = content.decode("utf-8", "replace").removesuffix("\n").split("\n") if content else []
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if not match or match[2] in found:
            raise DataError(f"{path}:{number}: found {line[:80]!r}, expected `SHA-256  file`, each once")
        found[match[2]] = match[1]
    return found


def write_sums(folder: Path, sums: Mapping[str, str]) -> None:
    """Write the list, sorted by file.

    Raises:
        StorageError: it cannot be written.
    """
    with atomic(folder / NAME) as file:
        file.write("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode())
