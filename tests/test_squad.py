"""The SQuAD reader: what it refuses and where it says the fault is, what it keeps, and the released files."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from xbench.errors import DataError
from xbench.readers.squad import SquadFile, read_squad


def paragraph(context: str, breaks: list[list[int]], *answers: tuple[str, int]) -> dict[str, Any]:
    qas = [{"id": f"q{n}", "question": f"{t}?", "answers": [{"text": t, "answer_start": n}]} for t, n in answers]
    sentences = [context[low:high] for low, high in breaks]
    return {"context": context, "sentences": sentences, "sentence_breaks": breaks, "qas": qas}


GONE = object()
# Two sentences with a gap; three that touch, with characters of 3 and 4 bytes (1 and 2 UTF-16 units) in front.
ENGLISH = paragraph("Tea is hot. Milk is cold.", [[0, 11], [12, 25]], ("Tea", 0))
MIXED = paragraph("ชา𝄞。乙丙。Tea.", [[0, 4], [4, 7], [7, 11]], ("乙", 4), ("Tea", 7))
GOOD: Any = {"version": "1", "data": [{"paragraphs": []}, {"paragraphs": [ENGLISH, MIXED]}]}
P = "data[1].paragraphs[1]"
Q = f"{P}.qas[1]"
A = f"{Q}.answers"
START = f"{A}[0].answer_start"


def read(folder: Path, *changes: tuple[str, object]) -> SquadFile:
    """Read GOOD with the values at some places replaced, or taken out."""
    root: Any = {"": copy.deepcopy(GOOD)}
    for where, value in changes:
        *above, last = ["", *(int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", where))]
        node = root
        for step in above:
            node = node[step]
        if value is GONE:
            del node[last]
        else:
            node[last] = value
    (folder / "xx.json").write_text(json.dumps(root[""], ensure_ascii=False), encoding="utf-8")
    return read_squad(folder / "xx.json", "xx")


def test_a_good_file(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert [tuple(q) for q in found.queries] == [("xx:q0", "Tea?"), ("xx:q4", "乙?"), ("xx:q7", "Tea?")]
    texts = ["Tea is hot.", "Milk is cold.", "ชา𝄞。", "乙丙。", "Tea."]
    ids = ["xx:1.0.0", "xx:1.0.1", "xx:1.1.0", "xx:1.1.1", "xx:1.1.2"]
    assert [tuple(p) for p in found.passages] == list(zip(ids, texts, strict=True))
    # The right edge is outside: an answer where two sentences touch belongs to the second.
    assert found.answers == {"q0": "xx:1.0.0", "q4": "xx:1.1.1", "q7": "xx:1.1.2"}
    assert found.counts == {"paragraphs": 2, "crossing": 0, "differing": 0}


FIELDS = [*(f"{P}.{key}" for key in MIXED), *(f"{Q}.{key}" for key in MIXED["qas"][1]), f"{A}[0].text", START]
MISSING = [
    (where, GONE, where.rpartition(".")[0], f"field {where.rpartition('.')[2]!r} is missing")
    for where in ["data", "data[0].paragraphs", *FIELDS]
]
WRONG_TYPES = [
    (where, value, where, f"found {type(value).__name__}")
    for places, values in (
        (["data", "data[1].paragraphs", f"{P}.sentences", f"{P}.sentence_breaks", f"{P}.qas", A], ["a", {}, None, 1]),
        ([f"{P}.context", f"{P}.sentences[1]", f"{Q}.id", f"{Q}.question", f"{A}[0].text"], [7, None, ["a"], True]),
        (["", "data[0]", P, Q, f"{A}[0]"], ["a", None, [1], 1]),
    )
    for where in places
    for value in values
]
EMPTY = [
    (where, text, where, "empty")
    for where in (f"{P}.context", f"{P}.sentences[2]", f"{Q}.id", f"{Q}.question", f"{A}[0].text")
    for text in ("", " \t\u2028\u00a0")
]
# `Tea` is at 7; off by one, before the start, beyond the end, in bytes, in UTF-16 units.
SPANS = [(START, n, START, f"at {n}, the answer is 'Tea'") for n in (6, 8, -1, -4, 11, 10**30, 22)]
FIRST = "data[1].paragraphs[0].qas[0].answers[0].answer_start"
SPANS += [(FIRST, -1, FIRST, "at -1, the answer is 'Tea'")]
SPANS += [(START, value, START, f"found {value!r}") for value in (True, None, 7.0, "7", [7])]
BREAKS = [
    (f"{P}.sentence_breaks[1]", pair, f"{P}.sentence_breaks[1]", f"expected [start, end], found {pair!r}")
    for pair in ([4], [4, 7, 9], [4.0, 7], [4, 7.5], [True, 7], "47", None, {"0": 4}, [4, None], [])
] + [
    (f"{P}.sentence_breaks[{i}]", pair, f"{P}.sentence_breaks[{at}]", f"{found} is out of order, overlaps or leaves")
    for i, pair, at, found in (
        *((1, [3, 7], 1, [3, 7]), (1, [5, 8], 2, [7, 11]), (1, [7, 4], 1, [7, 4]), (1, [5, 5], 1, [5, 5])),
        *((0, [-1, 4], 0, [-1, 4]), (0, [7, 11], 1, [4, 7]), (2, [7, 12], 2, [7, 12]), (2, [11, 11], 2, [11, 11])),
    )
]
ROWS = [
    (A, [], Q, "no answer"),
    (f"{P}.sentence_breaks[2]", [8, 11], Q, "answer_start 7 lies in no sentence; sentence_breaks: [(0, 4), (4, 7), (8"),
    (f"{P}.sentences", ["one", "two"], P, "2 sentences but 3 sentence_breaks"),
    (f"{P}.sentence_breaks", [[0, 11]], P, "3 sentences but 1 sentence_breaks"),
    (f"{Q}.id", "q4", Q, "id 'q4' occurs twice"),
    (f"{Q}.id", "q0", Q, "id 'q0' occurs twice"),
    ("", {"a\nxbench: all is well": 1}, "", "field 'data' is missing"),
    *((f"{Q}.id", f"q{c}", Q, f"id {f'q{c}'!r} holds white space") for c in " \t\n\r\f\x1c\x85\xa0\u2028\u2029\u3000"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "value", "where", "phrase"), MISSING + WRONG_TYPES + EMPTY + SPANS + BREAKS + ROWS)
def test_a_fault_is_named_with_its_row(change: str, value: object, where: str, phrase: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, (change.lstrip("."), value))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'xx.json'}: {f'{where}: ' if where else ''}") and phrase in message, message
    assert "expected" in message or "found " not in phrase
    assert caught.value.exit_code == 3 and "\n" not in message


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x1b[31m", "\x0b", "\ufeff", "e\u0301", "\u202e", "\r\n"])
def test_texts_and_ids_come_through_unchanged(odd: str, tmp_path: Path) -> None:
    sentence, question, id_ = f"Tea{odd}. ", f" Tea{odd}? ", "../007,1e5,NA"
    new = paragraph(f"{sentence}Tea", [[0, len(sentence)], [len(sentence), len(sentence) + 3]], (f"a{odd}.", 2))
    found = read(tmp_path, (P, new), (f"{P}.qas[0].question", question), (f"{P}.qas[0].id", id_))
    assert found.queries[-1] == (f"xx:{id_}", question) and found.answers[id_] == "xx:1.1.0"
    assert found.passages[2].text == sentence and found.counts["differing"] == 0


def test_what_is_kept_is_counted(tmp_path: Path) -> None:
    crossing = {"text": "丙。T", "answer_start": 5}
    found = read(tmp_path, (f"{A}[0]", crossing))
    assert found.answers["q7"] == "xx:1.1.1" and found.counts["crossing"] == 1
    # Up to the end of its sentence is not across it, and only the first answer counts.
    assert read(tmp_path, (f"{A}[0]", {"text": "丙。", "answer_start": 5})).counts["crossing"] == 0
    assert read(tmp_path, (A, [*MIXED["qas"][1]["answers"], crossing])) == read(tmp_path)
    # A sentence is what `sentences` says, not its slice; equal ones stay separate.
    found = read(tmp_path, (f"{P}.sentences", ["Tea is hot.", "乙丙。", "Tea is hot."]))
    assert [p.text for p in found.passages] == ["Tea is hot.", "Milk is cold.", "Tea is hot.", "乙丙。", "Tea is hot."]
    assert found.counts["differing"] == 2 and len({p.doc_id for p in found.passages}) == 5


# protocol.md, 2.3 and 2.4: questions, paragraphs, candidates.
ELEVEN = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
SEVEN = ("ar", "de", "en", "es", "hi", "vi", "zh")
CANDIDATES = (1222, 1276, 1234, 1180, 1215, 1244, 1219, 852, 1167, 1209, 1196)
MLQA = ((517, 512, 1148, 500, 507, 511, 504), (439, 456, 978, 454, 425, 451, 443))
RELEASED = {
    "xquad-r": {a: (1190, 240, n) for a, n in zip(ELEVEN, CANDIDATES, strict=True)},
    "mlqa-r": dict(zip(SEVEN, zip(*MLQA, (2545, 2362, 6264, 1787, 2426, 2828, 2322), strict=True), strict=True)),
}
# Questions that `start <= a <= end` would move to the sentence before; protocol.md, 2.2.
MOVED = {"xquad-r": {"zh": 29, "hi": 1}, "mlqa-r": {"zh": 29, "hi": 3, "vi": 1}}


def with_closed_edge(path: Path) -> dict[str, str]:
    """Question id -> answer sentence, were the right edge inside, as LIR and LSAR have it."""
    found = {}
    for a, article in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
        for p, para in enumerate(article["paragraphs"]):
            for question in para["qas"]:
                start = question["answers"][0]["answer_start"]
                s = [low <= start <= high for low, high in para["sentence_breaks"]].index(True)
                found[question["id"]] = f"{path.stem}:{a}.{p}.{s}"
    return found


@pytest.mark.parametrize(("task", "crossing"), [("xquad-r", (2, 20)), ("mlqa-r", (1, 8))])
def test_the_released_files(task: str, crossing: tuple[int, int], data: Path) -> None:
    files = {language: read_squad(data / task / f"{language}.json", language) for language in RELEASED[task]}
    counts = {a: (len(f.queries), f.counts["paragraphs"], len(f.passages)) for a, f in files.items()}
    assert counts == RELEASED[task]
    crossings = [file.counts["crossing"] for file in files.values()]
    assert (min(crossings), max(crossings)) == crossing
    for language, file in files.items():
        closed = with_closed_edge(data / task / f"{language}.json")
        moved = sum(closed[id_] != doc_id for id_, doc_id in file.answers.items())
        assert moved == MOVED[task].get(language, 0), language
