"""What readers refuse: the hostile inputs, each with the file and the row, and exit code 3 through the command line."""

import gzip
import json
import os
import random
import time
from pathlib import Path

import pytest
from own import HEADER, beir, error, jsonl, run, tiny, tsv

from xbench.errors import DataError
from xbench.readers.checks import Ids, check_id, json_rows, lines, tsv_rows
from xbench.readers.qrels import gather, grade_of, text_qrels


def texts(path: Path) -> list[str]:
    return [text for _, text in lines(path)]


def test_a_row_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    path = tmp_path / "x.txt"
    for ending in ("\n", "\r\n"):
        for last in ("", ending, ending * 3):
            path.write_bytes((text + ending + "zwei" + last).encode())
            assert list(lines(path)) == [(1, text), (2, "zwei")]
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(lines(packed)) == list(lines(path))
    # In JSON, too: one record, its text unchanged.
    jsonl(path, [{"text": text}, {"text": "b"}])
    assert [row.value for row in json_rows(path)] == [{"text": text}, {"text": "b"}]


def test_a_byte_order_mark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfa\nb\n")
    with caplog.at_level("WARNING", "xbench"):
        assert texts(path) == ["a", "b"]
    assert "byte order mark" in caplog.text
    path.write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
    with pytest.raises(DataError, match=r"x\.txt:2: a byte order mark inside"):
        texts(path)


BYTES = {
    "empty": (b"", ": no row in it"),
    "only line ends": (b"\n\n\r\n", ": no row in it"),
    "an empty line": (b"a\n\nb\n", ":2: an empty line"),
    "a blank line": (b"a\n \t\nb\n", ":2: an empty line"),
    "0xff": (b"a\nb\xff\n", ":2: not UTF-8 (byte 1 of the line: 0xff)"),
    "overlong": (b"a\n\xc0\xaf\n", ":2: not UTF-8"),
    "a surrogate in UTF-8": (b"a\n\xed\xa0\x80\n", ":2: not UTF-8"),
    "cut at the end": (b"a\n\xe4\xb8", ":2: not UTF-8"),
    "UTF-16": ("a\nb\n".encode("utf-16"), ":1: UTF-16"),
    "NUL": (b"a\nb\0c\n", ":2: a NUL byte"),
    "carriage returns alone": (b"a\rb\rc\r", ":1: a carriage return inside the line"),
    "a carriage return inside": (b"a\nb\rc\n", ":2: a carriage return inside the line"),
    "a cut gzip file": (gzip.compress(b"a\nb\n" * 9999, mtime=0)[:-9], ": not a whole gzip file"),
    "a damaged gzip file": (gzip.compress(b"a\nb\n", mtime=0)[:-8] + b"\0" * 8, ": not a whole gzip file"),
    "after a gzip file": (gzip.compress(b"a\n", mtime=0) + b"more", ": not a whole gzip file"),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_that_are_no_lines(case: str, tmp_path: Path) -> None:
    content, phrase = BYTES[case]
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        texts(path)
    assert str(caught.value).startswith(str(path)) and phrase in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, phrase in {"fifo": "no regular file", "none": "no such file", ".": "a folder"}.items():
        with pytest.raises(DataError, match=phrase):
            texts(tmp_path / name)


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xbench.lines.LONGEST", 100)
    path = tmp_path / "x.txt"
    path.write_bytes(b"a" * 99 + b"\n" + b"b" * 99 + b"\n")
    assert [len(text) for text in texts(path)] == [99, 99]
    path.write_bytes(b"a\n" + b"b" * 1000)
    with pytest.raises(DataError, match=r"x\.txt:2: a line of more than 100 bytes"):
        texts(path)


def test_a_line_of_a_sparse_file_is_not_held(tmp_path: Path) -> None:
    """Ten gigabytes of nothing: refused after the longest line, in a moment."""
    path = tmp_path / "x.txt"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    start = time.monotonic()
    with pytest.raises(DataError, match=r":1: a line of more than 16777216 bytes"):
        texts(path)
    assert time.monotonic() - start < 5


JSON = {
    '{"text": "a"': "not JSON",
    '{"text": "a",}': "not JSON",
    '{"a": 1, "a": 2}': "duplicate key 'a'",
    '{"a": NaN}': "NaN is not JSON",
    '{"a": -Infinity}': "-Infinity is not JSON",
    '{"a": 1e999}': "beyond the range",
    '{"a": ' + "9" * 5000 + "}": "not usable JSON",
    "[" * 100_000: "not usable JSON",
    '{"a": "\\ud800"}': "a lone surrogate",
    '["a"]': "expected an object, found list",
    '"a"': "expected an object, found str",
    "null": "expected an object, found NoneType",
    '{"a": "b\tc"}': "not JSON",
}


@pytest.mark.parametrize("line", JSON, ids=lambda line: str(line)[:20])
def test_lines_that_are_no_json(line: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "b"}\n' + line + "\n")
    with pytest.raises(DataError) as caught:
        list(json_rows(path))
    assert str(caught.value).startswith(f"{path}:2: ") and JSON[line] in str(caught.value)
    assert len(str(caught.value)) < 400


def test_quotes_in_tab_separated_files(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text('1\t"said" he\n2\t"all of it"\n3\t"\n')
    assert [cells[1] for _, cells in tsv_rows(path)] == ['"said" he', '"all of it"', '"']
    for row in ('"4"\tb', '4\t"he said ""no"""'):
        path.write_text(f"1\ta\n{row}\n")
        with pytest.raises(DataError, match=r"x\.tsv:2: column . stands in the quotes of CSV"):
            list(tsv_rows(path))


def test_ids_are_kept_as_they_are() -> None:
    strange = [
        "NA",
        "null",
        "007",
        "1e5",
        "-1",
        "..",
        "/",
        "a/../b",
        "<script>",
        "=1+2",
        "é",
        "e\u0301",
        "a\u200bb",
        "K",
        "k",
    ]
    ids = Ids("passage")
    assert [ids.add(id_, f"x:{i}") for i, id_ in enumerate(strange, 1)] == strange and len(ids) == len(strange)
    assert check_id("é" * 512, "x") == "é" * 512
    for bad, phrase in {
        "": "is empty",
        " ": "white space",
        "a b": "white space",
        "a\u00a0b": "white space",
        "a\u2028b": "white space",
        "a\tb": "control",
        "a\x1b[31mb": "control",
        "a\x85b": "control",
        "é" * 513: "longer than 1024 bytes",
    }.items():
        with pytest.raises(DataError, match=phrase) as caught:
            check_id(bad, "x.jsonl:7")
        assert str(caught.value).startswith("x.jsonl:7: ") and str(caught.value).isprintable()
    with pytest.raises(DataError, match=r"y\.jsonl:3: passage id 'NA' for the second time, first in line 1 of x"):
        ids.add("NA", "y.jsonl:3")


def test_grades() -> None:
    good = {"0": 0, "1": 1, "-2": -2, "+3": 3, 4: 4, 5.0: 5, "1000": 1000, "007": 7}
    assert [grade_of(value, "x:1") for value in good] == list(good.values())
    for bad in (
        "0.5",
        "1.0",
        "",
        "abc",
        "1e3",
        "٣",
        "1_0",
        " 1",
        0.5,
        float("nan"),
        float("inf"),
        True,
        None,
        "1001",
        2**31,
        "9" * 18,
    ):
        with pytest.raises(DataError, match=r"^x:1: grade "):
            grade_of(bad, "x:1")


def test_the_two_forms_of_qrels(tmp_path: Path) -> None:
    trec, three = tmp_path / "a.txt", tmp_path / "b.tsv"
    trec.write_text("q1 0 d1 1\nq1\t0\td2   0\nq2 Q0 d1 -1\n")
    tsv(three, [HEADER, ("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d1", -1)])
    both = [[(j.query, j.doc, j.grade) for j in text_qrels(path)] for path in (trec, three)]
    assert both[0] == both[1] == [("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d1", -1)]
    assert [j.where for j in text_qrels(three)] == [f"{three}:{row}" for row in (2, 3, 4)]


QRELS = {
    "no header": ("q1\td1\t1\nq1\td2\t1\n", ":1: ['q1', 'd1', '1'], expected a header"),
    "header of two": ("query-id\tcorpus-id\n", ":1: "),
    "a column less": ("query-id\tcorpus-id\tscore\nq1\td1\n", ":2: 2 columns, expected 3"),
    "a column more": ("query-id\tcorpus-id\tscore\nq1\td1\t1\t1\n", ":2: 4 columns, expected 3"),
    "TREC, a column less": ("q1 0 d1 1\nq1 0 d1\n", ":2: 3 columns, expected 4"),
    "half a grade": ("q1 0 d1 1\nq1 0 d2 0.5\n", ":2: grade '0.5', expected a whole number"),
    "the same twice": (
        "q1 0 d1 1\nq2 0 d1 1\nq1 0 d1 1\n",
        ":3: passage 'd1' of query 'q1' is judged for the second time",
    ),
    "contradiction": ("q1 0 d1 1\nq1 0 d1 0\n", "first in line 1 of x.tsv, with grade 1 and not 0"),
    "an id in quotes": ('query-id\tcorpus-id\tscore\n"q1"\td1\t1\n', ":2: column 1 stands in the quotes"),
    "no id": ("query-id\tcorpus-id\tscore\n\td1\t1\n", ":2: the id is empty"),
}


@pytest.mark.parametrize("case", QRELS)
def test_lines_that_are_no_qrels(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(QRELS[case][0])
    with pytest.raises(DataError) as caught:
        gather(text_qrels(path))
    assert str(caught.value).startswith(str(path)) and QRELS[case][1] in str(caught.value)


CORPUS = '{"_id": "d1", "text": "a"}'
# file of a BEIR folder -> its second line (after a good first one), and what is said of it.
THROUGH = [
    ("corpus.jsonl", '{"_id": "d1", "text": "b"}', "second time, first in line 1 of corpus.jsonl"),
    ("corpus.jsonl", '{"_id": "d9", "text": ""}', "passage 'd9' has no text"),
    ("corpus.jsonl", '{"_id": "d9", "title": "", "text": " \u00a0 "}', "passage 'd9' has no text"),
    ("corpus.jsonl", '{"_id": "d9"}', "field 'text' is missing"),
    ("corpus.jsonl", '{"text": "b"}', "field '_id' is missing"),
    ("corpus.jsonl", '{"_id": "d9", "id": "d9", "text": "b"}', "fields '_id' and 'id' mean the same"),
    ("corpus.jsonl", '{"_id": 9, "text": "b"}', "a int; in the rows before it is a str"),
    ("corpus.jsonl", '{"_id": null, "text": "b"}', "_id is None"),
    ("corpus.jsonl", '{"_id": "d 9", "text": "b"}', "white space"),
    ("corpus.jsonl", '{"_id": "d9", "text": null}', "expected text, found NoneType"),
    ("corpus.jsonl", '{"_id": "d9", "title": 3, "text": "b"}', "expected text, found int"),
    ("corpus.jsonl", '{"_id": "d9", "text": ["b"]}', "expected text, found list"),
    ("corpus.jsonl", '{"_id": "d9", "text": "\\udc00"}', "lone surrogate"),
    ("queries.jsonl", '{"_id": "q9", "text": " "}', "the text is empty"),
    ("queries.jsonl", '{"_id": "q1", "text": "b"}', "query id 'q1' for the second time"),
    ("queries.jsonl", '{"_id": "q9", "text": "b", "query": "c"}', "fields 'text' and 'query' mean the same"),
    ("qrels/test.tsv", "q1\td1\t1\nq1\td1\t1", "judged for the second time"),
    ("qrels/test.tsv", "q9\td1\t1", "query 'q9': judged, but in no file of this task (1 judgement)"),
    (
        "qrels/test.tsv",
        "q1\td8\t1\nq1\td9\t0",
        "passage 'd8', 'd9': judged, but in no file of this task (2 judgements)",
    ),
    ("qrels/test.tsv", "q1\td1\t1.5", "grade '1.5'"),
    ("qrels/test.tsv", "q1\td1\t1000000000", "is beyond 1000"),
    ("qrels/test.tsv", "q1\td1", "2 columns"),
]


@pytest.mark.parametrize(("name", "line", "phrase"), THROUGH)
def test_the_command_names_file_and_row(
    name: str,
    line: str,
    phrase: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny(tmp_path / "d")
    path = folder / name
    first = path.read_text().split("\n")[0]
    path.write_text(f"{first}\n{line}\n")
    said = error(capsys, 3, "tasks", "new", "my", "--from", "d", "--language", "en")
    row = 3 if line.count("q1\td1\t1") == 2 else 2
    assert said.startswith(f"xbench: d/{name}:{row}: ") and phrase in said and not (tmp_path / "my.toml").exists()


def test_nothing_relevant(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    beir(tmp_path / "d", {"d1": "a"}, {"q1": "b"}, [("q1", "d1", 0)])
    said = error(capsys, 3, "tasks", "new", "my", "--from", "d", "--language", "en")
    assert "qrels/test.tsv: no query has a relevant passage" in said


TABLES = {
    "a column less": ("1\ta\n2\n", ":2: 1 columns, expected 2 between tabs: id, text"),
    "a tab in the text": ("1\ta\n2\tb\tc\n", ":2: 3 columns, expected 2 between tabs: id, text"),
    "a column less than the header": ("doc_id\ttitle\ttext\n1\ta\tb\n2\ta\n", ":3: 2 columns, expected 3"),
    "a column twice": ("id\ttext\ttext\n1\ta\tb\n", ":1: a column name twice"),
    "no text": ("id\tbody\n1\ta\n", ":2: field 'text' is missing; fields: 'body', 'id'"),
    "an empty id": ("1\ta\n\tb\n", ":2: the id is empty"),
    "the header alone": ("id\ttext\n", "no passage of language en in any file"),
    "empty": ("", ": no row in it"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_of_texts(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "docs.tsv").write_text(TABLES[case][0])
    tsv(folder / "queries.tsv", [("q1", "a")])
    (folder / "qrels.txt").write_text("q1 0 1 1\n")
    said = error(capsys, 3, "tasks", "new", "my", "--from", "d", "--language", "en")
    assert TABLES[case][1] in said and ("d/docs.tsv:" in said or "alone" in case)


@pytest.mark.parametrize("content", ["query-id\tcorpus-id\tscore\n", "query-id\tcorpus-id\tscore"])
def test_qrels_that_are_a_header_alone(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tiny(tmp_path / "d") / "qrels" / "test.tsv").write_text(content)
    said = error(capsys, 3, "tasks", "new", "my", "--from", "d", "--language", "en")
    assert "d/qrels/test.tsv: no query has a relevant passage" in said


def test_many_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\n" * 200_000)
    with pytest.raises(DataError, match="no row in it"):
        texts(path)


def test_broken_files(tmp_path: Path) -> None:
    """Whatever a file holds: rows or a DataError, and nothing else."""
    random.seed(5)
    good = (
        json.dumps({"_id": "d1", "text": "x\u2028y ☃"}, ensure_ascii=False).encode() + b'\n{"_id": "d2", "text": "b"}\n'
    )
    path = tmp_path / "x.jsonl"
    refused = 0
    for _ in range(250):
        content = bytearray(good)
        for _ in range(random.randint(1, 3)):
            content[random.randrange(len(content))] = random.choice(b'\0\n\r"\\{}[]\xff\xed\xbb1e:,')
        path.write_bytes(content[: random.randint(1, len(content))])
        try:
            list(json_rows(path))
        except DataError as problem:
            refused += 1
            assert str(problem).startswith(str(path)) and "\n" not in str(problem)
    assert refused > 175


def test_the_whole_way_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the table above: the same folder, unbroken."""
    monkeypatch.chdir(tmp_path)
    tiny(tmp_path / "d")
    assert run("tasks", "new", "my", "--from", "d", "--language", "en") == 0
    assert run("data", "verify", "my.toml") == 0
