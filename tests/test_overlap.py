"""Texts that are the same: what is found is what the definition, written out, finds."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbench.train import overlap
from xbench.train.overlap import Index, TaskText, normal


def letters(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(c)[0] in "LMN")


def least(text: str) -> int:
    names = [unicodedata.name(c).split()[0] for c in text[:8]]
    return 8 if len(names) == 8 and set(names) <= {"CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"} else 20


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
    looked = Index(TaskText("t", str(i), text) for i, text in enumerate(tasks))
    size = data.draw(st.sampled_from([1, 30, overlap.BLOCK]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "BLOCK", size)
        small = Index(TaskText("t", str(i), text) for i, text in enumerate(tasks))
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
        ("か" * 16, "他" + "か" * 16, True),
        ("々" + "か" * 15, "他々" + "か" * 15, True),
        ("𠀀" * 8 + "x", "𠀀" * 8, True),
        ("b" + "a" * 50, "a" * 50 + "b", False),  # each has an end that the other lacks
    ],
)
def test_the_limits(training: str, task: str, is_found: bool) -> None:
    assert (same(training, task) > 0) is is_found
    assert (Index([TaskText("t", "1", task)]).found([training]) != [None]) is is_found


def test_an_equal_text_comes_first_then_one_that_is_held_then_the_tasks_order() -> None:
    head, tail = "a" * 20 + "b" * 5, "c" * 20
    tasks = [TaskText("t", str(i), x) for i, x in enumerate(["x" + head + tail, tail, "b" + tail, head, head + "!"])]
    looked = Index(tasks)
    assert looked.found([head + tail, head, "x" + tail, "..."]) == [tasks[1], tasks[3], tasks[1], None]
    assert looked.found([]) == [] == Index([]).found([])
    assert Index([]).found(["a" * 50]) == [None]
