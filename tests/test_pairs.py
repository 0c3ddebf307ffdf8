"""Pairs: what is written is read, in every format; what is no pair is refused with its line or row."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own import jsonl

from xbench import parquet
from xbench.errors import DataError, StorageError
from xbench.train.config import KINDS
from xbench.train.pairs import Pair, file_pairs, read_pairs, stream

Row = dict[str, Any]
GOOD: Row = {"group": "g:1", "lang": "en", "question": "Who?", "passage": "He."}
FORMATS = ["jsonl", "jsonl.gz", "parquet"]
# One type a column, so that a file of any rows can be written; another in a row makes its column of that type.
STRINGS = ("group", "lang", "question", "passage", "passage_lang", "kind", "source")


def write(folder: Path, rows: Sequence[Row], form: str, **options: Any) -> Path:
    path = folder / f"pairs.{form}"
    if form == "jsonl":
        return jsonl(path, rows)
    if form == "jsonl.gz":
        path.write_bytes(gzip.compress(jsonl(folder / "plain", rows).read_bytes()))
        return path
    names = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path, **options)
    return path


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)
CODE = st.sampled_from(["en", "zh-Hant", "de"])
ROW = st.fixed_dictionaries(
    {"group": TEXT, "lang": CODE, "question": TEXT, "passage": TEXT},
    optional={
        "passage_lang": CODE,
        "kind": st.sampled_from(KINDS),
        "source": st.text(st.characters(exclude_categories=("Cs",))),
        "negatives": st.lists(TEXT, max_size=3),
    },
)


@pytest.mark.parametrize("form", FORMATS)
@given(rows=st.lists(ROW, min_size=1, max_size=5))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(form: str, rows: list[Row], tmp_path: Path) -> None:
    path = write(tmp_path, rows, form)
    expected = [
        (
            row["group"],
            row["lang"],
            row["question"],
            row["passage"],
            row.get("passage_lang", row["lang"]),
            row.get("kind", "qa"),
            row.get("source", ""),
            tuple(row.get("negatives", [])),
        )
        for row in rows
    ]
    told: list[int] = []
    found = file_pairs(path)
    assert [tuple(pair) for pair in found.read(told.append)] == expected
    assert sum(told) == found.size == path.stat().st_size
    assert list(stream({"a": found, "b": found})) == [Pair(*each) for each in expected] * 2


def fault(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_pairs(path))
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


FAULTS: list[tuple[Row, str]] = [
    *(({name: None}, f"{name}: found null, expected a string") for name in GOOD),
    *(({name: 7}, f"{name}: found int, expected a string") for name in STRINGS),
    *(({name: " \u2003"}, f"{name} is empty") for name in STRINGS[:-1]),
    ({"lang": "en de"}, "lang: found 'en de', expected the code of a language"),
    ({"passage_lang": "en "}, "passage_lang: found 'en ', expected the code of a language"),
    ({"kind": "QA"}, "kind: found 'QA', expected one of qa, ctx, bitext, term"),
    ({"negatives": "no"}, "negatives: expected a list of texts"),
    ({"negatives": ["no", " "]}, "negatives: expected a list of texts, none of them empty"),
    ({"negatives": ["no", None]}, "negatives: expected a list of texts"),
    ({"negatives": [3]}, "negatives: expected a list of texts"),
    ({"passage_language": "de"}, "'passage_language' is no column of pairs; expected group, lang, question, passage"),
    ({"hard_negatives": ["no"]}, "'hard_negatives' is no column of pairs"),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("change", "phrase"), FAULTS)
def test_what_is_no_pair_is_refused_with_its_place(form: str, change: Row, phrase: str, tmp_path: Path) -> None:
    if form == "parquet":  # a column has one type: all of it is wrong, and the first row is named
        name = next(iter(change))
        same = not isinstance(change[name], (str, type(None))) or name not in STRINGS
        rows = [GOOD | change, GOOD | change] if same else [GOOD, GOOD | change]
        assert fault(write(tmp_path, rows, form)).startswith(f"{1 if same else 2}: {phrase}")
    else:
        assert fault(write(tmp_path, [GOOD, GOOD | change, GOOD], form)).startswith(f"2: {phrase}")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", GOOD)
def test_a_column_that_is_missing(form: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, [{key: value for key, value in GOOD.items() if key != name}], form)
    assert fault(path) == f"1: no {name!r}; expected group, lang, question, passage"


@pytest.mark.parametrize("form", FORMATS)
def test_null_is_as_good_as_nothing_where_nothing_need_be(form: str, tmp_path: Path) -> None:
    empty = dict.fromkeys(("passage_lang", "kind", "source", "negatives"))
    full = GOOD | {"passage_lang": "de", "kind": "ctx", "source": "s", "negatives": ["x"]}
    first, second = read_pairs(write(tmp_path, [GOOD | empty, full], form))
    assert first == ("g:1", "en", "Who?", "He.", "en", "qa", "", ())
    assert second == ("g:1", "en", "Who?", "He.", "de", "ctx", "s", ("x",))


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b'{"group": "\\ud800"}', "1: a string holds a lone surrogate"),
        (b"[]", "1: expected an object, found list"),
        (b"{", "1: not JSON"),
        (b'{"group": "\xff"}', "1: not UTF-8"),
        (b"\xef\xbb\xbf{}", "1: begins with a byte order mark"),
    ],
)
def test_lines_that_are_no_json(content: bytes, phrase: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + content if not content.startswith(b"\xef") else content)
    assert fault(path).startswith(phrase.replace("1:", "2:", 1) if not content.startswith(b"\xef") else phrase)


def test_a_parquet_file_of_strings_of_other_kinds(tmp_path: Path) -> None:
    """Large strings and dictionaries are strings; bytes are not."""
    columns = {name: [value] * 3 for name, value in GOOD.items()}
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(
            pa.table({name: pa.array(values, kind) for name, values in columns.items()}), tmp_path / "x.parquet"
        )
        assert list(read_pairs(tmp_path / "x.parquet")) == [Pair("g:1", "en", "Who?", "He.", "en", "qa", "", ())] * 3
    pq.write_table(
        pa.table({name: pa.array([v.encode() for v in values]) for name, values in columns.items()}),
        tmp_path / "y.parquet",
    )
    assert fault(tmp_path / "y.parquet") == "1: group: found bytes, expected a string"


def test_half_a_character_in_parquet(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\x03\0\0\0"), pa.py_buffer(b"\xed\xa0\x80")]
    )
    good = {name: pa.array([value]) for name, value in GOOD.items()}
    pq.write_table(pa.table(good | {"question": bad}), tmp_path / "x.parquet")
    assert "1: this or one of the next" in fault(tmp_path / "x.parquet")


def test_parquet_is_read_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH", 10)
    rows = [GOOD | {"group": str(i)} for i in range(95)]
    path = write(tmp_path, rows, "parquet", row_group_size=30)
    told: list[int] = []
    pairs = read_pairs(path, told.append)
    assert [next(pairs).group for _ in range(25)] == [str(i) for i in range(25)]
    assert 0.15 < sum(told) / path.stat().st_size < 0.27
    assert len(list(pairs)) == 70 and sum(told) == path.stat().st_size


def test_files(tmp_path: Path) -> None:
    first, second = (file_pairs(write(tmp_path, [GOOD], form)) for form in ("jsonl", "parquet"))
    assert first.sha256 != second.sha256 and first.size > 0
    with pytest.raises(DataError, match=r"pairs\.csv: expected a name that ends in \.jsonl, \.jsonl\.gz, \.parquet"):
        file_pairs(tmp_path / "pairs.csv")
    with pytest.raises(StorageError):
        file_pairs(tmp_path / "nothing.jsonl")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match=r"text\.parquet: not a Parquet file"):
        list(read_pairs(tmp_path / "text.parquet"))
    assert list(read_pairs(jsonl(tmp_path / "empty.jsonl", []))) == []


def test_real_pairs(data: Path) -> None:
    """Counts of the manifest, over the first lines."""
    path = data / "train" / "pairs.jsonl.gz"
    if not path.is_file():
        pytest.skip("NO REAL DATA: no train/pairs.jsonl.gz")
    pairs = [pair for pair, _ in zip(read_pairs(path), range(3_000), strict=False)]
    assert sum(pair.source == "arcd" for pair in pairs) == 1_320  # manifest.json: arcd/qa
    assert {pair.kind for pair in pairs} <= set(KINDS) and all(pair.group.startswith(pair.source) for pair in pairs)
