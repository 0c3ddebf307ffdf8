"""Mewsli-X: the texts of XTREME-R's baseline, written out as it has them, and what is refused."""

import copy
import dataclasses
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xbench import readers
from xbench.errors import DataError
from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.task import Task, vary
from xbench.tasks import load_task

# mewsli-x.md of the release: test mentions and articles, and entities, of the first and last languages.
MENTIONS = {"ar": (1501, 680), "de": (1551, 1361), "fa": (458, 167), "uk": (1537, 612)}
ENTITIES = {"af": 2_026, "en": 257_008, "qu": 412, "wo": 23, "yo": 376, "zh": 34_734}
ELEVEN = ("ar", "de", "en", "es", "fa", "ja", "pl", "ro", "ta", "tr", "uk")


def test_official_counts() -> None:
    task = load_task("mewsli-x")
    assert task.totals() == (14_624, 1_003_893) and sum(c.get("articles", 0) for c in task.counts.values()) == 9_608
    assert task.query_languages == ELEVEN and len(task.passage_languages) == 50
    for language, (mentions, articles) in MENTIONS.items():
        assert (task.counts[language]["queries"], task.counts[language]["articles"]) == (mentions, articles)
    assert {a: task.counts[a]["passages"] for a in ENTITIES} == ENTITIES
    assert [cell.name for cell in task.cells()] == [f"multi/{a}" for a in ELEVEN]
    assert {task.size(cell)[1] for cell in task.cells()} == {1_003_893}


def span(text: str, part: str) -> dict[str, int]:
    return {"start": text.index(part), "end": text.index(part) + len(part)}


def entity(id_: str, language: str, *sentences: str) -> dict[str, Any]:
    text = "  ".join(sentences)
    return {
        "entity_id": id_,
        "title": f"Title {id_}",
        "description": text,
        "description_url": "https://x.wikipedia.org",
        "description_language": language,
        "sentence_spans": [span(text, sentence) for sentence in sentences],
    }


def article(language: str, sentences: list[str], *mentions: tuple[str, str, str]) -> dict[str, Any]:
    """In the form of the release's mewsli_x/testdata/example_mentions.jsonl."""
    text = "\n\n".join(sentences)
    context = {
        "document_title": sentences[0],
        "document_url": f"https://{language}.wikinews.org",
        "document_id": f"{language}-1",
        "language": language,
        "text": text,
        "sentence_spans": [span(text, sentence) for sentence in sentences],
    }
    found = [
        {
            "example_id": id_,
            "mention_span": {**span(text, name), "text": name},
            "entity_id": gold,
            "metadata": {"curid": "1", "bin_name": "bin02_10-100"},
        }
        for id_, name, gold in mentions
    ]
    return {"context": context, "mentions": found}


CANDIDATES = [
    entity("Q1757", "de", "Helsinki ist die\nHauptstadt\u2028Finnlands. ", "Sie  liegt am Meer."),
    entity("Q33", "sw", "Ufini ni nchi."),
    entity("Q64", "en", "Berlin is a city."),
]
ARTICLES = [
    article("en", ["Strike", "In Helsinki, {half} of {all} buses\nstand."], ("m1", "Helsinki", "Q1757")),
    article("de", ["Ein Streik in Finnland."], ("m2", "Finnland", "Q33"), ("m3", "Streik", "Q64")),
    article("en", ["Berlin was not hit."], ("m4", "Berlin", "Q64")),
    article("en", ["Rome", "Nor was Oslo"], ("m5", "Rome", "Q64"), ("m6", "Oslo", "Q64")),
]


@pytest.fixture
def task() -> Task:
    counts = {
        "de": {"queries": 2, "passages": 1, "articles": 1},
        "en": {"queries": 4, "passages": 1, "articles": 3},
        "sw": {"passages": 1},
    }
    languages = ("de", "en", "sw")
    task = dataclasses.replace(load_task("mewsli-x"), languages=languages, query_languages=("de", "en"), counts=counts)
    files = dict.fromkeys(task.file_languages, languages)
    return dataclasses.replace(task, passage_languages=languages, file_languages=files)


def written(folder: Path, candidates: list[Any], articles: list[Any]) -> Path:
    (folder / "mewsli-x").mkdir(exist_ok=True)
    for name, rows in (("candidate_set_entities", candidates), ("wikinews_mentions-test", articles)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "mewsli-x" / f"{name}.jsonl").write_text(lines, encoding="utf-8", newline="")
    return folder


def test_what_queries_and_passages_are(task: Task, tmp_path: Path) -> None:
    found = readers.read(task, written(tmp_path, CANDIDATES, ARTICLES))
    assert {p.doc_id: p.text for some in found.passages.values() for p in some} == {
        "de:Q1757": "Helsinki ist die Hauptstadt Finnlands. Sie liegt am Meer.",
        "sw:Q33": "Ufini ni nchi.",
        "en:Q64": "Berlin is a city.",
    }
    assert {q.query_id: q.text for some in found.queries.values() for q in some} == {
        "en:m1": "Helsinki: In { Helsinki } , (half) of (all) buses stand.",
        "de:m2": "Finnland: Ein Streik in { Finnland } .",
        "de:m3": "Streik: Ein { Streik } in Finnland.",
        "en:m4": "Berlin: { Berlin } was not hit.",
        "en:m5": "Rome: { Rome }",
        "en:m6": "Oslo: Nor was { Oslo }",
    }
    assert found.qrels == {
        "en:m1": {"de:Q1757": 1},
        "de:m2": {"sw:Q33": 1},
        "de:m3": {"en:Q64": 1},
        "en:m4": {"en:Q64": 1},
        "en:m5": {"en:Q64": 1},
        "en:m6": {"en:Q64": 1},
    }


def test_some_languages(task: Task, tmp_path: Path) -> None:
    folder = written(tmp_path, CANDIDATES, ARTICLES)
    found = readers.read(vary(task, languages=["de", "en"]), folder)
    assert set(found.passages) == {"de", "en"} and found.qrels["de:m2"] == {}
    result = evaluate(load("hash"), vary(task, languages=["de", "en"]), plan=Plan(tmp_path / "cache", folder))
    assert {c.cell.name: (len(c.query_ids), c.left_out, c.passages) for c in result.cells} == {
        "multi/de": (1, 1, 2),
        "multi/en": (4, 0, 2),
    }


def baseline_mention(context: dict[str, Any], mention: dict[str, Any]) -> str:
    """`truncate(0)` and `preprocess_mention` of google-research/xtreme, third_party/utils_mewslix.py, by definition."""
    start, end = mention["start"], mention["end"]
    for each in context["sentence_spans"]:
        if each["start"] <= start < each["end"] and each["start"] < end <= each["end"]:
            left, right = context["text"][each["start"] : start], context["text"][end : each["end"]]
            left, right = (re.sub(r"\{(.*?)\}", r"(\1)", part) for part in (left, right))
            query = f"{mention['text']}: {left} {{ {mention['text']} }} {right}"
            return " ".join(query.splitlines()).replace("  ", " ").strip()
    raise AssertionError


def test_texts_are_the_baselines(task: Task, tmp_path: Path) -> None:
    rng = random.Random(2)
    pieces = ["a", " ", "  ", "\n", "\r\n", "\u2028", "\x85", "\x1c", "\v", "\f", "{", "}", "b{c}", ".", "😀", "\u3000"]
    articles, candidates = [], [CANDIDATES[2]]
    for i in range(300):
        body = ["".join(rng.choices(pieces, k=8)) for _ in range(4)]
        text = f"{body[0]}One{body[1]}Name{body[2]}two{body[3]}"
        row = article("en", ["x"], (f"m{i}", "x", "Q64"))
        cut = text.index("One"), text.index("two") + 3
        row["context"] |= {"text": text, "sentence_spans": [{"start": cut[0], "end": cut[1]}]}
        row["mentions"][0]["mention_span"] = {**span(text, "Name"), "text": "Name"}
        articles.append(row)
        candidates.append(entity(f"Q{1000 + i}", "sw", text + "!", f"{body[3]}?{body[0]}."))
    counts = {**task.counts, "en": {"queries": 300, "passages": 1, "articles": 300}, "sw": {"passages": 300}}
    counts["de"] = {"queries": 0, "passages": 0, "articles": 0}
    found = readers.read(dataclasses.replace(task, counts=counts), written(tmp_path, candidates, articles))
    assert [q.text for q in found.queries["en"]] == [
        baseline_mention(row["context"], row["mentions"][0]["mention_span"]) for row in articles
    ]
    for passage, row in zip(found.passages["sw"], candidates[1:], strict=True):
        sentences = " ".join(row["description"][s["start"] : s["end"]] for s in row["sentence_spans"])
        assert passage.text == " ".join(sentences.splitlines()).replace("  ", " ").strip()


def test_the_value_is_mrr_at_20(task: Task, tmp_path: Path) -> None:
    """`evaluate` of utils_mewslix: 1 over the rank of the gold entity, 0 below 20; the macro mean over languages."""
    candidates = [entity(f"Q{i}", ("de", "en", "sw")[i % 3], f"Sentence {i} of many {i * i}.") for i in range(60)]
    articles = [article("de", [f"Wort{i} {i * i} da."], (f"d{i}", f"Wort{i}", f"Q{i}")) for i in range(9)]
    articles += [article("en", [f"Word{i} {i} many."], (f"e{i}", f"Word{i}", f"Q{i + 5}")) for i in range(14)]
    counts = {
        "de": {"queries": 9, "passages": 20, "articles": 9},
        "en": {"queries": 14, "passages": 20, "articles": 14},
        "sw": {"passages": 20},
    }
    task = dataclasses.replace(task, counts=counts)
    folder = written(tmp_path, candidates, articles)
    found, model = readers.read(task, folder), load("hash")
    result = evaluate(model, task, plan=Plan(tmp_path / "cache", folder))
    passages = [p for some in found.passages.values() for p in some]
    pool = model.encode([p.text for p in passages], "passages", "").astype(np.float64)  # type: ignore[union-attr, arg-type]
    means = []
    for language in ("de", "en"):
        values = []
        for query in found.queries[language]:
            scores = pool @ model.encode([query.text], "queries", "")[0].astype(np.float64)  # type: ignore[union-attr, arg-type]
            order = sorted(zip(scores.tolist(), [p.doc_id for p in passages], strict=True), reverse=True)
            rank = 1 + [doc_id for _, doc_id in order].index(next(iter(found.qrels[query.query_id])))
            values.append(1 / rank if rank <= 20 else 0.0)
        means.append(float(np.mean(values)))
    assert {c.cell.query_language: c.values["XtremeAP@20"] for c in result.cells} == pytest.approx(
        dict(zip(("de", "en"), means, strict=True)), abs=1e-9
    )
    assert result.summary()["multi"]["XtremeAP@20"] == pytest.approx(float(np.mean(means)), abs=1e-9)


E, M = "candidate_set_entities", "wikinews_mentions-test"
GONE = object()
FAULTS: list[tuple[str, int, list[str | int], object, str]] = [
    (E, 1, ["entity_id"], GONE, "field 'entity_id' is missing"),
    (E, 1, ["entity_id"], "Q1757", "entity Q1757 for the second time"),
    (E, 1, ["entity_id"], "Q 1", "entity_id 'Q 1' holds white space"),
    (E, 1, ["description"], 7, ".description: expected text, found int"),
    (E, 1, ["description"], " ", ".description: the text is empty"),
    (E, 1, ["sentence_spans"], [], ".description: the text is empty"),
    (E, 1, ["sentence_spans"], {}, ".sentence_spans: expected a list"),
    (E, 1, ["sentence_spans", 0, "end"], 15, "[0, 15] is no span of a text of 14 characters"),
    (E, 1, ["sentence_spans", 0, "start"], -1, "[-1, 14] is no span"),
    (E, 1, ["sentence_spans", 0, "start"], 14, "[14, 14] is no span"),
    (E, 1, ["sentence_spans", 0, "start"], True, "[True, 14] is no span"),
    (E, 1, ["description_language"], None, ".description_language: expected text"),
    (M, 1, ["context"], GONE, "field 'context' is missing"),
    (M, 1, ["context", "text"], "", "the text of the article is empty; fill it in by the release's get-mewsli-x.sh"),
    (M, 1, ["context", "language"], 1, ".context.language: expected text"),
    (M, 1, ["context", "sentence_spans", 0, "end"], 20, "the mention at 14 to 22 is in no sentence"),
    (M, 1, ["mentions"], None, ".mentions: expected a list"),
    (M, 1, ["mentions", 1, "example_id"], "m2", ".mentions[1]: mention m2 for the second time"),
    (M, 1, ["mentions", 1, "example_id"], "m\u2028", "holds white space"),
    (M, 1, ["mentions", 0, "entity_id"], "Q9", ".mentions[0]: gold entity Q9 is not among the candidates"),
    (M, 1, ["mentions", 0, "mention_span", "text"], "Finland", "the article has 'Finnland' at 14, the mention is"),
    (M, 1, ["mentions", 0, "mention_span", "start"], 15, "the article has 'innland' at 15"),
    (M, 1, ["mentions", 0, "mention_span", "end"], 99, "[14, 99] is no span"),
]


@pytest.mark.parametrize(("name", "row", "where", "value", "phrase"), FAULTS)
def test_a_fault_is_named_with_its_line(
    name: str, row: int, where: list[str | int], value: object, phrase: str, task: Task, tmp_path: Path
) -> None:
    files = {E: copy.deepcopy(CANDIDATES), M: copy.deepcopy(ARTICLES)}
    node: Any = files[name][row]
    for step in where[:-1]:
        node = node[step]
    if value is GONE:
        del node[where[-1]]
    else:
        node[where[-1]] = value
    written(tmp_path, files[E], files[M])
    with pytest.raises(DataError) as caught:
        readers.read(task, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'mewsli-x' / name}.jsonl:{row + 1}") and phrase in message, message
