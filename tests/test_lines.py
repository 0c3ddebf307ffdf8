"""Lines: where they end, what is refused and in which line, and that none is held that is too long."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from xbench import lines
from xbench.errors import DataError, StorageError
from xbench.lines import objects, raw_lines, text_lines

# All of these end a line for str.splitlines, none of them here.
ODD = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "a\rb", "😀", "\ufeff"]


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_ends_at_a_line_feed_alone(packed: bool, tmp_path: Path) -> None:
    texts = [f"<{odd}>" for odd in ODD] + ["", "last"]
    content = "\n".join(texts).encode()
    # gzip files may have several members, one after the other.
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(content[:30]) + gzip.compress(content[30:]) if packed else content)
    assert list(text_lines(path)) == list(enumerate(texts, 1))
    told: list[int] = []
    assert b"".join(raw_lines(path, told.append)) == content and sum(told) == path.stat().st_size
    rows = [{"text": text, "n": [1.5, None]} for text in texts]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows), newline="")
    assert list(objects(path)) == list(enumerate(rows, 1))


GOOD = b'{"a": "x"}\n'
FAULTS = [
    (b"\xef\xbb\xbf" + GOOD, ":1: begins with a byte order mark"),
    (GOOD + b'{"a": "\xff"}', ":2: not UTF-8 (byte 7: 0xff)"),
    (GOOD + b'{"a": "\xed\xa0\x80"}', ":2: not UTF-8 (byte 7: 0xed)"),  # half of a character, as UTF-8 would have it
    (GOOD * 2 + b'{"a": "x"', ":3: not JSON"),
    (GOOD + b"\n" + GOOD, ":2: not JSON"),
    (GOOD + b'["a"]\n', ":2: expected an object, found list"),
    (GOOD + b"7\n", ":2: expected an object, found int"),
    (GOOD + b'{"a": "\\ud83d"}\n', ":2: a string holds a lone surrogate"),
    (GOOD + b'{"\\uDE00": 1}\n', ":2: a string holds a lone surrogate"),
    (GOOD + b"[" * 200_000, ":2: not JSON"),
    (GOOD + b'{"a": ' + b"9" * 5_000 + b"}", ":2: not JSON"),
    (GOOD + b"x" * 2_000, ":2: a line of more than 1000 bytes"),
    (gzip.compress(GOOD * 1_000, mtime=0)[:-5], ": not a whole gzip file"),
    (gzip.compress(GOOD * 1_000, mtime=0)[:-8] + bytes(8), ": not a whole gzip file"),
    (gzip.compress(GOOD, mtime=0) + b"remains", ": not a whole gzip file"),
]


@pytest.mark.parametrize(("content", "phrase"), FAULTS)
def test_a_fault_is_named_with_its_line(
    content: bytes, phrase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if b"xxx" in content:
        monkeypatch.setattr(lines, "LONGEST", 1_000)
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(objects(tmp_path / "x.jsonl"))
    assert str(caught.value).startswith(f"{tmp_path / 'x.jsonl'}{phrase}") and "\n" not in str(caught.value)


def test_text_has_no_carriage_returns_at_its_ends(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a\rb\nc\r\n")
    with pytest.raises(DataError, match=r"x:2: ends with a carriage return"):
        list(text_lines(tmp_path / "x"))
    with pytest.raises(StorageError, match="cannot read"):
        list(raw_lines(tmp_path / "y"))


def test_the_longest_line_may_be_that_long_and_a_longer_one_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"z" * (lines.LONGEST - 1) + b"\n" + b"y\n", 1))
    assert [len(line) for line in raw_lines(path)] == [lines.LONGEST, 2]
    path.write_bytes(gzip.compress(bytes(1 << 27), 1))  # 0.6 MB that would be a line of 128 MiB
    tracemalloc.start()
    with pytest.raises(DataError, match=r"x\.gz:1: a line of more than 16777216 bytes"):
        list(raw_lines(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * lines.LONGEST
