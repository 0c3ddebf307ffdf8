"""Belebele: files of its exact format with all its counts, made here for want of real ones; MTEB's rules in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xbench import readers
from xbench.errors import DataError
from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.readers.belebele import read_questions
from xbench.task import Task, vary
from xbench.tasks import load_task

# mteb 2.26.24, descriptive_stats/Retrieval/BelebeleRetrieval.json: languages with fewer than 900 different questions.
FEWER = {"ary_Arab": 898, "ibo_Latn": 899, "kac_Latn": 899, "kin_Latn": 899, "lin_Latn": 898, "lug_Latn": 899,
         "mar_Deva": 899, "sna_Latn": 899, "srp_Cyrl": 899}  # fmt: skip
NATIVE = ("arb_Arab", "ben_Beng", "hin_Deva", "npi_Deva", "sin_Sinh", "urd_Arab")
SCRIPTS = [(language, f"{language[:3]}_Latn") for language in NATIVE]
THREE = ("eng_Latn", "ibo_Latn", "tha_Thai")
Row = dict[str, Any]


def rows(language: str) -> list[Row]:
    """900 questions on 488 passages: two on each of the first 412, one on the others. Ibo asks one thing twice."""
    found: list[Row] = []
    for i in range(488):
        for n in range(1, 3 if i < 412 else 2):
            question = f"{language} question {n} on {i}?"
            if language == "ibo_Latn" and (i, n) == (487, 1):
                question = f"{language} question 2 on 3?"
            choices = {f"mc_answer{c}": f"choice {c}" for c in (1, 2, 3, 4)}
            found.append(
                {"link": f"https://en.wikinews.org/wiki/Page:_{i}", "question_number": n,
                 "flores_passage": f"{language} passage {i}\u2028with a line of Unicode's.", "question": question,
                 **choices, "correct_answer_num": "3", "dialect": language, "ds": "2023-05-03"}
            )  # fmt: skip
    return found


def write(folder: Path, language: str, content: list[Row]) -> Path:
    path = folder / "belebele" / f"{language}.jsonl"
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_task_is_mteb_s() -> None:
    task = load_task("belebele")
    cells = task.cells()
    assert len(task.languages) == 122 and [sum(c.setting == s for c in cells) for s in ("mono", "cross")] == [122, 254]
    pairs = {(a, "eng_Latn") for a in task.languages} | {("eng_Latn", a) for a in task.languages}
    pairs |= {pair for a, b in SCRIPTS for pair in ((a, b), (b, a))}
    assert {(c.query_language, *c.passage_languages) for c in cells if c.setting == "cross"} == {
        (a, b) for a, b in pairs if a != b
    }
    for a, counts in task.counts.items():
        assert counts == {"questions": 900, "queries": FEWER.get(a, 900), "passages": 488}
    assert {c.setting for c in vary(task, settings=["multi"]).cells()} == {"multi"}
    assert not any(source.sha256 for source in task.sources.values())


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Path]:
    folder = tmp_path_factory.mktemp("data")
    for language in THREE:
        write(folder, language, rows(language))
    return vary(load_task("belebele"), languages=THREE), folder


def test_all_counts(three: tuple[Task, Path]) -> None:
    task, folder = three
    (part,) = readers.check(task, folder, offline=True)
    assert [cell.name for cell in part.cells if cell.setting == "cross"] == [
        "cross/eng_Latn-ibo_Latn", "cross/eng_Latn-tha_Thai", "cross/ibo_Latn-eng_Latn", "cross/tha_Thai-eng_Latn"
    ]  # fmt: skip
    collection = part.collection
    for cell in part.cells:
        a, (b,) = cell.query_language, cell.passage_languages
        # MTEB: distinct questions of the one file, the first passage of each link of the other.
        corpus = {row["link"]: row["flores_passage"] for row in reversed(rows(b))}
        wanted: dict[str, set[str]] = {}
        for row in rows(a):
            wanted.setdefault(row["question"], set()).add(corpus[row["link"]])
        texts = {p.doc_id: p.text for p in collection.passages[b]}
        found = {
            text: {texts[d] for d in collection.qrels[query_id] if d in texts}
            for query_id, text in collection.queries[a]
        }
        assert found == wanted and len(texts) == 488 and len(found) == FEWER.get(a, 900)
    assert collection.queries["eng_Latn"][1].query_id == "eng_Latn:https://en.wikinews.org/wiki/Page:_0#2"
    # A Thai question is judged in Thai and English alone: no cell searches Ibo passages with it.
    assert {d.partition(":")[0] for d in collection.qrels[collection.queries["tha_Thai"][0].query_id]} == {
        "eng_Latn", "tha_Thai"
    }  # fmt: skip
    # One cluster a passage, but that the question that Ibo asks of two passages joins these.
    assert len(set(collection.clusters.values())) == 487


def test_whole_job(three: tuple[Task, Path], own_cache: Path) -> None:
    task, folder = vary(three[0], languages=THREE[:2]), three[1]
    plan = Plan(own_cache, folder, offline=True)
    result = evaluate(load("hash"), task, ["RR"], plan=plan)
    assert {c.cell.name: len(c.query_ids) for c in result.cells}["cross/ibo_Latn-eng_Latn"] == 899
    assert set(result.task["pinned"]) == set(THREE[:2])
    multi = evaluate(load("hash"), vary(task, settings=["multi"]), ["R@10"], plan=plan)
    assert [(len(c.query_ids), c.passages) for c in multi.cells] == [(900, 976), (899, 976)]


def test_what_differs_is_kept_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = rows("eng_Latn")
    content[1]["flores_passage"] += " "
    with caplog.at_level("INFO"):
        found = read_questions(write(tmp_path, "eng_Latn", content), "eng_Latn")
    assert len(found.passages) == 488 and "1 lines have another text for a passage than its first line" in caplog.text


def change(key: str, value: object) -> Callable[[list[Row]], None]:
    return lambda content: content[7].update({key: value})


FAULTS: list[tuple[Callable[[list[Row]], object], str]] = [
    (change("link", "a b"), "link 'a b' holds white space"),
    (change("link", ""), "link: the text is empty"),
    (change("question", " \u2028"), "question: the text is empty"),
    (change("flores_passage", None), "flores_passage: expected text, found NoneType"),
    (change("mc_answer4", 7), "mc_answer4: expected text, found int"),
    (change("dialect", "fra_Latn"), "dialect 'fra_latn', expected 'eng_Latn'"),
    (change("question_number", 3), "question_number: expected a number from 1 to 2, found 3"),
    (change("question_number", True), "question_number: expected a number from 1 to 2, found True"),
    (change("correct_answer_num", "0"), "correct_answer_num: expected a number from 1 to 4, found '0'"),
    (change("question_number", 1), "Page:_3#1 occurs twice in the file"),
    (lambda content: content[7].pop("link"), "field 'link' is missing"),
]


@pytest.mark.parametrize(("damage", "phrase"), FAULTS)
def test_a_fault_is_named_with_its_row(damage: Callable[[list[Row]], object], phrase: str, tmp_path: Path) -> None:
    content = rows("eng_Latn")[:9]
    damage(content)
    path = write(tmp_path, "eng_Latn", content)
    with pytest.raises(DataError) as caught:
        read_questions(path, "eng_Latn")
    assert str(caught.value).startswith(f"{path}:8: ") and phrase in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "phrase"),
    [(b"", "the line is empty"), (b"{", "not JSON"), (b'{"a": "\xff"}', "not UTF-8"), (b"[]", "expected an object")],
)
def test_lines(line: bytes, phrase: str, tmp_path: Path) -> None:
    path = write(tmp_path, "eng_Latn", rows("eng_Latn")[:3])
    path.write_bytes(path.read_bytes() + line + b"\n" + b"{}\n")
    with pytest.raises(DataError) as caught:
        read_questions(path, "eng_Latn")
    assert f"{path}:4" in str(caught.value) and phrase in str(caught.value)


def test_a_passage_that_another_language_lacks(tmp_path: Path) -> None:
    write(tmp_path, "eng_Latn", rows("eng_Latn")[:-1])
    write(tmp_path, "tha_Thai", rows("tha_Thai"))
    task = vary(load_task("belebele"), languages=["eng_Latn", "tha_Thai"])
    with pytest.raises(
        DataError, match=r"eng_Latn.jsonl: no passage 'https.*_487', which .*tha_Thai.jsonl has a quest"
    ):
        list(readers.parts(task, tmp_path, offline=True))
