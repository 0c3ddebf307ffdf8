r"""What every reader of lines checks: bytes, lines, ids; errors name file and row.

A row ends at `\n` and nowhere else. U+2028, U+2029, U+0085, vertical tab and form feed stand inside texts
(Wikipedia has them), and Python's line splitting would make two broken rows of one. A carriage return before the
`\n` belongs to the line end; any other means that the file is not what it seems. Nothing is guessed of a value:
`NA`, `null`, `007` and `1e5` are ids like all others.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from xbench.errors import DataError
from xbench.lines import raw_lines
from xbench.progress import log
from xbench.readers.node import Node
from xbench.strictjson import parse_text

# Bytes of the longest id.
LONGEST_ID = 1024
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BOM = "\ufeff"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The rows of a UTF-8 text file, plain or gzip (told by its first bytes), counted from 1, without line ends.

    A byte order mark at the very beginning is dropped, empty lines at the end are too. One line is held at a time.

    Raises:
        DataError: no file, none of its lines has text, not UTF-8, UTF-16, a NUL, a carriage return inside a line, an
            empty line among others, a line above `lines.LONGEST` bytes, a cut or damaged gzip file.
        StorageError: the file cannot be read.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no regular file" if path.exists() else "no such file"
        raise DataError(f"{path}: {found}; expected a text file")
    empty = last = 0
    for row, data in enumerate(raw_lines(path, marked=True), 1):
        text = _decoded(data, f"{path}:{row}", row)
        if not text.strip(" \t"):
            empty = empty or row
            continue
        if empty:
            raise DataError(f"{path}:{empty}: an empty line; expected a row in every line")
        last = row
        yield row, text
    if not last:
        raise DataError(f"{path}: no row in it")


def _decoded(data: bytes, where: str, row: int) -> str:
    if row == 1 and data.startswith(_UTF16):
        raise DataError(f"{where}: UTF-16; save the file as UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start} of the line: 0x{data[error.start]:02x})") from error
    text = text.removesuffix("\n").removesuffix("\r")
    if text.startswith(_BOM):
        if row > 1:
            raise DataError(f"{where}: a byte order mark inside the file; are these several files put together?")
        log.warning("%s: begins with a byte order mark, which is left out", where.rpartition(":")[0])
        text = text[1:]
    if "\r" in text:
        raise DataError(f"{where}: a carriage return inside the line; lines must end with \\n or \\r\\n")
    if "\0" in text:
        raise DataError(f"{where}: a NUL byte")
    return text


def json_rows(path: Path) -> Iterator[Node]:
    """The objects of a JSON Lines file; each knows its `file:row`.

    Raises:
        DataError: as `lines`; a row that is not JSON by the standard (NaN, a key twice, a lone surrogate), or that is
            no object.
        StorageError: the file cannot be read.
    """
    for row, text in lines(path):
        node = Node(parse_text(text, f"{path}:{row}"), f"{path}:{row}: ")
        if not isinstance(node.value, dict):
            node.fail(f"expected an object, found {type(node.value).__name__}")
        yield node


def tsv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """`file:row` and the cells of each line of a file whose cells are split by tabs.

    Quotes mean nothing in such a file. An id in quotes, or a text in quotes with doubled quotes inside, shows that
    another program wrote it by the rules of CSV, where these are no part of the text: refused rather than read wrong.

    Raises:
        DataError: as `lines`; a cell in the quotes of CSV.
        StorageError: the file cannot be read.
    """
    for row, text in lines(path):
        cells = text.split("\t")
        for number, cell in enumerate(cells, 1):
            if len(cell) > 1 and cell[0] == cell[-1] == '"' and (number == 1 or '""' in cell[1:-1]):
                raise DataError(
                    f"{path}:{row}: column {number} stands in the quotes of CSV: {shown(cell)}; "
                    "expected cells split by tabs and nothing else; write it so, or as JSON Lines"
                )
        yield f"{path}:{row}", cells


def shown(text: object) -> str:
    """A value for an error: short, on one line, control characters escaped."""
    found = repr(text)
    return found if len(found) <= 80 else f"{found[:76]}...{found[-1]}"


def check_id(value: str, where: str) -> str:
    """The id, if run and qrels files can carry it.

    Raises:
        DataError: it is empty, holds white space or control characters, or is longer than `LONGEST_ID` bytes.
    """
    if not value:
        raise DataError(f"{where}: the id is empty")
    if value.split() != [value] or _CONTROL.search(value):
        what = "control characters" if _CONTROL.search(value) else "white space"
        raise DataError(f"{where}: id {shown(value)} holds {what}; run and qrels files could not carry it")
    if 4 * len(value) > LONGEST_ID and len(value.encode("utf-8", "replace")) > LONGEST_ID:
        raise DataError(f"{where}: id {shown(value)} is longer than {LONGEST_ID} bytes")
    return value


class Ids:
    """The ids of one kind; says so when one comes twice. Places are kept as numbers: there may be millions."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._seen: dict[str, int] = {}
        self._paths: dict[str, int] = {}

    def add(self, value: str, where: str) -> str:
        """Keep and return the id; `where` is `file:row`.

        Raises:
            DataError: as `check_id`; it came before, with both places.
        """
        path, _, row = where.rpartition(":")
        here = self._paths.setdefault(path, len(self._paths)) << 40 | int(row)
        first = self._seen.setdefault(check_id(value, where), here)
        if first != here:
            before = f"{list(self._paths)[first >> 40]}:{first & (1 << 40) - 1}"
            raise DataError(f"{where}: {self.kind} id {shown(value)} for the second time, first in {place(before)}")
        return value

    def __contains__(self, value: object) -> bool:
        return value in self._seen

    def __len__(self) -> int:
        return len(self._seen)


def place(where: str) -> str:
    """`line 7` of a `file:7`; the whole of another place."""
    path, _, row = where.rpartition(":")
    return f"line {row} of {Path(path).name}" if row.isdecimal() else where
