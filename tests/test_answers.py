"""Answer strings: the official normalisations written out, and first passages by vectors, retrievers and runs."""

import contextlib
import re
import string
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xbench import readers
from xbench.answers import contains, matches, normalise
from xbench.catalogue import parse, parse_all
from xbench.errors import UsageError
from xbench.evaluate import Plan, evaluate
from xbench.models import Role
from xbench.readers.part import Part
from xbench.records import Cell, Collection, Passage, Query
from xbench.results import Result, read_result, write_result
from xbench.runs import score_file
from xbench.task import Task
from xbench.tasks import read_definition

# MLQA's scorer takes a character for punctuation if its category begins with P, or it is ASCII's.
PUNCTUATION = {c for c in map(chr, range(sys.maxunicode)) if unicodedata.category(c)[0] == "P"} | {*string.punctuation}
ARTICLES = {
    "en": "a an the",
    "es": "un una unos unas el la los las",
    "de": "ein eine einen einem eines einer der die das den dem des",
    "vi": "của là cái chiếc những",
    "hi": "",
    "zh": "",
}


def is_word(c: str) -> bool:
    r"""What `\b` of Python's re takes for a letter of a word."""
    return c.isalnum() or c == "_"


def written_out(text: str, language: str) -> str:
    """`normalize_answer` of mlqa_evaluation_v1.py, of evaluate-v1.1.py for other languages, letter by letter."""
    mlqa = language in (*ARTICLES, "ar")
    kept = [c for c in text.lower() if c not in (PUNCTUATION if mlqa else set(string.punctuation))]
    if language == "ar":
        kept = list("".join(kept).replace("ال", " "))
    else:
        articles, words = ARTICLES.get(language, "a an the").split(), [""]
        for c in kept:  # runs of word characters, and what stands between them
            if words[-1] and is_word(words[-1][-1]) == is_word(c):
                words[-1] += c
            else:
                words.append(c)
        kept = list("".join(" " if word in articles else word for word in words))
    if language == "zh":
        kept = [f" {c} " if "\u4e00" <= c <= "\u9fa5" else c for c in kept]
    return " ".join("".join(kept).split())


CASES = [
    ("en", "The U.S.A., an “old” name – a test!", "usa old name test"),
    ("en", "theory of Anna's A-team", "theory of annas ateam"),
    ("en", "¿Qué? «yes» 。", "qué yes"),
    ("es", "La casa, el Niño y unas ¿cosas?", "casa niño y cosas"),
    ("de", "Der Straße, den „Größen“ und Einer", "straße größen und"),
    ("de", "1.000 €", "1000 €"),
    ("vi", "Những người của Việt Nam", "người việt nam"),
    ("vi", "cu\u0309a nha\u0300", "cu\u0309a nha\u0300"),  # decomposed: no article, as in the official scorer
    ("ar", "الجامعة العربية، والكتاب؟", "جامعة عربية و كتاب"),
    ("ar", "خيال", "خي"),  # the two letters go inside a word too
    ("hi", "ताज महल। (आगरा)", "ताज महल आगरा"),
    ("hi", "क्षत्रिय\u0964 \u0915\u093c", "क्षत्रिय \u0915\u093c"),
    ("zh", "《红楼梦》是1791年的ABC小说。", "红 楼 梦 是 1791 年 的 abc 小 说"),
    ("zh-Hant", "臺灣，Taiwan 101", "臺 灣 taiwan 101"),
    ("ko", "The “서울” 특별시, a", "“서울” 특별시"),  # SQuAD's: ASCII's punctuation and English articles
    ("fi", "Helsinki – an A!", "helsinki –"),
    ("te", "తెలుగు\u0c4d, 12", "తెలుగు\u0c4d 12"),
    ("th", "\u2028กรุงเทพ\u00a0ฯ\x85", "กรุงเทพ ฯ"),
    ("ru", "", ""),
    ("en", "The. A!", ""),
    ("tr", "İstanbul", "i\u0307stanbul"),
]


@pytest.mark.parametrize(("language", "text", "expected"), CASES)
def test_by_hand(language: str, text: str, expected: str) -> None:
    assert normalise(text, language) == expected == written_out(text, language.partition("-")[0])


LETTERS = "aethn AEn_unlosder.-'¿“。，、।ـالجعcủaàclàchiếcnhững\u0301\u093c\u0345红楼梦\u3400١4\t\n\u2028\x85\xa0İßǅ"


@given(st.text(st.sampled_from(LETTERS) | st.characters(), max_size=40), st.sampled_from([*ARTICLES, "ar", "ru", "ko"]))
@settings(deadline=None, max_examples=400)
def test_as_written_out(text: str, language: str) -> None:
    assert normalise(text, language) == written_out(text, language)


def test_matches_and_contains() -> None:
    assert matches("The Beatles!", ["Queen", "beatles"], "en") and not matches("The Beatles", ["Beatle"], "en")
    assert matches("The", ["An"], "en")  # as the official scorer: nothing is left of either
    assert contains("In 1969, the   Beatles…", ["Beatles"], "en") and contains("a party", ["Art"], "en")
    assert contains("在1791年，红楼梦出版", ["《红楼梦》"], "zh") and not contains("红的楼梦", ["红楼梦"], "zh")
    assert not contains("anything at all", ["the", "!"], "en") and not contains("anything", [], "en")
    assert contains("Talossa", ["talo"], "fi") and not contains("talo", ["Talossa"], "fi")


def test_names() -> None:
    for family in ("EM", "HasAnswer"):
        measure = parse(f"{family}@01")
        assert (measure.name, measure.of_answers, measure.multi_only) == (f"{family}@1", True, False)
        for wrong in (family, f"{family}@10"):
            with pytest.raises(UsageError, match=f"is of the first passage alone; write {family}@1"):
                parse(wrong)
    assert not parse("Success@1").of_answers and not parse("Bpref").of_answers


# A task of two languages in which every setting has a pool of its own first passage.
TOML = """
name = "quiz"
version = 1
title = "quiz"
description = "Questions with answer strings."
format = "quiz"
licence = "CC0-1.0"
citation = ""
languages = ["de", "en"]
settings = ["mono", "cross", "multi"]
measures = ["RR", "EM@1", "HasAnswer@1"]
primary = "RR"

[source]
repository = "quiz"
revision = "1"
url = "https://example.org/quiz"

[files]
quiz = {}

[counts]
de = { queries = 9, passages = 8 }
en = { queries = 9, passages = 8 }
"""
WORDS = {"de": ["der Rhein", "die Elbe", "Ulm"], "en": ["the Rhine", "an Elbe", "Ulm."]}
RNG = np.random.default_rng(3)
NAMES = [f"p{(5 * i + 3) % 8}" for i in range(8)]  # not in the order of the rows, so that ties tell
COUNTS = {"de": {"queries": 9, "passages": 8}, "en": {"queries": 9, "passages": 8}}
COLLECTION = Collection(
    {a: [Query(f"{a}:q{i}", f"question {i}") for i in range(9)] for a in WORDS},
    {a: [Passage(f"{a}:{NAMES[i]}", f"So: {WORDS[a][i % 3].upper()} and {i}") for i in range(8)] for a in WORDS},
    {f"{a}:q{i}": {f"{b}:{NAMES[i % 8]}": 1 for b in WORDS} for i in range(9) for a in WORDS},
    {},
    answers={f"{a}:q{i}": ("Bonn", *(WORDS[b][i % 3] for b in WORDS)) for i in range(9) for a in WORDS},
    items={f"{a}:{NAMES[i]}": WORDS[a][(i + i // 3) % 3] for i in range(8) for a in WORDS},
)
# Small whole numbers: scores are exact, and many tie.
VECTORS = {
    (role, a): np.insert(RNG.integers(-1, 2, (len(rows[a]), 3)), 3, 1, axis=1).astype(np.float32)
    for role, rows in (("queries", COLLECTION.queries), ("passages", COLLECTION.passages))
    for a in WORDS
}


class Numbers:
    """Vectors as given above."""

    name = "numbers"
    identity: Mapping[str, object] = {"kind": "numbers"}

    def vectors(self, role: Role, language: str, collection: Collection) -> NDArray[np.float32]:
        return VECTORS[role, language]


class Pooled:
    """The same scores, of a retriever: each less by 0.125 for every passage before it in its pool, so by pool."""

    name = "pooled"
    identity: Mapping[str, object] = {"kind": "pooled"}

    @contextlib.contextmanager
    def search(self, passages: Mapping[str, Sequence[Passage]], folder: Path) -> Iterator["Pooled"]:
        self.pool = list(passages)
        yield self

    def scores(self, queries: Sequence[Query], language: str) -> NDArray[np.float64]:
        rows = [int(query.query_id[-1]) for query in queries]
        return pooled(rows, language, self.pool)


def pooled(rows: Sequence[int], language: str, pool: Sequence[str]) -> NDArray[np.float64]:
    matrix = np.concatenate([VECTORS["passages", b] for b in pool]).astype(np.float64)
    found: NDArray[np.float64] = VECTORS["queries", language][rows] @ matrix.T - 0.125 * np.arange(len(matrix))
    return found


def expected(cell: Cell, collection: Collection, *, by_pool: bool) -> dict[str, list[float]]:
    """EM@1 and HasAnswer@1 by their definition (protocol.md, 4.4)."""
    passages = [p for b in cell.passage_languages for p in collection.passages[b]]
    found: dict[str, list[float]] = {"EM@1": [], "HasAnswer@1": []}
    for i, query in enumerate(collection.queries[cell.query_language]):
        matrix = np.concatenate([VECTORS["passages", b] for b in cell.passage_languages])
        scores = list(matrix @ VECTORS["queries", cell.query_language][i])
        if by_pool:
            scores = list(pooled([i], cell.query_language, cell.passage_languages)[0])
        _, doc_id, text = max((s, *p) for s, p in zip(scores, passages, strict=True))
        answers = [written_out(a, doc_id[:2]) for a in collection.answers[query.query_id]]
        found["EM@1"].append(float(written_out(collection.items[doc_id], doc_id[:2]) in answers))
        found["HasAnswer@1"].append(float(any(a in written_out(text, doc_id[:2]) for a in answers)))
    return found


@pytest.fixture
def quiz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, Plan, list[Collection]]:
    (tmp_path / "quiz.toml").write_text(TOML)
    (tmp_path / "quiz").mkdir()
    (tmp_path / "quiz" / "quiz").write_text("")
    held = [COLLECTION]
    monkeypatch.setitem(readers.READERS, "quiz", lambda task, paths: iter([Part(task.cells(), held[0], COUNTS)]))
    return read_definition(tmp_path / "quiz.toml"), Plan(tmp_path / "cache", tmp_path, offline=True), held


def check(result: Result, collection: Collection, *, by_pool: bool) -> None:
    seen = set()
    for cell in result.cells:
        wanted = expected(cell.cell, collection, by_pool=by_pool)
        assert {name: cell.per_query[name].tolist() for name in wanted} == wanted, cell.cell.name
        assert cell.values["EM@1"] == np.mean(wanted["EM@1"])
        seen |= {tuple(values) for values in wanted.values()}
    assert len(seen) > 5, "too few different values to tell one pool from another"


@pytest.mark.parametrize("model", [Numbers(), Pooled()], ids=["vectors", "retriever"])
def test_by_definition(model: Numbers | Pooled, quiz: tuple[Task, Plan, list[Collection]], tmp_path: Path) -> None:
    task, plan, _ = quiz
    result = evaluate(model, task, plan=plan)  # type: ignore[arg-type]
    check(result, COLLECTION, by_pool=isinstance(model, Pooled))
    again = read_result(write_result(result, tmp_path / "out"))
    assert [c.values for c in again.cells] == [c.values for c in result.cells]
    # What was kept of a pool without first passages does not serve where they are asked for.
    assert "EM@1" not in evaluate(model, task, ["RR"], plan=plan).cells[0].values  # type: ignore[arg-type]
    check(evaluate(model, task, plan=plan), COLLECTION, by_pool=isinstance(model, Pooled))  # type: ignore[arg-type]


def lines(collection: Collection) -> list[str]:
    """A TREC run of the joint pool."""
    found = []
    for a, queries in collection.queries.items():
        for i, query in enumerate(queries):
            for b, passages in collection.passages.items():
                for score, passage in zip(VECTORS["passages", b] @ VECTORS["queries", a][i], passages, strict=True):
                    found.append(f"{query.query_id} Q0 {passage.doc_id} 1 {score} run\n")
    return found


def test_runs(quiz: tuple[Task, Plan, list[Collection]], tmp_path: Path) -> None:
    task, _, _ = quiz
    path = tmp_path / "run.txt"
    path.write_text("".join(lines(COLLECTION)))
    measures = parse_all(task.measures)
    result = score_file(path, task, COLLECTION, task.cells(), measures, ignore_ranks=True)
    check(result, COLLECTION, by_pool=False)
    # A query that the run lacks counts 0, and so does one of which it lacks the passages of a pool.
    without = [line for line in lines(COLLECTION) if "de:q1" not in line and not line.startswith("en:q2 Q0 en")]
    path.write_text("".join(without))
    less = score_file(path, task, COLLECTION, task.cells(), measures, ignore_ranks=True)
    for cell, whole in zip(less.cells, result.cells, strict=True):
        gone = {"de": 1, "en": 2 if cell.cell.passage_languages == ("en",) else -1}[cell.cell.query_language]
        if gone == 2 or cell.cell.query_language == "de":
            assert cell.missing == 1
            for name in ("EM@1", "HasAnswer@1"):
                kept = np.arange(9) != gone
                assert cell.per_query[name][gone] == 0
                assert (cell.per_query[name][kept] == whole.per_query[name][kept]).all()


def test_without_answers(
    quiz: tuple[Task, Plan, list[Collection]], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """One query without an answer string leaves its cells without the measure, and it is said."""
    task, plan, held = quiz
    held[0] = COLLECTION._replace(
        answers={q: a for q, a in COLLECTION.answers.items() if q != "de:q3"},
        items={d: a for d, a in COLLECTION.items.items() if not d.startswith("en:")},
    )
    with caplog.at_level("INFO"):
        result = evaluate(Numbers(), task, plan=plan)  # type: ignore[arg-type]
    having = {c.cell.name for c in result.cells if "HasAnswer@1" in c.values}
    assert having == {"mono/en", "cross/en-de", "multi/en"}
    assert "cross/en-de" in {c.cell.name for c in result.cells if "EM@1" in c.values}
    assert "mono/en" not in {c.cell.name for c in result.cells if "EM@1" in c.values}
    assert re.search(r"no HasAnswer@1 in 3 cells \(mono/de, cross/de-en, multi/de\): undefined", caplog.text)
    assert "RR" in result.summary()["mono"] and "HasAnswer@1" not in result.summary()["mono"]
