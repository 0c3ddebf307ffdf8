"""XOR-TyDi: questions and their translations, and XOR-Retrieve's questions, answers and passages."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from xbench import readers
from xbench.errors import DataError
from xbench.readers.xor import read_wikipedia
from xbench.task import Task, vary
from xbench.tasks import load_task, read_definition

# Questions that XOR-Retrieve counts, of version 1.1's dev set, as PrimeQA's and others' logs of its evaluation have it.
COUNTED = {"te": 238, "bn": 304, "fi": 314, "ja": 241, "ko": 285, "ru": 237, "ar": 309}
ALL = {"fi": 360, "ar": 350, "bn": 312, "ko": 299, "ja": 296, "ru": 255, "te": 238}  # 2,110 in all


def test_the_translations(data: Path) -> None:
    task = load_task("xor-questions")
    assert sum(counts["pairs"] for counts in task.counts.values()) == 32_877
    for part in readers.check(task, data):
        (cell,) = part.cells
        language, collection = cell.query_language, part.collection
        folder = data / "xor-tydi" / f"{language}-en"
        first, second = ((folder / f"{a}.txt").read_text(encoding="utf-8").split("\n") for a in (language, "en"))
        expected: dict[str, set[str]] = {}
        for text, translation in zip(first, second, strict=True):
            if text and translation and text != translation:
                expected.setdefault(text, set()).add(translation)
        passages = {p.doc_id: p.text for p in collection.passages["en"]}
        found = {q.text: {passages[d] for d in collection.qrels[q.query_id]} for q in collection.queries[language]}
        assert found == expected and len(set(passages.values())) == len(passages)
        for row in (*collection.queries[language], *collection.passages["en"]):
            line = int(row[0].replace(".", ":").rpartition(":")[2])
            assert (first if row[0].startswith(f"{language}:") else second)[line - 1] == row[1]


def test_pairs_that_are_left_out(data: Path, tmp_path: Path) -> None:
    task = vary(load_task("xor-questions"), languages=["ar", "en"])
    assert [cell.name for cell in task.cells()] == ["cross/ar-en"]
    assert load_task("xor-questions").counts["cross/fi-en"]["untranslated"] == 401
    (tmp_path / "ar").write_text("a\nb\n\nd\na\ne\ng\u2028h\n", encoding="utf-8")
    (tmp_path / "en").write_text("A\nb\nC\n \nA2\nA\nG\n", encoding="utf-8")
    (part,) = readers.READERS[task.format](task, {"ar": tmp_path / "ar", "ar-en": tmp_path / "en"})
    assert part.counts == {"cross/ar-en": {"pairs": 7, "empty": 2, "untranslated": 1, "queries": 3, "passages": 3}}
    assert part.collection.queries == {"ar": [("ar:1", "a"), ("ar:6", "e"), ("ar:7", "g\u2028h")]}
    assert part.collection.passages == {"en": [("en:ar.1", "A"), ("en:ar.5", "A2"), ("en:ar.7", "G")]}
    assert part.collection.qrels == {
        "ar:1": {"en:ar.1": 1, "en:ar.5": 1},
        "ar:6": {"en:ar.1": 1},
        "ar:7": {"en:ar.7": 1},
    }
    (tmp_path / "en").write_text("A\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"ar has 7 lines, .*en 1; expected as many"):
        list(readers.READERS[task.format](task, {"ar": tmp_path / "ar", "ar-en": tmp_path / "en"}))


DEFINITION = """
name = "xor-retrieve"
version = 1
title = "xor"
description = ""
format = "xor-retrieve"
licence = "CC-BY-SA-4.0"
citation = ""
languages = ["ar", "bn", "en", "fi", "ja", "ko", "ru", "te"]
query_languages = ["ar", "bn", "fi", "ja", "ko", "ru", "te"]
passage_languages = ["en"]
settings = ["cross"]
parallel = false
measures = ["Success@1"]
primary = "Success@1"

[source]
folder = "xor-tydi"
repository = "https://github.com/AkariAsai/XORQA"
revision = "v1.1"
url = "https://nlp.cs.washington.edu/xorqa/XORQA_site/data/{name}"

[files]
questions = { name = "xor_dev_retrieve_eng_span_v1_1.jsonl" }
passages = { name = "psgs_w100.tsv", passages = true }

[counts]
en = { passages = 3 }
"""


@pytest.fixture
def xor(tmp_path: Path) -> Task:
    counts = "".join(f"{a} = {{ queries = {n}, unspanned = {ALL[a] - n} }}\n" for a, n in COUNTED.items())
    (tmp_path / "xor-retrieve.toml").write_text(DEFINITION + counts)
    return read_definition(tmp_path / "xor-retrieve.toml")


def test_the_questions_that_count(xor: Task, data: Path) -> None:
    (part,) = readers.parts(xor, data, passages=False)
    found = part.collection
    assert {a: len(rows) for a, rows in found.queries.items()} == COUNTED
    expected = {}
    for line in (
        (data / "xor-tydi" / "xor_dev_retrieve_eng_span_v1_1.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ):
        row = json.loads(line)
        if spans := [answer for answer in row["answers"] if answer not in ["yes", "no"]]:
            expected[f"{row['lang']}:{row['id']}"] = set(spans)
    assert {query_id: set(some) for query_id, some in found.answers.items()} == expected and len(expected) == 1_928
    assert all(len(set(some)) == len(some) for some in found.answers.values())
    assert len(found.large["en"]) == 3 and found.passages == {} and set(found.qrels) == set(expected)


# The first rows of psgs_w100.tsv begin like this.
TSV = (
    'id\ttext\ttitle\n1\t"Aaron ( or ; ""Ahärôn"") is a prophet"\tAaron\n2\tGod at\u2028Sinai\t\n'
    '13\t"A third"\t"Title, with ""quotes"""\n'
)


@pytest.mark.parametrize("packed", [False, True])
def test_the_passages_of_dpr(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "psgs_w100.tsv"
    path.write_bytes(gzip.compress(TSV.encode()) if packed else TSV.encode())
    assert [tuple(p) for p in read_wikipedia(path, "en")] == [
        ("en:1", 'Aaron Aaron ( or ; "Ahärôn") is a prophet'),
        ("en:2", "God at\u2028Sinai"),
        ("en:13", 'Title, with "quotes" A third'),
    ]
    assert next(read_wikipedia(path, "en", "\n")).text.startswith("Aaron\nAaron")


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        ("1\ta\tb\n", ":1: found ['1', 'a', 'b'], expected the heads ['id', 'text', 'title']"),
        ("id\ttext\ttitle\n1\ta\n", ":2: 2 fields, expected 3"),
        ("id\ttext\ttitle\n1\ta\tb\tc\n", ":2: 4 fields, expected 3"),
        ("id\ttext\ttitle\n\n", ":2: 1 fields, expected 3"),
        ('id\ttext\ttitle\n1\t"a\n', ":2: quotes that do not match"),
        ('id\ttext\ttitle\n1\t"a"b\tc\n', ":2: quotes that do not match"),
        ("id\ttext\ttitle\n1 2\ta\tb\n", ":2: id '1 2' is empty or holds white space"),
        ("id\ttext\ttitle\n1\t \tb\n", ":2: the text of passage 1 is empty"),
    ],
)
def test_bad_passages(content: str, phrase: str, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(content)
    with pytest.raises(DataError) as caught:
        list(read_wikipedia(tmp_path / "x.tsv", "en"))
    assert str(caught.value).startswith(f"{tmp_path / 'x.tsv'}{phrase}")


ROW = {"id": "-7", "question": "q?", "answers": ["a"], "lang": "te", "split": "dev"}


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"id": "-6"}, ": id '-6' for the second time, first in line 1"),
        ({"id": 7}, ".id: expected text, found int"),
        ({"id": "a b"}, ": id 'a b' holds white space"),
        ({"question": " "}, ".question: the text is empty"),
        ({"answers": "a"}, ".answers: expected a list"),
        ({"answers": ["a", ""]}, ".answers[1]: the text is empty"),
        ({"lang": None}, ".lang: expected text"),
    ],
)
def test_bad_questions(change: dict[str, Any], phrase: str, xor: Task, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({**ROW, "id": "-6"}) + "\n" + json.dumps({**ROW, **change}) + "\n")
    with pytest.raises(DataError) as caught:
        list(readers.READERS[xor.format](xor, {"questions": path}))
    assert str(caught.value).startswith(f"{path}:2{phrase}")
