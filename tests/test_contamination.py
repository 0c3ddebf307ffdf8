"""Contamination: what is found is what the definition, written out, finds; real texts, planted, are found."""

import gzip
import itertools
import json
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbench.errors import DataError
from xbench.tasks import load_task
from xbench.train import contamination
from xbench.train.contamination import Contamination, TaskText, normal, task_texts
from xbench.train.pairs import Pair


def pair(question: str, passage: str = "nothing", group: str = "g", source: str = "s", **more: object) -> Pair:
    return Pair(group, "en", question, passage, "en", "qa", source, ())._replace(**more)


def letters(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(c)[0] in "LMN")


def least(text: str) -> int:
    names = [unicodedata.name(c).split()[0] for c in text[:8]]
    return 8 if len(names) == 8 and set(names) <= {"CJK", "HIRAGANA", "KATAKANA"} else 20


def same(training: str, task: str) -> int:
    """3: equal; 2: the training text holds the other; 1: it is inside; 0: not the same."""
    a, b = letters(training), letters(task)
    if a and a == b:
        return 3
    if b in a and len(b) >= least(b):
        return 2
    return int(a in b and len(a) >= 2 * least(a))


def expected(training: str, tasks: list[str]) -> str | None:
    """The first of those with the highest grade."""
    grades = [same(training, task) for task in tasks]
    return tasks[grades.index(max(grades))] if any(grades) else None


# Pieces that make texts which often hold one another, around both lengths.
PIECE = st.sampled_from(
    [
        "a",
        "B. ",
        "ab",
        "1",
        "Ä",
        "ß",
        "漢",
        "かな",
        "。",
        "ि",
        "abababab" * 2,
        "漢字漢字漢字漢",
        "x" * 19,
        "y" * 20,
        "字" * 8,
    ]
)
TEXT = st.lists(PIECE, max_size=7).map("".join)


@given(st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=6), st.data())
@settings(max_examples=400, deadline=None)
def test_what_the_definition_finds_is_found(tasks: list[str], training: list[str], data: st.DataObject) -> None:
    for text in [t for t in tasks if t]:  # texts in texts and parts of texts, which chance alone makes too few of
        training.append(data.draw(TEXT) + text.upper() + data.draw(TEXT))
        start = data.draw(st.integers(0, len(text)))
        training.append(text[start : data.draw(st.integers(start, len(text)))])
    looked = Contamination(TaskText("t", str(i), text) for i, text in enumerate(tasks))
    size = data.draw(st.sampled_from([1, 30, contamination.BLOCK]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contamination, "BLOCK", size)
        small = Contamination(TaskText("t", str(i), text) for i, text in enumerate(tasks))
        found = small.found(training)
    assert found == looked.found(training)
    assert [f and letters(f.text) for f in found] == [(e := expected(text, tasks)) and letters(e) for text in training]
    assert all(f is None or tasks[int(f.id)] == f.text for f in found)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Straße, nº 5!", "strasseno5"),
        ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
        ("Ｆｕｌｌ　ｗｉｄｔｈ", "fullwidth"),
        ("ﬁ ½ ²", "fi122"),
        ("पू. - ई.", "पूई"),
        ("पाई", "पाई"),
        ("e\u0301t\u00e9_-\u2028", "\u00e9t\u00e9"),
        ("İstanbul", "i\u0307stanbul"),
        ("《漢字》。", "漢字"),
        ("—?!", ""),
    ],
)
def test_what_is_compared(text: str, kept: str) -> None:
    assert normal(text) == kept == letters(text)


@pytest.mark.parametrize(
    ("training", "task", "is_found"),
    [
        ("", "?", False),  # nothing is no text
        ("Ja.", "ja", True),  # equal, however short
        ("Ja, ja.", "ja", False),
        ("x" * 5 + "a" * 20 + "y", "A" * 20, True),
        ("x" * 5 + "a" * 19 + "y", "A" * 19, False),
        ("他是" + "漢" * 8 + "的", "漢" * 8, True),
        ("他是" + "漢" * 7 + "的", "漢" * 7, False),
        ("か" * 9, "か" * 8, True),
        ("한" * 19 + "국", "한" * 19, False),  # Hangul is no Han
        ("a" * 40, "x" + "a" * 40, True),
        ("a" * 39, "x" + "a" * 39, False),
        ("漢" * 16, "他" + "漢" * 16, True),
        ("漢" * 15, "他" + "漢" * 15, False),
        ("𠀀" * 8 + "x", "𠀀" * 8, True),
        ("b" + "a" * 50, "a" * 50 + "b", False),  # each has an end that the other lacks
    ],
)
def test_the_limits(training: str, task: str, is_found: bool) -> None:
    assert (same(training, task) > 0) is is_found
    assert (Contamination([TaskText("t", "1", task)]).found([training]) != [None]) is is_found


def test_an_equal_text_comes_first_then_one_that_is_held_then_the_tasks_order() -> None:
    head, tail = "a" * 20 + "b" * 5, "c" * 20
    tasks = [TaskText("t", str(i), x) for i, x in enumerate(["x" + head + tail, tail, "b" + tail, head, head + "!"])]
    looked = Contamination(tasks)
    assert looked.found([head + tail, head, "x" + tail, "..."]) == [tasks[1], tasks[3], tasks[1], None]
    assert looked.found([]) == [] == Contamination([]).found([])
    assert Contamination([]).found(["a" * 50]) == [None]


def test_a_report_counts_pairs_by_source_and_task() -> None:
    looked = Contamination([TaskText("one", "en:1", "Who was it?"), TaskText("two", "en:2", "It was me.")])
    many = Contamination(TaskText("t", str(i), str(i)) for i in range(9)).search(
        [pair("1", "2"), pair("2"), pair("3"), pair("4")]
    )
    assert [(e.text, e.found.id) for e in many.examples] == [("1", "1"), ("2", "2"), ("3", "3")]
    pairs = [
        pair("who was it", "it was me", "a", "left"),  # in both tasks, and one pair
        pair("who was it", "who was it", "b", "left"),
        pair("who is it", "it is me", "c", "left"),
        pair("who", "you", "d", "right", negatives=("no", "It was me!")),
        pair("wer war es", "ich", "b", "left"),
        pair("who", "you", "e", "right", passage_language="de"),
    ]
    report = looked.search(iter(pairs))
    assert (report.pairs, report.contaminated) == (6, 3)
    assert report.counts == {("left", "one"): 2, ("left", "two"): 1, ("right", "two"): 1}
    assert report.groups == {"a", "b", "d"}
    assert [pair.group for pair in pairs if report.keeps(pair)] == ["c", "e"]  # a translation goes too
    assert [(e.source, e.text, e.found.id) for e in report.examples] == [
        ("left", "who was it", "en:1"),
        ("left", "it was me", "en:2"),
    ]
    with pytest.raises(DataError) as caught:
        report.refuse()
    said = str(caught.value)
    assert said.startswith(
        "3 of 6 training pairs hold texts of evaluation tasks (left in one: 2, left in two: 1, right in two: 1), "
        "such as 'who was it' is in one en:1; 'it was me' is in two en:2; "
    )
    assert "data.without" in said and 'data.contaminated = "drop"' in said and "\n" not in said
    assert json.loads(json.dumps(report.to_json())) == {
        "pairs": 6,
        "contaminated": 3,
        "groups": 3,
        "by": [
            {"source": "left", "task": "one", "pairs": 2},
            {"source": "left", "task": "two", "pairs": 1},
            {"source": "right", "task": "two", "pairs": 1},
        ],
        "examples": [
            {"source": "left", "text": "who was it", "task": "one", "id": "en:1"},
            {"source": "left", "text": "it was me", "task": "two", "id": "en:2"},
        ],
    }
    clean = looked.search([pairs[2]])
    clean.refuse()
    assert clean.keeps(pairs[0]) and clean.to_json()["examples"] == []


def test_a_long_example_is_cut_and_stays_on_one_line() -> None:
    text = "line\nfeed " * 20
    report = Contamination([TaskText("t", "1", text)]).search([pair(text)])
    with pytest.raises(DataError) as caught:
        report.refuse()
    assert "\n" not in str(caught.value) and "…" in str(caught.value) and len(str(caught.value)) < 500
    assert len(report.to_json()["examples"][0]["text"]) == 60


def test_pairs_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is looked up before more pairs are read than it holds."""
    monkeypatch.setattr(contamination, "BLOCK", 100)
    read: list[int] = []

    def pairs() -> Iterator[Pair]:
        for i in range(50):
            read.append(i)
            yield pair(f"{i:010d}", f"{i:020d}")

    looked = Contamination([TaskText("t", "1", "x" * 30)])
    found, seen = looked.found, []
    monkeypatch.setattr(looked, "found", lambda texts: (seen.append((len(texts), len(read))), found(texts))[1])
    assert looked.search(pairs()).pairs == 50
    assert seen[:2] == [(6, 4), (6, 7)] and len(seen) == 17  # three pairs of 30 characters


def test_texts_of_tasks() -> None:
    """Questions and passages of every language; of a task whose corpora are not held, the questions."""
    texts = list(task_texts([load_task("mini")]))
    queries, passages = load_task("mini").totals()
    assert len(texts) == queries + passages and {text.task for text in texts} == {"mini"}
    looked = Contamination(texts)
    pairs = [pair(text.text.upper(), f"This is what {text.text} says", text.id) for text in texts]
    report = looked.search(pairs)
    assert report.contaminated == len(pairs) and report.counts == {("s", "mini"): len(pairs)}


def test_questions_of_a_task_with_corpora_that_are_not_there(data: Path) -> None:
    texts = list(task_texts([load_task("mrtydi")], data, offline=True))
    assert len(texts) == load_task("mrtydi").totals()[0]
    assert Contamination(texts).found([texts[7].text]) == [texts[7]]


@pytest.fixture(scope="module")
def real(data: Path) -> list[TaskText]:
    return list(task_texts([load_task("xquad-r"), load_task("mlqa-r")], data))


def training(data: Path, step: int) -> Iterator[Pair]:
    with gzip.open(data / "train" / "pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in itertools.islice(lines, 0, None, step):
            row = json.loads(line)
            yield pair(row["question"], row["passage"], row["group"], row["source"])


def test_real_texts_that_are_planted_are_found(data: Path, real: list[TaskText]) -> None:
    """Among real pairs, which are clean: whole, in other letters, within another text and, long enough, cut."""
    if not (data / "train" / "pairs.jsonl.gz").is_file():
        pytest.skip("NO REAL DATA: no train/pairs.jsonl.gz")
    looked = Contamination(real)
    pairs = list(training(data, 60))
    assert looked.search(pairs).to_json() == {"pairs": 10_220, "contaminated": 0, "groups": 0, "by": [], "examples": []}
    draw = random.Random(1)
    planted: dict[str, bool] = {}
    for text in draw.sample(real, 300):
        whole = text.text
        cut = whole[1:] if draw.random() < 0.5 else whole[:-2]
        planted |= {whole: True, f"«{whole.upper()}»": same(whole.upper(), whole) > 0}
        planted |= {f"So: {whole} - so.": len(letters(whole)) >= least(letters(whole))}
        planted |= {cut: len(letters(cut)) >= 2 * least(letters(cut)) or letters(cut) == letters(whole)}
    mixed = [*pairs, *(pair("?", text, f"planted {i}") for i, text in enumerate(planted))]
    draw.shuffle(mixed)
    report = looked.search(mixed)
    found = {text: f"planted {i}" in report.groups for i, text in enumerate(planted)}
    assert not [text for text, bad in planted.items() if bad and not found[text]]
    more = [text for text, bad in planted.items() if found[text] and not bad]  # by another text of the tasks
    assert all(any(same(text, other.text) for other in real) for text in more) and len(more) < 5
    assert report.contaminated == sum(found.values()) > 1_000


@pytest.mark.slow
def test_the_training_data_are_clean(data: Path, real: list[TaskText]) -> None:
    report = Contamination(real).search(training(data, 1))
    assert (report.pairs, report.contaminated) == (613_176, 0)
