"""Lines of files, plain or gzip: one at a time and none too long to hold; as bytes, as text, as JSON objects.

A line ends at a line feed and nowhere else: U+2028, U+0085 or a form feed in a text is text.
"""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from xbench.errors import DataError
from xbench.storage import storage

# Longest line in bytes; the longest passage of Mr. TyDi has 61,639 characters.
LONGEST = 1 << 24
# Lines between two reports of progress.
STEP = 100_000
BUFFER = 1 << 18


def raw_lines(path: Path, advance: Callable[[int], None] = lambda _: None, *, marked: bool = False) -> Iterator[bytes]:
    """The lines of a file, plain or gzip, with their line feeds; `advance` is told the bytes of the file that are read.

    Raises:
        DataError: a byte order mark, unless it may be there (`marked`), a gzip file that is damaged or cut off, a line
            above LONGEST.
        StorageError: the file cannot be read.
    """
    with storage(path, "read"), path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=raw)), BUFFER) if packed else raw
        done = 0
        try:
            for number, line in enumerate(iter(partial(stream.readline, LONGEST + 1), b""), 1):
                if number == 1 and not marked and line.startswith(b"\xef\xbb\xbf"):
                    raise DataError(f"{path}:1: begins with a byte order mark; save it as UTF-8 without one")
                if len(line) > LONGEST:
                    raise DataError(f"{path}:{number}: a line of more than {LONGEST} bytes; is it a file of lines?")
                if number % STEP == 1:
                    done = _report(raw, done, advance)
                yield line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: not a whole gzip file: {error}") from error
        _report(raw, done, advance)


def _report(raw: BinaryIO, done: int, advance: Callable[[int], None]) -> int:
    advance(raw.tell() - done)
    return raw.tell()


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, counted from 1, without their line feeds.

    Raises:
        DataError: a line is not UTF-8 or ends with a carriage return; as `raw_lines`.
        StorageError: the file cannot be read.
    """
    for number, line in enumerate(raw_lines(path), 1):
        text = _text(path, number, line).removesuffix("\n")
        if text.endswith("\r"):
            raise DataError(f"{path}:{number}: ends with a carriage return; save it with line feeds alone")
        yield number, text


def objects(path: Path, advance: Callable[[int], None] = lambda _: None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file that has one a line (JSONL), with the numbers of their lines, from 1.

    `advance` as in `raw_lines`.

    Raises:
        DataError: a line is not UTF-8, not JSON, no object, or has half of a character; as `raw_lines`.
        StorageError: the file cannot be read.
    """
    for number, line in enumerate(raw_lines(path, advance), 1):
        text = _text(path, number, line)
        try:
            value = json.loads(text)
            if "\\u" in text:  # a lone surrogate can only come from an escape
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{path}:{number}: a string holds a lone surrogate, half of a character") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON: {error}; expected one object a line") from error
        if type(value) is not dict:
            raise DataError(f"{path}:{number}: expected an object, found {type(value).__name__}")
        yield number, value


def _text(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 (byte {error.start}: 0x{line[error.start]:02x})") from error
