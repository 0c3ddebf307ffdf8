"""Task definitions, the sources they promise, and the quality of the bundled task."""

import hashlib
import json
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xbench import readers, tasks
from xbench.errors import DataError, IntegrityError, UsageError
from xbench.measures import parse_all
from xbench.records import Cell
from xbench.tasks import load_task, select, task_names

ROOT = Path(__file__).parent.parent
ELEVEN = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
SEVEN = ("ar", "de", "en", "es", "hi", "vi", "zh")
TASKS = {"mini": (ELEVEN, "CC0-1.0"), "mlqa-r": (SEVEN, "CC-BY-NC-4.0"), "xquad-r": (ELEVEN, "CC-BY-SA-4.0")}
# protocol.md, 2.4: queries (down) with an answer in a language (across).
SHARED = """
517 207 517 161 186 163 188
207 512 512 196 163 182 190
517 512 1148 500 507 511 504
161 196 500 500 187 189 161
186 163 507 187 507 177 189
163 182 511 189 177 511 184
188 190 504 161 189 184 504
"""
PAIRS = dict(zip([(a, b) for a in SEVEN for b in SEVEN], map(int, SHARED.split()), strict=True))
SCRIPTS = {"ar": "ARABIC", "el": "GREEK", "hi": "DEVANAGARI", "ru": "CYRILLIC", "th": "THAI", "zh": "CJK"}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No definition is remembered from, or for, another test."""
    load_task.cache_clear()
    yield
    load_task.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `tasks/` that the package takes for its own."""
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks")
    monkeypatch.setattr(tasks, "data_folder", lambda name: tmp_path / name)
    return tmp_path / "tasks"


def test_all_definitions_are_tested() -> None:
    assert task_names() == list(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_definition(name: str) -> None:
    task = load_task(name)
    assert (task.name, task.version, task.languages, task.licence) == (name, 1, *TASKS[name])
    assert name in task.title.lower() and len(task.description) > 100
    assert task.citation.count("{") == task.citation.count("}") >= 5
    assert re.search(r"^@(inproceedings|misc|article)\{[\w-]+,$", task.citation, re.M)
    assert task.primary in task.measures and len(parse_all(task.measures)) == len(task.measures)
    assert (task.folder is not None) == (name == "mini")
    for language, source in task.sources.items():
        assert (source.task, source.name) == (name, f"{language}.json") and source.size > 20_000
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
        if name == "mini":
            assert source.url == f"bundled:mini/{language}.json"
        else:
            assert re.fullmatch(r"[0-9a-f]{40}", task.revision) and task.repository.startswith("https://")
            assert re.fullmatch(rf"https://[^{{}}]+/{task.revision}/{name}/{language}\.json", source.url)


@pytest.mark.parametrize("name", TASKS)
def test_cells(name: str) -> None:
    task = load_task(name)
    cells, n = task.cells(), {"mlqa-r": 7}.get(name, 11)
    assert [sum(c.setting == s for c in cells) for s in ("mono", "cross", "multi")] == [n, n * (n - 1), n]
    pairs = [f"cross/{a}-{b}" for a in task.languages for b in task.languages if a != b]
    singles = [[f"{setting}/{a}" for a in task.languages] for setting in ("mono", "multi")]
    assert [c.name for c in cells] == [*singles[0], *pairs, *singles[1]]
    assert cells[0] == Cell("mono", "ar", ("ar",)) and cells[-1] == Cell("multi", "zh", task.languages)
    assert {c.setting for c in replace(task, settings=("multi", "cross")).cells()} == {"cross", "multi"}


@pytest.mark.parametrize(("name", "queries", "passages"), [("xquad-r", 13_090, 13_014), ("mlqa-r", 4_199, 20_534)])
def test_sizes(name: str, queries: int, passages: int) -> None:
    task = load_task(name)
    sizes = {c: task.size(c) for c in task.cells()}
    for setting in ("mono", "multi"):
        assert sum(sizes[c][0] for c in sizes if c.setting == setting) == queries
    assert sum(sizes[c][1] for c in sizes if c.setting == "mono") == passages
    assert {sizes[c][1] for c in sizes if c.setting == "multi"} == {passages}
    for cell, (found, pool) in sizes.items():
        if cell.setting == "cross":
            a, (b,) = cell.query_language, cell.passage_languages
            assert found == (1190 if name == "xquad-r" else PAIRS[a, b])
            assert pool == task.size(Cell("mono", b, (b,)))[1]


def test_names() -> None:
    assert [task.name for task in select(["xquad-r", "mini", "xquad-r"])] == ["xquad-r", "mini"]
    for name, nearest in {"xquadr": "xquad-r", "MLQA": "mlqa-r", "minni": "mini", "../mini": "mini"}.items():
        for call in (load_task, lambda name: select(["mini", name])):
            with pytest.raises(
                UsageError, match=rf"unknown task '{name}'; did you mean [^?]*'{nearest}'.*\? known: mini"
            ):
                call(name)
    with pytest.raises(UsageError, match=r"unknown task 'qqqq'; known: mini, mlqa-r, xquad-r"):
        load_task("qqqq")
    with pytest.raises(UsageError, match="no task given; choose from: mini, mlqa-r, xquad-r"):
        select([])


CONTRADICTIONS = [
    ('name = "mini"', 'name = "mimi"', "'mimi' in a file called mini.toml"),
    ('"ar", "de"', '"ar"', "exactly the languages"),
    ('"ar", "de"', '"ar", "fi", "de"', "exactly the languages"),
    ("\nzh = {", "\nzz = {", "exactly the languages"),
    ("[golden.zh]", "[golden.zz]", "exactly the languages"),
    ('"ar", "de"', '"ar", "ar", "de"', ""),
    ('"cross"', '"crosss"', "crosss"),
    ("version = 1", "version = 1\ncolour = 1", "colour"),
    ("version = 1", "", "version"),
    ("[source]", "[[source]]", "TypeError"),
    ("size = 39397", "length = 39397", "size"),
    ("version = 1", "version = ", "TOML"),
    ("version = 1", "version = 1\nversion = 1", "TOML"),
    ("version = 1", 'version = "\x00"', "TOML"),
    ("{language}", "{tongue}", "tongue"),
    ("{language}", "{}", ""),
    ('url = "bundled:mini/{language}.json"', "url = 1", ""),
    ("version = 1", "version = 1\nshared = []", ""),
    ("[files]", "[shared]\nar = 3\n[files]", ""),
    ('[0, "ar:tea-1", "5576dfa4454b5f50"]', '[0, "ar:tea-1"]', "ValueError"),
]


@pytest.mark.parametrize(("old", "new", "phrase"), CONTRADICTIONS)
def test_a_definition_that_contradicts_itself(old: str, new: str, phrase: str, folder: Path) -> None:
    path = folder / "mini.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_task("mini")
    assert str(caught.value).startswith(f"{path}: not a task definition: ") and phrase in str(caught.value)


def test_the_fingerprint_covers_what_decides_the_values() -> None:
    task = load_task("xquad-r")
    ar, de = task.sources["ar"], task.sources["de"]
    same = [{"title": "t"}, {"description": "d"}, {"citation": "c"}, {"measures": ("AP",)}]
    same += [{"sources": {**task.sources, "ar": ar._replace(url="https://mirror.example/ar.json")}}]
    other: list[dict[str, Any]] = [
        *({"version": 2}, {"name": "x"}, {"format": "x"}, {"languages": SEVEN}, {"settings": ("mono",)}),
        {"sources": {**task.sources, "ar": ar._replace(sha256="0" * 64)}},
        {"sources": {**task.sources, "ar": de, "de": ar}},
    ]
    assert {replace(task, **change).sha256 for change in same} == {task.sha256}
    assert len({replace(task, **change).sha256 for change in other} | {task.sha256}) == len(other) + 1


@pytest.mark.parametrize("name", TASKS)
def test_read(name: str, request: pytest.FixtureRequest) -> None:
    task, held = load_task(name), None if name == "mini" else request.getfixturevalue("data")
    collection = readers.check(task, held, offline=True)
    assert readers.read(task, held, offline=True) == collection
    found: dict[tuple[str, str], int] = {}
    for query_id, relevant in collection.qrels.items():
        assert set(relevant.values()) == {1} and (name == "mlqa-r" or len(relevant) == 11)
        for doc_id in relevant:
            pair = query_id.split(":")[0], doc_id.split(":")[0]
            found[pair] = found.get(pair, 0) + 1
    if name == "mlqa-r":
        assert found == PAIRS
        sizes = [len(relevant) for query_id, relevant in collection.qrels.items() if query_id.startswith("en:")]
        assert [sizes.count(n) for n in range(5)] == [0, 0, 65, 263, 820]
    else:
        assert set(found.values()) == {48 if name == "mini" else 1190} and len(found) == 121


GOLDEN: list[tuple[Callable[[Any], dict[str, Any]], str]] = [
    (lambda g: {"queries": [(9, "hi:moon-2", "0" * 16)]}, r"query row 9 is .*, expected \('hi:moon-2', '0{16}'\)"),
    (lambda g: {"queries": [(8, *g.queries[1][1:])]}, "query row 8 is .*hi:moon-1.*hi:moon-2"),
    (lambda g: {"queries": [*g.queries, (48, "hi:x", "")]}, "query row 48"),
    (lambda g: {"passages": [*g.passages[:2], (76, "hi:23.0.1", g.passages[2][2])]}, "passage row 76 is .*hi:23.0.2"),
    (lambda g: {"passages": [(0, "hi:0.0.0", "f" * 16)]}, "passage row 0 is .*f{16}"),
    (lambda g: {"qrels": [("hi:tea-1", "hi:0.0.2")]}, "hi:0.0.2 is not relevant to hi:tea-1"),
    (lambda g: {"qrels": [("hi:tea-9", "hi:0.0.1")]}, "hi:tea-9"),
]


@pytest.mark.parametrize(("change", "phrase"), GOLDEN)
def test_an_altered_golden_row(change: Callable[[Any], dict[str, Any]], phrase: str) -> None:
    task = load_task("mini")
    task = replace(task, golden={**task.golden, "hi": task.golden["hi"]._replace(**change(task.golden["hi"]))})
    assert readers.read(task)
    with pytest.raises(IntegrityError, match=f"^mini/hi: .*{phrase}"):
        readers.check(task)


def test_altered_counts() -> None:
    task = load_task("mini")
    for key, n in task.counts["th"].items():
        counts = {**task.counts, "th": task.counts["th"] | {key: n + 1}}
        with pytest.raises(DataError, match=rf"th\.json: found .*'{key}': {n}\b.*expected .*'{key}': {n + 1}\b"):
            readers.read(replace(task, counts=counts))
    altered = replace(task, shared={**task.shared, "tr": {**task.shared["tr"], "vi": 47}})
    assert readers.read(altered)
    with pytest.raises(DataError, match=r"mini/tr: queries with an answer.*'vi': 48.*expected.*'vi': 47"):
        readers.check(altered)
    with pytest.raises(DataError, match=r"no reader for format 'squad'; known: squad-sentences"):
        readers.read(replace(task, format="squad"))


@pytest.mark.parametrize("how", ["altered", "truncated", "grown", "missing"])
@pytest.mark.parametrize("name", ["mini", "xquad-r"])
def test_a_damaged_source(name: str, how: str, folder: Path, request: pytest.FixtureRequest) -> None:
    held = None
    if name == "xquad-r":
        held, folder = folder.parent / "data", folder.parent / "data"
        (held / name).mkdir(parents=True)
        for language in ELEVEN:
            (held / name / f"{language}.json").symlink_to(request.getfixturevalue("data") / name / f"{language}.json")
    task, path = load_task(name), folder / name / "de.json"
    readers.read(task, held, offline=True)
    content = path.read_bytes()
    path.unlink()
    new = {"altered": content.replace(b'"answer_start": 1', b'"answer_start": 2', 1), "truncated": content[:-1]}
    if how != "missing":
        path.write_bytes(new.get(how, content + b"\n"))
    for call in (readers.read, readers.check):
        with pytest.raises(DataError if how == "missing" else IntegrityError) as caught:
            call(task, held, offline=True)
        message = str(caught.value)
        assert caught.value.exit_code == (3 if how == "missing" else 7)
        assert str(path) in message and task.sources["de"].sha256 in message
        assert how == "missing" or hashlib.sha256(path.read_bytes()).hexdigest() in message


def test_nothing_is_fetched_offline(own_cache: Path) -> None:
    for held in (None, own_cache):
        with pytest.raises(DataError, match=r"ar\.json is missing"):
            readers.read(load_task("xquad-r"), held, offline=True)


@pytest.mark.parametrize("language", ELEVEN)
def test_the_quality_of_mini(language: str) -> None:
    mini = readers.read(load_task("mini"))
    ids = [query.query_id.removeprefix(f"{language}:") for query in mini.queries[language]]
    assert ids == [query.query_id.removeprefix("en:") for query in mini.queries["en"]] and len(set(ids)) >= 40
    sentences = {passage.doc_id: passage.text for passage in mini.passages[language]}
    texts = [*sentences.values(), *(query.text for query in mini.queries[language])]
    assert len(sentences) >= 60 and len(set(texts)) == len(texts)
    articles = json.loads((ROOT / "tasks" / "mini" / f"{language}.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    assert len(paragraphs) >= 20
    for question in (question for paragraph in paragraphs for question in paragraph["qas"]):
        relevant = mini.qrels[f"{language}:{question['id']}"]
        (doc_id,) = (doc_id for doc_id in relevant if doc_id.startswith(f"{language}:"))
        assert question["answers"][0]["text"] in sentences[doc_id]
    letters = [c for c in "".join(texts) if c.isalpha()]
    assert sum(SCRIPTS.get(language, "LATIN") in unicodedata.name(c) for c in letters) > 0.8 * len(letters)
    assert all(text == text.strip() == unicodedata.normalize("NFC", text) for text in texts)
