"""Tasks in some of their languages, in other settings, with pools of a cell's own and sources without a hash."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from xbench import cli, readers
from xbench.errors import DataError, IntegrityError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.readers.part import Part
from xbench.records import Cell, Collection, Passage, Query
from xbench.sources import Source
from xbench.task import Task, vary
from xbench.tasks import load_task, read_definition, same_task

MINI = load_task("mini")
HEAD = """
name = "own"
version = 1
title = "own"
description = "A task whose cells have pools of their own."
format = "lines"
licence = "CC0-1.0"
citation = ""
languages = ["de", "el", "en"]
measures = ["RR", "Success@1"]
primary = "RR"
"""
PAIRS = """
settings = ["cross"]
query_languages = ["de", "el"]
passage_languages = ["en"]
pools = "cell"
parallel = false

[source]
repository = "own"
revision = "1"
name = "{key}.txt"
url = "https://example.org/{key}.txt"

[files]
de = { languages = ["de"] }
el = { languages = ["el"] }
en = { languages = ["en"] }

[counts]
"cross/de-en" = { queries = 3, passages = 3 }
"cross/el-en" = { queries = 2, passages = 2 }
"""
LINES = {"de": ["ein Hund", "eine Katze", "ein Haus"], "el": ["ένας σκύλος", "ένα σπίτι"]}
ENGLISH = {"de": ["a dog", "a cat", "a house"], "el": ["a dog", "a house"]}


def read_lines(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
    """One part a cell: every query language has its own English sentences."""
    for cell in task.cells():
        a = cell.query_language
        assert paths[a].read_text() == f"{a}\n"
        queries = [Query(f"{a}:{i}", text) for i, text in enumerate(LINES[a])]
        passages = [Passage(f"en:{a}.{i}", text) for i, text in enumerate(ENGLISH[a])]
        qrels = {f"{a}:{i}": {f"en:{a}.{i}": 1} for i in range(len(queries))}
        counts = {cell.name: {"queries": len(queries), "passages": len(passages)}}
        yield Part([cell], Collection({a: queries}, {"en": passages}, qrels, {}), counts)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, Path]:
    """A task with a pool for every cell, and the folder of its data."""
    (tmp_path / "own.toml").write_text(HEAD + PAIRS)
    (tmp_path / "data" / "own").mkdir(parents=True)
    for language in ("de", "el", "en"):
        (tmp_path / "data" / "own" / f"{language}.txt").write_text(f"{language}\n")
    monkeypatch.setitem(readers.READERS, "lines", read_lines)
    return read_definition(tmp_path / "own.toml"), tmp_path / "data"


def test_some_languages() -> None:
    task = vary(MINI, languages=["zh", "ar"])
    assert task.languages == task.query_languages == task.passage_languages == ("ar", "zh")
    assert [c.name for c in task.cells()] == [
        "mono/ar",
        "mono/zh",
        "cross/ar-zh",
        "cross/zh-ar",
        "multi/ar",
        "multi/zh",
    ]
    assert set(task.sources) == set(task.counts) == set(task.golden) == set(task.shared) == {"ar", "zh"}
    assert task.about["languages"] == ["ar", "zh"] and task.sha256 != MINI.sha256
    assert same_task(json.loads(json.dumps(task.about)), Path("x")) == task
    readers.check(task)
    # All languages, in any order, are no other task; nor are its own settings.
    assert vary(MINI, languages=sorted(MINI.languages, reverse=True), settings=["multi", "cross", "mono"]) == MINI
    with pytest.raises(UsageError, match="has no language 'xx'; known: ar, de"):
        vary(MINI, languages=["xx"])
    with pytest.raises(UsageError, match="no cell is left"):
        vary(MINI, languages=["ar"], settings=["cross"])


def test_other_settings() -> None:
    mono = dataclasses.replace(MINI, settings=("mono",), optional=("multi",))
    assert {c.setting for c in mono.cells()} == {"mono"}
    both = vary(mono, settings=["multi", "mono"])
    assert both.settings == ("mono", "multi") and both.sha256 != mono.sha256
    with pytest.raises(UsageError, match="has no setting 'cross'; known: mono, multi"):
        vary(mono, settings=["cross"])
    with pytest.raises(UsageError, match="takes no --context"):
        vary(dataclasses.replace(MINI, format="beir"), context=True)


def test_values_do_not_depend_on_what_else_is_there(tmp_path: Path, own_cache: Path) -> None:
    plan = Plan(own_cache)
    whole, some = (evaluate(load("hash"), t, plan=plan) for t in (MINI, vary(MINI, languages=["de", "th"])))
    values = {c.cell.name: c.values for c in whole.cells}
    for cell in some.cells:
        assert (cell.values == values[cell.cell.name]) == (cell.cell.setting != "multi")
    # As a user says it, and as the result says it again.
    arguments = ["run", "hash", "-t", "mini", "--languages", "th, de", "--setting", "mono", "-o", str(tmp_path)]
    assert cli._run(arguments, False) == 0
    (path,) = tmp_path.glob("*/mini.json")
    content = json.loads(path.read_text())
    assert content["command"] == "xbench run hash -t mini --languages 'th, de' --setting mono"
    assert {c["setting"]: c["values"] for c in content["cells"]} == {"mono": values["mono/th"]}
    assert cli._run(["export", str(path), "--depth", "3"], False) == 0
    assert len(list(path.parent.glob("mini.mono.*.run.trec"))) == 2


def test_pools_of_a_cell(own: tuple[Task, Path], own_cache: Path) -> None:
    task, data = own
    assert [task.size(cell) for cell in task.cells()] == [(3, 3), (2, 2)] and task.totals() == (5, 5)
    assert task.cells() == [Cell("cross", "de", ("en",)), Cell("cross", "el", ("en",))]
    for model in ("hash", "bm25", "fuse:hash+bm25"):
        result = evaluate(load(model), task, plan=Plan(own_cache, data))
        assert [(c.cell.name, len(c.query_ids), c.passages) for c in result.cells] == [
            ("cross/de-en", 3, 3),
            ("cross/el-en", 2, 2),
        ]
        assert result.ranks is None
    # By the definition: each cell's own pool, ties by id.
    encoder, found = load("hash"), evaluate(load("hash"), task, plan=Plan(own_cache, data))
    assert found.texts == {"total": 10, "distinct": 8}  # two English sentences stand in both pools
    for cell in found.cells:
        a = cell.cell.query_language
        sides = [encoder.encode(texts, role, "") for role, texts in (("queries", LINES[a]), ("passages", ENGLISH[a]))]  # type: ignore[union-attr, arg-type]
        scores = sides[0].astype(np.float64) @ sides[1].T.astype(np.float64)
        ranks = [1 + sum((row[j], j) > (row[i], i) for j in range(len(row))) for i, row in enumerate(scores.tolist())]
        assert cell.values["RR"] == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-12)
        assert cell.per_query["RR"].tolist() == [1 / rank for rank in ranks]
    # No query of one language is a translation of one of the other.
    assert found.statistics["clusters"] == 5
    with pytest.raises(UsageError, match="pool of its own; choose one cell"):
        readers.read(task, data)


def test_totals_that_are_not_known(own: tuple[Task, Path]) -> None:
    task, _ = own
    counts = {**task.counts, "cross/el-en": {"queries": 2}}
    assert dataclasses.replace(task, counts=counts).totals() == (5, 0)
    assert load_task("mlqa-test").totals() == (0, 0) and load_task("mlqa-dev").totals() == (15_747, 13_743)


def test_counts_of_a_cell(own: tuple[Task, Path]) -> None:
    task, data = own
    wrong = {**task.counts, "cross/el-en": {"queries": 3, "passages": 2}}
    with pytest.raises(DataError, match=r"own/cross/el-en: found \{'queries': 2.*expected \{'queries': 3"):
        list(readers.parts(dataclasses.replace(task, counts=wrong), data))


def test_a_source_without_a_hash(own: tuple[Task, Path], own_cache: Path) -> None:
    task, data = own
    pinned = readers.pin(task, data)
    content = (data / "own" / "de.txt").read_bytes()
    assert pinned.sources["de"] == Source(
        "own", "de.txt", "https://example.org/de.txt", len(content), hashlib.sha256(content).hexdigest()
    )
    assert pinned.sha256 != task.sha256 and readers.pin(pinned, data) == pinned
    assert pinned.about["pinned"]["el"] == [3, hashlib.sha256(b"el\n").hexdigest()]
    result = evaluate(load("hash"), task, plan=Plan(own_cache, data))
    assert result.task == json.loads(json.dumps(pinned.about))
    # Another file is another task; one that changes under a pinned task is refused; none is ever fetched.
    (data / "own" / "de.txt").write_text("de\r\n")
    assert readers.pin(task, data).sha256 != pinned.sha256
    with pytest.raises(IntegrityError, match=r"de\.txt: found 4 bytes"):
        list(readers.parts(pinned, data))
    (data / "own" / "de.txt").unlink()
    with pytest.raises(DataError, match=r"no SHA-256 of it is on record, so it is not fetched: get https://example"):
        readers.pin(task, data)
    with pytest.raises(DataError, match="so it is not fetched"):
        readers.source_path(task, "el", None)


@pytest.mark.parametrize(
    ("old", "new", "phrase"),
    [
        ('pools = "cell"', 'pools = "sell"', "pools 'sell'"),
        ('languages = ["de"] }', 'language = ["de"] }', "unknown ['language']"),
        ('languages = ["de"] }', "size = 3 }", "size and sha256 go together"),
        ('passage_languages = ["en"]', 'passage_languages = ["fr"]', "['fr']"),
        ('"cross/el-en" = { queries', '"cross/el-de" = { queries', "exactly the cells"),
        ('settings = ["cross"]', 'settings = ["cross"]\noptional = ["mixed"]', "settings"),
        ('settings = ["cross"]', 'settings = ["cross"]\ncross = [["de", "fr"]]', "fr"),
        ("[counts]", '[groups.seen]\nseen = ["fr"]\n\n[counts]', "[groups] names ['fr']"),
        ('primary = "RR"', 'primary = "AP"', "primary 'AP'"),
    ],
)
def test_a_definition_that_contradicts_itself(old: str, new: str, phrase: str, tmp_path: Path) -> None:
    text = HEAD + PAIRS
    assert text.count(old) == 1
    (tmp_path / "own.toml").write_text(text.replace(old, new))
    with pytest.raises(DataError) as caught:
        read_definition(tmp_path / "own.toml")
    assert phrase in str(caught.value) and str(tmp_path / "own.toml") in str(caught.value)


def test_lareqa_is_xquad_r_with_context(data: Path, own_cache: Path) -> None:
    lareqa, plain = load_task("lareqa"), load_task("xquad-r")
    assert lareqa.sources == plain.sources and lareqa.counts == plain.counts and lareqa.golden == plain.golden
    assert readers.read(lareqa, data) == readers.read(dataclasses.replace(plain, context=True), data)
    assert [c.setting for c in lareqa.cells()] == ["multi"] * 11 and lareqa.about["context"] is True
    readers.check(lareqa, data)
    assert own_cache.is_dir()


def test_what_decides_the_values_is_in_the_hash(own: tuple[Task, Path]) -> None:
    task, _ = own
    other = [
        {"pools": "language"},
        {"options": {"split": "dev"}},
        {"parallel": True},
        {"query_languages": ("de",)},
        {"passage_languages": ("en", "el")},
        {"cross": (("de", "en"),)},
        {"context": True},
    ]
    changed = [dataclasses.replace(task, **change).sha256 for change in other]  # type: ignore[arg-type]
    assert len({task.sha256, *changed}) == len(other) + 1
    same = [{"groups": {"a": {"b": ("de",)}}}, {"optional": ("multi",)}, {"title": "x"}, {"counts": {}}]
    assert {dataclasses.replace(task, **change).sha256 for change in same} == {task.sha256}  # type: ignore[arg-type]


def test_a_count_that_the_task_does_not_name() -> None:
    """Of files that are known by their hashes every count is; of others a reader may tell more."""
    fewer = {a: {what: n for what, n in some.items() if what != "crossing"} for a, some in MINI.counts.items()}
    with pytest.raises(DataError, match=r"'crossing': 0.*expected \{"):
        readers.read(dataclasses.replace(MINI, counts=fewer))
    assert readers.read(dataclasses.replace(MINI, counts=fewer, pinned={"x": (1, "")})) == readers.read(MINI)


def test_clusters_of_questions_that_are_not_parallel() -> None:
    """Each query has its question's paragraph, under its own id; without one it stands alone."""
    apart = readers.read(dataclasses.replace(MINI, parallel=False))
    assert set(apart.clusters) == set(apart.qrels)
    (part,) = readers.parts(MINI)
    alone = readers._apart(part.collection._replace(clusters={"ar:tea-1": "a", "tea-1": "b"}))
    assert alone.clusters["ar:tea-1"] == "a" and alone.clusters["de:tea-1"] == "de:tea-1"
