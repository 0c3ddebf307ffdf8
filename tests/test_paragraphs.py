"""Paragraphs and sentences of SQuAD files: MTEB's rules written out, its published counts, and damaged files."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from xbench import readers
from xbench.errors import DataError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.readers.paragraphs import read_rows
from xbench.readers.part import Part
from xbench.readers.splitting import sentences
from xbench.task import Task, vary
from xbench.tasks import load_task

SEVEN = ("ar", "de", "en", "es", "hi", "vi", "zh")
# mteb 2.26.24, descriptive_stats/Retrieval/XQuADRetrieval.json: queries, and characters of queries and passages.
XQUAD = {
    "ar": (1186, 63247, 164032), "de": (1181, 81540, 214576), "el": (1184, 81238, 214651), "en": (1185, 72582, 188360),
    "es": (1184, 80794, 212113), "hi": (1183, 70607, 183586), "ru": (1185, 76957, 204045), "th": (1180, 65022, 176822),
    "tr": (1184, 72078, 189192), "vi": (1182, 72845, 192938), "zh": (1181, 21802, 60576),
}  # fmt: skip
# Likewise MLQARetrieval.json, validation, by the language of the questions; the paragraphs are Chinese.
MLQA_ZH = {
    "ar": (188, 161, 8337, 38439), "de": (190, 164, 10231, 42166), "en": (504, 443, 25276, 109267),
    "es": (161, 148, 8510, 36942), "hi": (189, 163, 9838, 38884), "vi": (184, 168, 9078, 45078),
    "zh": (504, 443, 7759, 109267),
}  # fmt: skip
# Dataset card of google/xtreme: rows of MLQA.<context>.<question>, test; and MTEB's zho-*, test: queries, passages.
MLQA_TEST = {"ar": (1912, 1911, 1718), "en": (5137, 5135, 4546), "hi": (1767, 1766, 1525), "zh": (5137, 5136, 4546)}
# protocol.md, 4.3: questions of TyDiQA-GoldP dev; `train` of the released files.
TYDI = {"ar": 921, "bn": 113, "en": 440, "fi": 782, "id": 565, "ko": 276, "ru": 812, "sw": 499, "te": 669}
TRAIN = {"en": 3696, "ko": 1625, "sw": 2755}


def articles(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The paragraphs of a file, each with its place."""
    for a, article in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
        for p, paragraph in enumerate(article["paragraphs"]):
            yield f"{a}.{p}", paragraph


def as_mteb(rows: list[tuple[str, str, str]]) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """Queries, corpus and qrels of (id, question, context), by MTEB's rules: texts are keys, the last id stays."""
    last = {}
    for id_, question, _ in rows:
        last[question] = id_
    queries, corpus, qrels = {}, {}, {}
    for _, question, context in rows:
        queries[last[question]] = question
        corpus[sha256(context.encode()).hexdigest()] = context
        qrels.setdefault(last[question], {})[sha256(context.encode()).hexdigest()] = 1
    return queries, corpus, qrels


def bare(part: Part, a: str, b: str) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """The same of a part, without languages."""
    queries, passages = part.collection.queries[a], part.collection.passages[b]
    qrels = {q.query_id: part.collection.qrels[q.query_id] for q in queries}
    return (
        {query_id.removeprefix(f"{a}:"): text for query_id, text in queries},
        {doc_id.removeprefix(f"{b}:"): text for doc_id, text in passages},
        {q.removeprefix(f"{a}:"): {d.removeprefix(f"{b}:"): g for d, g in some.items()} for q, some in qrels.items()},
    )


def length(texts: dict[str, str]) -> int:
    return sum(map(len, texts.values()))


def test_xquad_is_mteb_s(data: Path) -> None:
    (part,) = readers.check(load_task("xquad"), data, offline=True)
    for a, wanted in XQUAD.items():
        rows = [
            (question["id"], question["question"].strip(), paragraph["context"].strip())
            for _, paragraph in articles(data / "xquad-r" / f"{a}.json")
            for question in paragraph["qas"]
        ]
        found = bare(part, a, a)
        assert found == as_mteb(rows) and [*map(list, found)] == [*map(list, as_mteb(rows))]
        assert (len(found[0]), length(found[0]), length(found[1])) == wanted and len(found[1]) == 240
    assert [cell.name for cell in part.cells] == [f"mono/{a}" for a in XQUAD]
    # Every question has its answer in its paragraph, and questions of one paragraph are one cluster in all languages.
    assert all(part.collection.answers[query_id] for query_id in part.collection.qrels)
    assert len(set(part.collection.clusters.values())) == 240 and len(part.collection.clusters) == 1190


def test_mlqa_dev_is_mteb_s(data: Path) -> None:
    parts = {part.cells[0].name: part for part in readers.check(load_task("mlqa-dev"), data, offline=True)}
    files = {a: list(articles(data / "mlqa-r" / f"{a}.json")) for a in SEVEN}
    texts = {a: {q["id"]: q["question"] for _, p in files[a] for q in p["qas"]} for a in SEVEN}
    assert len(parts) == 49
    for a in SEVEN:
        for b in SEVEN:
            part = parts[f"mono/{a}" if a == b else f"cross/{a}-{b}"]
            rows = [
                (q["id"], texts[a][q["id"]], p["context"]) for _, p in files[b] for q in p["qas"] if q["id"] in texts[a]
            ]
            found = bare(part, a, b)
            assert found == as_mteb(rows)
            if b == "zh":
                sizes = len(found[0]), len(found[1]), length(found[0]), length(found[1])
                assert sizes == MLQA_ZH[a]
            # Answers are of the passages' language.
            answer = next(q["answers"][0]["text"] for _, p in files[b] for q in p["qas"] if q["id"] in texts[a])
            assert part.collection.answers[f"{a}:{rows[0][0]}"] == (answer,)
    # The clusters are those of MLQA-R: they know of the same paragraphs.
    mine = parts["mono/en"].collection.clusters
    theirs = readers.read(load_task("mlqa-r"), data, offline=True).clusters
    assert set(mine) == set(theirs) and len(set(mine.values())) == len({(mine[q], theirs[q]) for q in mine})
    assert len(set(mine.values())) == len(set(theirs.values()))


@pytest.mark.parametrize("name", ["tydiqa", "tydiqa-train"])
def test_tydiqa(name: str, data: Path) -> None:
    if not (data / "tydiqa-goldp").is_dir():
        pytest.skip("NO REAL DATA: no tydiqa-goldp/ beside xquad-r/")
    task = load_task(name)
    (part,) = readers.check(task, data, offline=True)
    published = TYDI if name == "tydiqa" else TRAIN
    assert {a: counts["questions"] for a, counts in part.counts.items()} == published
    collection = part.collection
    for a in published:
        kind = "dev" if name == "tydiqa" else "train"
        held = list(articles(data / "tydiqa-goldp" / f"tydiqa.goldp.{a}.{kind}.json"))
        assert {p.text for p in collection.passages[a]} == {p["context"] for _, p in held}
        texts = {p.doc_id: p.text for p in collection.passages[a]}
        assert len(set(texts.values())) == len(texts)
        contexts: dict[str, set[str]] = {}
        for _, p in held:
            contexts.setdefault(p["qas"][0]["question"], set()).add(p["context"])
        for query_id, text in collection.queries[a]:
            assert {texts[d] for d in collection.qrels[query_id]} == contexts[text]
            # One cluster: that of a paragraph of its own language.
            assert collection.clusters[query_id].startswith(f"{a}:")
    assert not task.parallel and {cell.setting for cell in part.cells} == {"mono"}
    assert bool(collection.answers) == (name == "tydiqa-train")
    assert "en" not in next(iter(task.groups["average"].values()))


def test_tydiqa_sentences(data: Path) -> None:
    if not (data / "tydiqa-goldp").is_dir():
        pytest.skip("NO REAL DATA: no tydiqa-goldp/ beside xquad-r/")
    pytest.importorskip("icu4py")
    task = vary(load_task("tydiqa-train-sentences"), languages=["ko"])
    (part,) = readers.check(task, data, offline=True)
    texts = {p.doc_id: p.text for p in part.collection.passages["ko"]}
    held = dict(articles(data / "tydiqa-goldp" / "tydiqa.goldp.ko.train.json"))
    crossing = 0
    for query_id, relevant in part.collection.qrels.items():
        place = query_id.removeprefix("ko:").rpartition(".")[0]
        answer = held[place]["qas"][0]["answers"][0]["text"]
        assert any(answer[0] in texts[d] for d in relevant)
        crossing += not any(answer in texts[d] for d in relevant)
    assert crossing <= part.counts["ko"]["crossing"] == 9
    # Nothing but white space is between the sentences of a paragraph.
    pieces: dict[str, str] = {}
    for doc_id, text in texts.items():
        place = doc_id.removeprefix("ko:").rpartition(".")[0]
        pieces[place] = pieces.get(place, "") + text
    assert len(pieces) == len({paragraph["context"] for paragraph in held.values()}) == 1269
    for place, whole in pieces.items():
        assert "".join(whole.split()) == "".join(held[place]["context"].split())


def test_sentences() -> None:
    pytest.importorskip("icu4py")
    text = "  𝄞 Next one!  これは。それは。 Dr. Who\u2028Kuna 3.5. \n"
    spans = sentences(text, "ICU 78")
    assert [text[a:b] for a, b in spans] == ["𝄞 Next one!", "これは。", "それは。", "Dr.", "Who", "Kuna 3.5."]
    assert sentences(" \n", "ICU 78") == []
    with pytest.raises(UsageError, match="sentences are those of ICU 7, found ICU 78"):
        sentences("a", "ICU 7")


def test_an_answer_where_two_sentences_touch(tmp_path: Path) -> None:
    """It belongs to the second: the right edge is outside. One over the edge is kept and counted."""
    pytest.importorskip("icu4py")
    asked = [qa("1", "哪个?", "奶", 3), qa("1", "什么?", "。奶", 2), qa("2", "什么?", "茶", 0)]
    path = write(tmp_path, {"data": [{"paragraphs": [{"context": "茶热。奶冷。", "qas": asked}]}]})
    task = vary(load_task("tydiqa-train-sentences"), languages=["ko"])
    (part,) = readers.READERS[task.format](task, {"ko": path})
    assert [p.text for p in part.collection.passages["ko"]] == ["茶热。", "奶冷。"]
    assert part.collection.qrels == {"ko:0.0.0": {"ko:0.0.1": 1}, "ko:0.0.2": {"ko:0.0.0": 1}}
    assert part.counts["ko"]["crossing"] == 1 and part.collection.clusters["ko:0.0.0"] == "ko:0.0"


# Files by hand: MLQA's own format, with a question that occurs twice and a paragraph without any.
def qa(id_: str, question: str, answer: str, start: int) -> dict[str, Any]:
    return {"id": id_, "question": question, "answers": [{"text": answer, "answer_start": start}]}


ZH_AR = {
    "version": 1.0,
    "data": [
        {"title": "茶", "paragraphs": [{"context": "茶是热的。", "qas": [qa("q1", "ما هذا؟", "茶", 0)]}]},
        {
            "title": "奶",
            "paragraphs": [
                {"context": "牛奶是冷的。𝄞", "qas": [qa("q2", "ما ذلك؟", "牛奶", 0), qa("q3", "ما هذا؟", "冷", 3)]},
                {"context": "没有人问。", "qas": []},
                {"context": "茶是热的。", "qas": [qa("q4", "أين؟", "热的", 2)]},
            ],
        },
    ],
}


def pair_task(**counts: int) -> Task:
    task = vary(load_task("mlqa-test"), languages=["ar", "zh"], settings=["cross"])
    sources = {key: task.sources[key] for key in ("ar-zh", "zh-ar")}
    return replace(task, sources=sources, counts={"cross/ar-zh": counts, "cross/zh-ar": {"questions": 0}})


def write(folder: Path, content: object, name: str = "mlqa-test/test-context-zh-question-ar.json") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def test_mlqa_files(tmp_path: Path, own_cache: Path) -> None:
    """Files of MLQA_V1's format and names; the real ones were not at hand."""
    write(tmp_path, ZH_AR)
    write(tmp_path, {"version": "1.0", "data": []}, "mlqa-test/test-context-ar-question-zh.json")
    task = pair_task(questions=4)
    parts = list(readers.parts(task, tmp_path, offline=True))
    (part,) = [part for part in parts if part.cells[0].name == "cross/ar-zh"]
    tea, milk = (sha256(text.encode()).hexdigest() for text in ("茶是热的。", "牛奶是冷的。𝄞"))
    assert [tuple(q) for q in part.collection.queries["ar"]] == [
        ("ar:q3", "ما هذا؟"), ("ar:q2", "ما ذلك؟"), ("ar:q4", "أين؟")
    ]  # fmt: skip
    assert [p.doc_id for p in part.collection.passages["zh"]] == [f"zh:{tea}", f"zh:{milk}"]
    assert part.collection.qrels["ar:q3"] == {f"zh:{tea}": 1, f"zh:{milk}": 1}
    assert part.collection.answers["ar:q3"] == ("茶", "冷")
    assert part.counts["cross/ar-zh"] == {
        "questions": 4, "queries": 3, "paragraphs": 3, "passages": 2, "blank": 0, "unasked": 1
    }  # fmt: skip
    assert len(set(part.collection.clusters.values())) == 1  # q1 and q3 are one query, q1 and q4 share a paragraph
    with pytest.raises(DataError, match=r"test-context|cross/ar-zh: found .*'questions': 4.*expected .*'questions': 5"):
        list(readers.parts(pair_task(questions=5), tmp_path, offline=True))


def test_the_counts_of_mlqa_test() -> None:
    task = load_task("mlqa-test")
    assert sum(counts["questions"] for counts in task.counts.values()) == 158_083  # MTEB's n_samples
    for a, (questions, queries, passages) in MLQA_TEST.items():
        cell = "mono/zh" if a == "zh" else f"cross/{a}-zh"
        assert task.counts[cell] == {"questions": questions, "queries": queries, "passages": passages}
        key = f"{a}-zh"
        assert task.sources[key].name == f"test-context-zh-question-{a}.json" and not task.sources[key].sha256


P, Q = "data[1].paragraphs[0]", "data[1].paragraphs[0].qas[1]"
GONE = object()
FAULTS = [
    ("data", GONE, "", "field 'data' is missing"),
    (f"{P}.context", " \u2028", f"{P}.context", "empty"),
    (f"{P}.qas", 7, f"{P}.qas", "expected a list, found int"),
    (f"{Q}.question", "", f"{Q}.question", "empty"),
    (f"{Q}.question", None, f"{Q}.question", "expected text, found NoneType"),
    (f"{Q}.id", "q\u20283", Q, "holds white space"),
    (f"{Q}.id", "q1", "", ""),  # the same question again: that is one
    (f"{Q}.id", "q2", Q, "id 'q2' occurs twice in the file, with another question"),
    (f"{Q}.answers[0].answer_start", 2, f"{Q}.answers[0].answer_start", "at 2, the answer is '冷'"),
    (f"{Q}.answers[0].answer_start", -4, f"{Q}.answers[0].answer_start", "at -4, the answer is '冷'"),
    (f"{Q}.answers[0].answer_start", True, f"{Q}.answers[0].answer_start", "found True"),
    (f"{Q}.answers[0].text", "  ", f"{Q}.answers[0].text", "empty"),
    (f"{Q}.answers", GONE, Q, "field 'answers' is missing"),
]


@pytest.mark.parametrize(("change", "value", "where", "phrase"), FAULTS)
def test_a_fault_is_named_with_its_row(change: str, value: object, where: str, phrase: str, tmp_path: Path) -> None:
    content: Any = copy.deepcopy(ZH_AR)
    *above, last = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", change)]
    node = content
    for step in above:
        node = node[step]
    if value is GONE:
        del node[last]
    else:
        node[last] = value
    path = write(tmp_path, content)
    if not phrase:
        assert len(read_rows(path, {})[0]) == 4
        return
    with pytest.raises(DataError) as caught:
        read_rows(path, {})
    message = str(caught.value)
    assert message.startswith(f"{path}: {where}") and phrase in message and "\n" not in message


def test_blank_answers(tmp_path: Path) -> None:
    content: Any = copy.deepcopy(ZH_AR)
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"] = [{"text": "", "answer_start": 0}]
    rows, unasked = read_rows(write(tmp_path, content), {})
    assert [row.answers for row in rows] == [(), ("牛奶",), ("冷",), ("热的",)] and unasked == 1
    with pytest.raises(DataError, match=r"data\[0\].paragraphs\[0\].qas\[0\]: no answer that is not blank"):
        read_rows(tmp_path / "mlqa-test/test-context-zh-question-ar.json", {"unit": "sentence"})


def test_options(tmp_path: Path) -> None:
    task = load_task("tydiqa")
    with pytest.raises(DataError, match=r"unknown options \['unitt'\]; known: files, ids"):
        list(readers.READERS[task.format](replace(task, options={"unitt": "sentence"}), {}))
    with pytest.raises(DataError, match="cross/ar-bn: these files say nothing of passages in other languages"):
        list(readers.READERS[task.format](replace(task, settings=("cross",)), {}))


def test_whole_job(data: Path, own_cache: Path) -> None:
    """Pools of a cell's own, answers in another language, statistics by cluster: from files to a result."""
    task = vary(load_task("mlqa-dev"), languages=["es", "zh"])
    result = evaluate(load("hash"), task, plan=Plan(own_cache, data, offline=True))
    assert {c.cell.name: (len(c.query_ids), c.passages) for c in result.cells}["cross/es-zh"] == (161, 148)
    assert all(0 <= c.values["Success@1"] <= c.values["HasAnswer@1"] + 0.01 for c in result.cells)
    assert set(result.intervals["cross"]) >= {"nDCG@10", "HasAnswer@1"}
