"""The run reader refuses what trec_eval takes for 0 or skips, with file and line; what is written reads back."""

import gzip
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbench.errors import DataError
from xbench.trec import read_run, write_qrels, write_run

QUERIES, DOCS = ["q1", "é:中", "😀"], ["d1", "d2", "d3", "ﬀ😀"]
FIRST = b"q1 Q0 d1 1 9.5 tag\n"
Lists = dict[str, list[tuple[str, float]]]


def lists(path: Path, queries: Sequence[str] = QUERIES, docs: Sequence[str] = DOCS, *, ignore_ranks=False) -> Lists:
    """Query -> (passage, score), in the file's order."""
    found: Lists = {}
    for one in read_run(path, queries, docs, ignore_ranks=ignore_ranks):
        assert one.docs.dtype == np.int64 and one.scores.dtype == np.float64
        assert queries[one.query] not in found
        found[queries[one.query]] = [(docs[d], s) for d, s in zip(one.docs, one.scores.tolist(), strict=True)]
    return found


def written(folder: Path, content: bytes, name: str = "x.run") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def refused(path: Path, start: str, *words: str, **options: bool) -> None:
    """One line that begins with the file (and line) and holds the words."""
    with pytest.raises(DataError) as caught:
        lists(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}{start}: "), message
    assert all(word in message for word in words), message
    assert message.isprintable(), message


SCORES = ["NaN", "nan", "-nan", "inf", "-inf", "Infinity", "1e999", "-1e999", "0,9", "abc", "1_0", "0x1p3", "1.5f"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        *((f"q1 Q0 d2 2 {score} tag", ["score", f"'{score}'", "finite number"]) for score in [*SCORES, "１", "+-1"]),
        ("q1 Q0 d2 2 1\0 tag", ["score", r"'1\x00'"]),
        ("q1 Q0 d2 2  tag", ["5 columns", "expected 6", "query_id Q0 doc_id rank score tag"]),  # the score is empty
        ("q1 Q0 d2 2 1", ["5 columns"]),
        ("q1 Q0 d2 2 1 two words", ["7 columns"]),
        ("q1 Q0 d 2 2 1 tag", ["7 columns"]),
        ("", ["0 columns"]),
        (" \t ", ["0 columns"]),
        ("# a remark", ["3 columns"]),
        ("q2 Q0 d2 2 1 tag", ["unknown query 'q2'", "like q1"]),
        ("Q1 Q0 d2 2 1 tag", ["unknown query 'Q1'"]),
        ("q1 Q0 d9 2 1 tag", ["unknown passage 'd9'", "like d1"]),
        ("e\u0301:中 Q0 d2 2 1 tag", ["unknown query"]),  # é in two characters is another id
        ("q1\0 Q0 d2 2 1 tag", [r"unknown query 'q1\x00'"]),
        ("q1 Q0 \x1b[31md2 2 1 tag", [r"unknown passage '\x1b[31md2'"]),
        ("q1 Q0 d2\u2028 2 1 tag", [r"unknown passage 'd2\u2028'"]),
        ("q1 Q0 d2\u2028q1 Q0 d3 3 1 tag", ["8 columns"]),  # no end of a line
        ("q1 Q0 d2 2 1 tag\rq1 Q0 d3 3 1 tag", ["12 columns"]),  # nor is a carriage return alone
        ("\ufeffq1 Q0 d2 2 1 tag", [r"unknown query '\ufeffq1'"]),
        ("q1 Q0 " + "d" * 5000 + " 2 1 tag", ["unknown passage 'd", "d', expected"]),
        *((f"q1 Q0 d2 {rank} 1 tag", ["rank", f"'{rank}'", "whole number"]) for rank in ("x", "-1", "1.0", "+2", "²")),
        ("q1 Q0 d2 2_0 1 tag", ["rank '2_0'"]),
        ("q1 Q0 d2 9999999999999999999 1 tag", ["rank"]),  # beyond int64
        ("q1 Q0 d1 2 1 tag", ["passage d1 of query q1", "second time", "line 1"]),
        ("q1 Q0 d1 1 9.5 tag", ["second time"]),  # equal in all
        (
            "q1 Q0 d2 2 9.6 tag",
            ["rank 2 with score 9.6", "line 1, rank 1 with score 9.5", "query q1", "--ignore-ranks"],
        ),
        ("q1 Q0 d2 1 9.4 tag", ["rank 1 with score 9.4", "line 1"]),  # equal ranks, different scores
    ],
)
def test_bad_lines(line: str, words: list[str], tmp_path: Path) -> None:
    content = FIRST + line.encode() + b"\nq1 Q0 d3 3 0.5 tag\n"
    refused(written(tmp_path, content), ":2", *words)
    refused(written(tmp_path, packed(content)), ":2", *words)


def test_where_the_line_is(tmp_path: Path) -> None:
    """Numbers count all lines, whether the queries stand together or not, and as the first or the last line."""
    bad, other = b"q1 Q0 d3 3 nan t\n", "é:中 Q0 d1 1 1 t\n".encode()
    refused(written(tmp_path, bad + FIRST), ":1", "'nan'")
    refused(written(tmp_path, FIRST + bad.strip()), ":2", "'nan'")
    refused(written(tmp_path, FIRST + other + bad), ":3", "'nan'")
    again = b"q1 Q0 d3 2 1 t\nq1 Q0 d2 3 1 t\nq1 Q0 d3 4 1 t\n"
    refused(written(tmp_path, FIRST + other + again), ":5", "passage d3 of query q1", "first in line 3")
    refused(written(tmp_path, other + FIRST + again), ":5", "passage d3 of query q1", "first in line 3")
    refused(written(tmp_path, FIRST + other + b"q1 Q0 d2 9 9.75 t\n"), ":3", "rank 9", "line 1, rank 1")
    # The second of two queries that stand together is checked too, and the first before it.
    refused(written(tmp_path, FIRST + other + other), ":3", "passage d1 of query é:中", "first in line 2")
    refused(written(tmp_path, FIRST + FIRST + other + bad), ":4", "'nan'")


@pytest.mark.parametrize(
    ("ranks", "scores"),
    [
        ((1, 2, 3), (3.0, 2.0, 1.0)),
        ((3, 1, 2), (1.0, 3.0, 2.0)),  # lines in any order
        ((0, 1, 2), (3.0, 2.0, 1.0)),
        ((7, 50, 999999999999999999), (3.0, 2.0, 1.0)),
        ((2, 3, 1), (5.0, 5.0, 5.0)),  # a tie has no order
        ((1, 1, 1), (5.0, 5.0, 5.0)),
        ((1, 3, 2), (5.0, 1.0, 1.0)),
        ((1, 2, 2), (5.0, 1.0, 1.0)),
        ((1, 2, 3), (0.0, -0.0, -5e-324)),
        ((1, 2, 3), (1.7976931348623157e308, 1.0000000000000002, 1.0)),
    ],
)
def test_ranks_that_agree(ranks: list[int], scores: list[float], tmp_path: Path) -> None:
    rows = zip(DOCS, ranks, scores, strict=False)
    content = "".join(f"q1 Q0 {doc} {rank:03} {score!r} t\n" for doc, rank, score in rows)
    assert lists(written(tmp_path, content.encode())) == {"q1": list(zip(DOCS, scores, strict=False))}


def test_ignored_ranks(tmp_path: Path) -> None:
    for second in (b"q1 Q0 d2 2 9.6 t\n", b"q1 Q0 d2 1 3 t\n"):
        path = written(tmp_path, FIRST + second)
        refused(path, ":2", "contradicts")
        assert lists(path, ignore_ranks=True) == {"q1": [("d1", 9.5), ("d2", float(second.split()[4]))]}
    for bad in (b"q1 Q0 d1 2 9 t\n", b"q1 Q0 d2 x 9 t\n", b"q1 Q0 d2 2 nan t\n"):
        refused(written(tmp_path, FIRST + bad), ":2", ignore_ranks=True)


@pytest.mark.parametrize(
    ("content", "start", "words"),
    [
        (b"", "", ["no line in it", "query_id Q0 doc_id rank score tag"]),
        (packed(b""), "", ["no line in it"]),
        (b"\n", ":1", ["0 columns"]),
        (FIRST + b"\n", ":2", ["0 columns"]),
        (b"\xef\xbb\xbf" + FIRST, ":1", ["byte order mark"]),
        (packed(b"\xef\xbb\xbf" + FIRST), ":1", ["byte order mark"]),
        (FIRST.decode().encode("utf-16"), ":1", ["unknown query", "xff"]),
        (FIRST + b"\xff Q0 d2 2 1 t\n", ":2", ["unknown query", "xff"]),
        (FIRST + b"q1 Q0 d\xc0\xb2 2 1 t\n", ":2", ["unknown passage", "xc0"]),  # overlong 2
        (FIRST + b"q1 Q0 d2 2 \xff t\n", ":2", ["score", "xff"]),
        (FIRST + "q1 Q0 ﬀ😀".encode()[:-1] + b" 2 1 t\n", ":2", ["unknown passage"]),  # cut in a character
        (packed(FIRST)[:-1], "", ["gzip"]),
        (packed(FIRST)[:-9], "", ["gzip"]),
        (packed(FIRST)[:12], "", ["gzip"]),
        (packed(FIRST)[:2], "", ["gzip"]),
        (packed(FIRST)[:-8] + bytes(8), "", ["gzip", "CRC"]),
        (packed(FIRST)[:-4] + b"\1\0\0\0", "", ["gzip"]),
        (packed(FIRST)[:10] + b"\xff" * 30, "", ["gzip"]),
        (packed(FIRST) + b"more", "", ["gzip"]),
    ],
)
@pytest.mark.parametrize("name", ["x.run", "x.gz"])
def test_bad_files(content: bytes, start: str, words: list[str], name: str, tmp_path: Path) -> None:
    refused(written(tmp_path, content, name), start, *words)


def test_no_file(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "absent", "no such file"), (tmp_path, "a folder")):
        refused(path, "", what, "query_id Q0 doc_id rank score tag")


@pytest.mark.parametrize(
    "content",
    [
        b"q1 Q0 d1 1 9.5 t\nq1 Q0 d2 2 -1e-3 t\n",
        b"q1 Q0 d1 1 9.5 t\nq1 Q0 d2 2 -.001 t",  # no last line feed
        b"q1 Q0 d1 1 9.5 t\r\nq1 Q0 d2 2 -0.001 t\r\n",
        b"q1\tQ0\td1\t1\t9.5\tt\n  q1   Q0 \t d2  2 -1E-3   t  \n",
        b"q1 0 d1 1 +9.5 \xff\0\nq1 x d2 2 -0.001 \xe2\x80\xa8\n",  # nobody reads these columns
    ],
)
def test_accepted_spellings(content: bytes, tmp_path: Path) -> None:
    expected = {"q1": [("d1", 9.5), ("d2", -0.001)]}
    half = content.index(b"\n") + 1
    two = packed(content[:half]) + packed(content[half:])  # two members are one file
    for name in ("x.run", "x.gz"):
        assert lists(written(tmp_path, content, name)) == expected
        assert lists(written(tmp_path, packed(content), name)) == expected
        assert lists(written(tmp_path, two, name)) == expected


LINES = [f"{q} Q0 {d} {r} {-r / 2} t" for q in QUERIES for r, d in enumerate(DOCS)]


@given(st.permutations(LINES))
@settings(deadline=None, max_examples=100)
def test_scattered_lines_are_grouped_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = written(tmp_path_factory.getbasetemp(), "\n".join(lines).encode(), "scattered")
    found = lists(path)
    assert {q: sorted(rows) for q, rows in found.items()} == {
        q: sorted((d, -r / 2) for r, d in enumerate(DOCS)) for q in QUERIES
    }
    for query, rows in found.items():  # in the file's order
        assert [d for d, _ in rows] == [line.split()[2] for line in lines if line.split()[0] == query]


def test_a_grouped_run_is_read_query_by_query(tmp_path: Path) -> None:
    """50,000 lines: the scattered form holds them all, in the 32 bytes a line that are promised."""
    queries, docs = [f"q{i}" for i in range(500)], [f"d{i}" for i in range(100)]
    lines = [f"{q} Q0 {d} {r} {-r} t\n" for q in queries for r, d in enumerate(docs)]
    peaks, sums = [], []
    for content in (lines, lines[::2] + lines[1::2]):
        path = written(tmp_path, "".join(content).encode())
        tracemalloc.start()
        sums.append(sum(float(one.scores.sum()) for one in read_run(path, queries, docs)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert sums[0] == sums[1] == -500 * 99 * 50
    assert peaks[0] < 0.5e6 and 1.6e6 < peaks[1] < 2.4e6, peaks


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.tuples(st.sampled_from(QUERIES), st.lists(finite, min_size=1, max_size=4)), unique_by=lambda x: x[0])
)
@settings(deadline=None, max_examples=50)
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, run) -> None:
    ranking = [(q, list(zip(DOCS, sorted(scores, reverse=True), strict=False))) for q, scores in run]
    folder = tmp_path_factory.getbasetemp()
    for name in ("back.run", "back.run.gz"):
        write_run(folder / name, ranking, "tag")
        if ranking:
            found = lists(folder / name)
            assert list(found) == [q for q, _ in ranking]
            assert repr(found) == repr(dict(ranking))  # repr: 0.0 is not -0.0
    assert gzip.decompress((folder / "back.run.gz").read_bytes()) == (folder / "back.run").read_bytes()


def test_the_bytes_of_files(tmp_path: Path) -> None:
    run = [("é:中", [("ﬀ😀", 1e300), ("d1", 0.1)]), ("q1", [("d2", -3.0)])]
    write_run(tmp_path / "run", run, "hash-1")
    expected = "é:中 Q0 ﬀ😀 1 1e+300 hash-1\né:中 Q0 d1 2 0.1 hash-1\nq1 Q0 d2 1 -3.0 hash-1\n"
    assert (tmp_path / "run").read_bytes() == expected.encode()
    write_qrels(tmp_path / "qrels", {"é:中": {"ﬀ😀": 3, "d1": 0}, "q1": {"d2": 1}})
    assert (tmp_path / "qrels").read_text("utf-8") == "é:中 0 ﬀ😀 3\né:中 0 d1 0\nq1 0 d2 1\n"
    for name in ("a.gz", "another.gz"):  # neither the name nor the time is in it
        write_run(tmp_path / name, run, "hash-1")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "another.gz").read_bytes()
    assert (tmp_path / "a.gz").read_bytes()[4:8] == bytes(4)
    assert not list(tmp_path.glob(".*"))


def test_scores_at_both_ends_of_float64(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [("q1", [("d1", 1.7976931348623157e308), ("d2", -1.7976931348623157e308)])], "tag")
    assert lists(tmp_path / "run") == {"q1": [("d1", 1.7976931348623157e308), ("d2", -1.7976931348623157e308)]}


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def ranking():
        yield "q1", [("d1", 1.0)]
        raise RuntimeError

    for name in ("x.run", "x.run.gz"):
        with pytest.raises(RuntimeError):
            write_run(tmp_path / name, ranking(), "t")
    assert not list(tmp_path.iterdir())
