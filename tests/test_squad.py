"""The SQuAD reader: what it refuses and where it says the fault is, what it keeps, and the released files."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from xbench.errors import DataError, StorageError
from xbench.readers.squad import SquadFile, read_squad
from xbench.records import Passage, Query

GONE = object()
# Two sentences with a gap, then three that touch, after characters of 3 and 4 bytes (1 and 2 UTF-16 units).
THAI = "ชา𝄞。乙丙。Tea."
GOOD: dict[str, Any] = {
    "version": "1",
    "data": [
        {"title": "no paragraphs is fine", "paragraphs": []},
        {
            "paragraphs": [
                {
                    "context": "Tea is hot. Milk is cold.",
                    "sentences": ["Tea is hot.", "Milk is cold."],
                    "sentence_breaks": [[0, 11], [12, 25]],
                    "qas": [{"id": "q0", "question": "Which is hot?", "answers": [{"text": "Tea", "answer_start": 0}]}],
                },
                {
                    "context": THAI,
                    "sentences": ["ชา𝄞。", "乙丙。", "Tea."],
                    "sentence_breaks": [[0, 4], [4, 7], [7, 11]],
                    "qas": [
                        {"id": "q1", "question": "乙?", "answers": [{"text": "乙", "answer_start": 4}]},
                        {"id": "q2", "question": "Tea?", "answers": [{"text": "Tea", "answer_start": 7}]},
                    ],
                },
            ]
        },
    ],
}
P = "data[1].paragraphs[1]"
Q = f"{P}.qas[1]"
A = f"{Q}.answers"


def steps(where: str) -> list[str | int]:
    return [int(word) if word.isdigit() else word for word in re.findall(r"[^.\[\]]+", where)]


def changed(*changes: tuple[str, object]) -> Any:
    """GOOD with the values at some places replaced, or taken out."""
    content: Any = copy.deepcopy(GOOD)
    for where, value in changes:
        *above, last = steps(where)
        node = content
        for step in above:
            node = node[step]
        if value is GONE:
            del node[last]
        else:
            node[last] = value
    return content


def read(folder: Path, content: object) -> SquadFile:
    path = folder / "xx.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return read_squad(path, "xx")


def test_a_good_file(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    assert found.queries == [Query("xx:q0", "Which is hot?"), Query("xx:q1", "乙?"), Query("xx:q2", "Tea?")]
    assert found.passages == [
        Passage("xx:1.0.0", "Tea is hot."),
        Passage("xx:1.0.1", "Milk is cold."),
        Passage("xx:1.1.0", "ชา𝄞。"),
        Passage("xx:1.1.1", "乙丙。"),
        Passage("xx:1.1.2", "Tea."),
    ]
    # The right edge is outside: an answer at the boundary of two touching sentences belongs to the next.
    assert found.answers == {"q0": "xx:1.0.0", "q1": "xx:1.1.1", "q2": "xx:1.1.2"}
    assert found.counts == {"paragraphs": 2, "crossing": 0, "differing": 0}
    assert all(type(n) is int for n in found.counts.values())


MISSING = [
    (f"{parent}.{field}".lstrip("."), GONE, parent, [f"field {field!r} is missing"])
    for parent, fields in {
        "": ["data"],
        "data[0]": ["paragraphs"],
        P: ["context", "sentences", "sentence_breaks", "qas"],
        Q: ["id", "question", "answers"],
        f"{A}[0]": ["text", "answer_start"],
    }.items()
    for field in fields
]
WRONG_TYPES = [
    (where, value, where, ["expected", f"found {type(value).__name__}"])
    for wheres, values in (
        (["data", "data[1].paragraphs", f"{P}.sentences", f"{P}.sentence_breaks", f"{P}.qas", A], ["a", {}, None, 1]),
        ([f"{P}.context", f"{P}.sentences[1]", f"{Q}.id", f"{Q}.question", f"{A}[0].text"], [7, None, ["a"], True]),
        (["data[0]", P, Q, f"{A}[0]"], ["a", None, [1]]),
    )
    for where in wheres
    for value in values
]
EMPTY = [
    (where, text, where, ["empty"])
    for where in (f"{P}.context", f"{P}.sentences[2]", f"{Q}.id", f"{Q}.question", f"{A}[0].text")
    for text in ("", " \t\u2028\u00a0")
]
START = f"{A}[0].answer_start"
# 6 is one before; 14 and 8 are where `Tea` starts in bytes and in UTF-16 units.
SPANS = [(START, start, START, [f"at {start}", "the answer is 'Tea'"]) for start in (6, 8, -1, -4, 11, 10**30, 14)] + [
    (START, start, START, ["expected", f"found {start!r}"]) for start in (True, None, 7.0, "7", [7])
]
BREAKS = [
    (f"{P}.sentence_breaks[1]", pair, f"{P}.sentence_breaks[1]", ["expected [start, end]", f"found {pair!r}"])
    for pair in ([4], [4, 7, 9], [4.0, 7], [4, 7.5], [True, 7], "47", None, {"0": 4}, [4, None], [])
] + [
    (f"{P}.sentence_breaks[{i}]", pair, f"{P}.sentence_breaks[{at}]", [text])
    for i, pair, at, text in (
        (1, [3, 7], 1, "[3, 7] is out of order, overlaps"),
        (1, [5, 8], 2, "[7, 11] is out of order, overlaps"),
        (1, [7, 4], 1, "[7, 4] is out of order"),
        (1, [5, 5], 1, "[5, 5] is out of order"),
        (0, [-1, 4], 0, "[-1, 4] is out of order"),
        (0, [7, 11], 1, "[4, 7] is out of order"),
        (2, [7, 12], 2, "[7, 12] is out of order, overlaps or leaves the context of 11 characters"),
        (2, [11, 11], 2, "[11, 11]"),
    )
]
ROWS = [
    (A, [], Q, ["no answer"]),
    (f"{P}.sentence_breaks[2]", [8, 11], Q, ["answer_start 7 lies in no sentence", "[(0, 4), (4, 7), (8, 11)]"]),
    (f"{P}.sentences", ["one", "two"], P, ["2 sentences but 3 sentence_breaks"]),
    (f"{P}.sentence_breaks", [[0, 11]], P, ["3 sentences but 1 sentence_breaks"]),
    (f"{Q}.id", "q1", Q, ["id 'q1' occurs twice"]),
    (f"{Q}.id", "q0", Q, ["id 'q0' occurs twice"]),
    *((f"{Q}.id", f"q{c}2", Q, [repr(f"q{c}2"), "white space"]) for c in " \t\n\r\v\f\x1c\x1f\x85\xa0\u2028\u2029\u3000"),
]


@pytest.mark.parametrize(
    ("change", "value", "where", "phrases"), [*MISSING, *WRONG_TYPES, *EMPTY, *SPANS, *BREAKS, *ROWS], ids=repr
)
def test_a_fault_is_named_with_its_row(
    change: str, value: object, where: str, phrases: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, changed((change, value)))
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert message.startswith(f"{tmp_path / 'xx.json'}: {f'{where}: ' if where else ''}")
    assert all(phrase in message for phrase in phrases), message
    assert "\n" not in message


@pytest.mark.parametrize("content", [[], "data", None, 1])
def test_the_root_must_be_an_object(content: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"xx\.json: expected an object with 'data', found"):
        read(tmp_path, content)


def test_a_name_with_a_line_end_stays_on_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, {"a\nxbench: all is well": 1})
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_json_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "xx.json").write_bytes(b'{"data":\n [')
    with pytest.raises(DataError, match=r"xx\.json:2: not JSON"):
        read_squad(tmp_path / "xx.json", "xx")
    with pytest.raises(StorageError, match=r"cannot read .*none\.json"):
        read_squad(tmp_path / "none.json", "xx")


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x1b[31m", "\x0b", "\ufeff", "e\u0301", "\u202e", "\r\n"])
def test_texts_come_through_unchanged(odd: str, tmp_path: Path) -> None:
    question, sentence = f" Tea{odd}? ", f"Tea{odd}. "
    context = f"{sentence}Tea"
    found = read(
        tmp_path,
        changed(
            (f"{P}.context", context),
            (f"{P}.sentences", [sentence, "Tea"]),
            (f"{P}.sentence_breaks", [[0, len(sentence)], [len(sentence), len(context)]]),
            (f"{P}.qas", [{"id": "q", "question": question, "answers": [{"text": odd, "answer_start": 3}]}]),
        )
        if odd.strip()
        else changed((f"{P}.sentences[2]", sentence), (f"{Q}.question", question)),
    )
    assert found.queries[-1].text == question
    assert sentence in [passage.text for passage in found.passages]


@pytest.mark.parametrize("id_", ["007", "1e5", "NA", "null", "-1", "../x", "a/b", "é", "e\u0301", "Q" * 2000])
def test_ids_stay_strings(id_: str, tmp_path: Path) -> None:
    found = read(tmp_path, changed((f"{Q}.id", id_)))
    assert found.queries[-1].query_id == f"xx:{id_}"
    assert list(found.answers) == ["q0", "q1", id_]


def test_an_answer_across_the_end_of_its_sentence_is_kept_and_counted(tmp_path: Path) -> None:
    crossing = {"text": "丙。T", "answer_start": 5}
    found = read(tmp_path, changed((f"{A}[0]", crossing)))
    assert found.answers["q2"] == "xx:1.1.1"
    assert found.counts["crossing"] == 1
    # Up to the end is not across it.
    assert read(tmp_path, changed((f"{A}[0]", {"text": "丙。", "answer_start": 5}))).counts["crossing"] == 0
    # Nor is across the end of another sentence; and only the first answer counts.
    assert read(tmp_path, changed((A, [*GOOD["data"][1]["paragraphs"][1]["qas"][1]["answers"], crossing]))) == read(
        tmp_path, GOOD
    )


def test_a_sentence_that_is_not_its_slice_is_kept_and_counted(tmp_path: Path) -> None:
    found = read(tmp_path, changed((f"{P}.sentences[0]", "Thé."), (f"{P}.sentences[2]", "Tee.")))
    assert [passage.text for passage in found.passages[2:]] == ["Thé.", "乙丙。", "Tee."]
    assert found.counts["differing"] == 2


def test_equal_sentences_stay_separate(tmp_path: Path) -> None:
    found = read(tmp_path, changed((f"{P}.sentences", ["Tea is hot."] * 3)))
    assert [passage.text for passage in found.passages].count("Tea is hot.") == 4
    assert len({passage.doc_id for passage in found.passages}) == 5


# /work/shared/protocol.md, 2.3 and 2.4: questions, paragraphs, candidates.
RELEASED = {
    "xquad-r": {
        language: (1190, 240, passages)
        for language, passages in zip(
            "ar de el en es hi ru th tr vi zh".split(),
            (1222, 1276, 1234, 1180, 1215, 1244, 1219, 852, 1167, 1209, 1196),
            strict=True,
        )
    },
    "mlqa-r": {
        "ar": (517, 439, 2545),
        "de": (512, 456, 2362),
        "en": (1148, 978, 6264),
        "es": (500, 454, 1787),
        "hi": (507, 425, 2426),
        "vi": (511, 451, 2828),
        "zh": (504, 443, 2322),
    },
}
# Questions that `start <= a <= end` would move to the sentence before; protocol.md, 2.2.
MOVED = {"xquad-r": {"zh": 29, "hi": 1}, "mlqa-r": {"zh": 29, "hi": 3, "vi": 1}}


def with_closed_edge(path: Path) -> dict[str, str]:
    """Question id -> answer sentence, were the right edge inside, as LIR and LSAR have it."""
    found = {}
    for a, article in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
        for p, paragraph in enumerate(article["paragraphs"]):
            for question in paragraph["qas"]:
                start = question["answers"][0]["answer_start"]
                s = [low <= start <= high for low, high in paragraph["sentence_breaks"]].index(True)
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
        assert len({passage.doc_id for passage in file.passages}) == len(file.passages)
    # Two ways to say it in protocol.md: sentences that answer, and languages that agree on the sentence's index.
    if task == "xquad-r":
        assert len(set(files["en"].answers.values())) == 787
        rows = [{f.answers[id_].split(":")[1] for f in files.values()} for id_ in files["en"].answers]
        assert sum(len(row) > 1 for row in rows) == 802
