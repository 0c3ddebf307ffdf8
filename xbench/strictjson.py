"""JSON as the standard has it: UTF-8, no NaN, no duplicate keys, nothing that a later step chokes on."""

import json
import math
from collections import Counter
from pathlib import Path

from xbench.errors import DataError
from xbench.storage import storage


def read_json(path: Path, *, nan: bool = False) -> object:
    """The value of a JSON file.

    Args:
        path: of the file.
        nan: take NaN and infinities, as others' programs write them, for numbers.

    Raises:
        DataError: not UTF-8, not JSON, a duplicate key, NaN or infinity, a lone surrogate; with
            the file and, where there is one, the line.
        StorageError: the file cannot be read.
    """
    with storage(path, "read"):
        data = path.read_bytes()
    return parse_json(data, str(path), nan=nan)


def parse_json(data: bytes, where: str, *, nan: bool = False) -> object:
    """The value of JSON bytes; `where` names their origin in errors, as in `read_json`."""
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{where}:{line}: not UTF-8 (byte {error.start}: 0x{data[error.start]:02x})") from error
    return _value(text, where, True, _LENIENT if nan else _DECODER)


def parse_text(text: str, where: str) -> object:
    """The value of one line of JSON; `where` names it, row included, in errors, as in `read_json`."""
    return _value(text, where, False, _DECODER)


def _value(text: str, where: str, lines: bool, decoder: json.JSONDecoder) -> object:
    try:
        value = decoder.decode(text)
        text.encode() if "\\u" not in text else json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if lines else where
        raise DataError(f"{place}: not JSON: {error.msg} (column {error.colno})") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: a string holds a lone surrogate, half of a character: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not usable JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"duplicate key {key!r}")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is beyond the range of a number")
    return value


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


# Made once: a line of JSON Lines takes less time than this.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
_LENIENT = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite)
