"""JSON that the standard library would let through, or choke on without a place."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbench.errors import DataError, StorageError
from xbench.strictjson import parse_json, read_json

BOM = b"\xef\xbb\xbf"
GOOD = '{"a": [1, "x"]}'
REFUSED = {
    "empty": (b"", ":1: not JSON"),
    "only newlines": (b"\n\n\n", ":4: not JSON"),
    "cut": (b'{"a":\n [1, 2', ":2: not JSON: "),
    "trailing comma in a list": (b"[1,\n2,]", ":2: not JSON: "),
    "raw control character": (b'"a\x00b"', ":1: not JSON: Invalid control character"),
    "duplicate key": (b'{"a": 1,\n "b": {"k": 1, "x": 2, "k": 1}}', "duplicate key 'k'"),
    "duplicate key, one escaped": (b'{"a": 1, "\\u0061": 2}', "duplicate key 'a'"),
    "NaN": (b"[NaN]", "NaN is not JSON"),
    "Infinity": (b"[Infinity]", "Infinity is not JSON"),
    "-Infinity": (b'{"a": -Infinity}', "-Infinity is not JSON"),
    "1e999": (b"[1e999]", "1e999 is"),
    "-1e999": (b"[-1e999]", "-1e999 is"),
    "5,000 digits": (b"9" * 5000, "5000 digits"),
    "100,000 nested lists": (b"[" * 100_000 + b"]" * 100_000, "recursion"),
    "UTF-16": (GOOD.encode("utf-16"), ":1: not UTF-8 (byte 0: 0xff)"),
    "invalid UTF-8": (b'{"a":\n\n"\xff"}', ":3: not UTF-8 (byte 8: 0xff)"),
    "encoded surrogate": (b'\n"\xed\xa0\x80"', ":2: not UTF-8 (byte 2: 0xed)"),
    "cut character": ('"ชา"'.encode()[:-2], ":1: not UTF-8 (byte 4: 0xe0)"),
    "invalid UTF-8 after a mark": (BOM + b'{"a":\n"\xff"}', ":2: not UTF-8 (byte 10: 0xff)"),
    "two marks": (BOM + BOM + GOOD.encode(), ":1: not JSON"),
    "lone surrogate": (b'{"a": ["\\ud800"]}', "lone surrogate"),
    "lone surrogate in a key": (b'{"\\uDC00": 1}', "lone surrogate"),
    "surrogates the wrong way round": (b'"\\ude00\\ud83d"', "lone surrogate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    content, phrase = REFUSED[name]
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:") and phrase in message, message
    assert "\n" not in message and len(message) < 500 and caught.value.exit_code == 3
    with pytest.raises(StorageError, match="cannot read .*none.json: "):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (BOM + GOOD.encode(), {"a": [1, "x"]}),
        (b" \r\n[1]\r\n\n", [1]),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\\\ud800"', "\\ud800"),
        ('"\u2028\u2029\x85\ufeff𝄞"'.encode(), "\u2028\u2029\x85\ufeff𝄞"),
        (b'[{"a": 1}, {"a": 1}, {"b": {"a": 1}, "a": 2}]', [{"a": 1}, {"a": 1}, {"b": {"a": 1}, "a": 2}]),
        (b"[1.0, 1e3, -0, 9007199254740993]", [1.0, 1000.0, 0, 9007199254740993]),
    ],
)
def test_accepted(content: bytes, value: object) -> None:
    assert repr(parse_json(content, "here")) == repr(value)


def test_a_late_duplicate_is_found_fast() -> None:
    keys = ",".join(f'"k{i}": 0' for i in range(10_000))
    start = time.process_time()
    with pytest.raises(DataError, match="duplicate key 'z'"):
        parse_json(f'{{{keys}, "z": 0, "z": 0}}'.encode(), "here")
    assert time.process_time() - start < 0.5


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(TREES, st.booleans(), st.booleans())
def test_round_trip(value: object, ascii_: bool, mark: bool) -> None:
    content = json.dumps(value, ensure_ascii=ascii_, indent=1).encode()
    assert repr(parse_json(BOM * mark + content, "here")) == repr(value)
