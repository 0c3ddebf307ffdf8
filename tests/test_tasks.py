"""Task definitions, the sources they promise, and the quality of the bundled task."""

import hashlib
import json
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xbench import readers, tasks
from xbench.catalogue import parse_all
from xbench.errors import DataError, IntegrityError, UsageError
from xbench.records import Cell
from xbench.tasks import load_task, same_task, select, task_names

ROOT = Path(__file__).parent.parent
ELEVEN = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
SEVEN = ("ar", "de", "en", "es", "hi", "vi", "zh")
TASKS = {  # languages, licence, queries, passages
    "mini": (ELEVEN, "CC0-1.0", 528, 847),
    "mlqa-r": (SEVEN, "CC-BY-NC-4.0", 4_199, 20_534),
    "xquad-r": (ELEVEN, "CC-BY-SA-4.0", 13_090, 13_014),
}
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of `tasks/` that the package takes for its own; nothing of it is remembered."""
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks")
    monkeypatch.setattr(tasks, "data_folder", lambda name: tmp_path / name)
    load_task.cache_clear()
    yield tmp_path / "tasks"
    load_task.cache_clear()


@pytest.mark.parametrize("name", task_names())
def test_a_definition(name: str) -> None:
    task = load_task(name)
    letters = re.sub("[^a-z0-9-]", "", task.title.lower())
    assert task.name == name and letters.startswith(name.partition("-")[0][:5]) and len(task.description) > 100
    assert re.search(r"^@(inproceedings|misc|article)\{[\w-]+,$", task.citation, re.M)
    assert task.citation.count("{") == task.citation.count("}") >= 5
    assert task.primary in task.measures and len(parse_all(task.measures)) == len(task.measures)
    assert (task.folder is not None) == (name == "mini") and task.licence
    assert name == "mini" or task.repository.startswith("https://")
    for key, source in task.sources.items():
        assert set(task.file_languages[key]) <= set(task.languages)
        if name == "mini":
            assert source.url == f"bundled:mini/{key}.json"
        elif source.sha256:  # fetched, so from a revision that cannot move
            assert re.fullmatch(r"[0-9a-f]{64}", source.sha256) and source.size > 0
            assert re.fullmatch(r"[0-9a-f]{40}", task.revision)
            assert re.fullmatch(rf"https://[^{{}}]+/{task.revision}/.+", source.url), source.url
        else:
            assert re.fullmatch(r"https://[^{} ]+", source.url), source.url
    # What a result says of a task is enough to find it again.
    assert same_task(json.loads(json.dumps(task.about)), Path("x")) == task


@pytest.mark.parametrize("name", TASKS)
def test_the_tasks_of_lareqa(name: str) -> None:
    task = load_task(name)
    assert (task.version, task.languages, task.licence) == (1, *TASKS[name][:2])
    for language, source in task.sources.items():
        assert (source.task, source.name) == (name, f"{language}.json") and source.size > 20_000


@pytest.mark.parametrize("name", TASKS)
def test_cells_and_sizes(name: str) -> None:
    task, (languages, _, queries, passages) = load_task(name), TASKS[name]
    pairs = [f"cross/{a}-{b}" for a in languages for b in languages if a != b]
    cells = task.cells()
    assert [c.name for c in cells] == [f"mono/{a}" for a in languages] + pairs + [f"multi/{a}" for a in languages]
    assert len(pairs) == {11: 110, 7: 42}[len(languages)]
    assert cells[0] == Cell("mono", "ar", ("ar",)) and cells[-1] == Cell("multi", "zh", languages)
    assert {c.setting for c in replace(task, settings=("multi", "cross")).cells()} == {"cross", "multi"}
    sizes = {setting: [task.size(c) for c in cells if c.setting == setting] for setting in task.settings}
    assert sum(n for n, _ in sizes["mono"]) == sum(n for n, _ in sizes["multi"]) == queries
    assert sum(n for _, n in sizes["mono"]) == passages and {n for _, n in sizes["multi"]} == {passages}
    found = {c.name: task.size(c) for c in cells}
    for a, b in ((a, b) for a in languages for b in languages if a != b):
        expected = PAIRS[a, b] if name == "mlqa-r" else queries // 11
        assert found[f"cross/{a}-{b}"] == (expected, found[f"mono/{b}"][1])


def test_names() -> None:
    assert set(task_names()) > set(TASKS)
    assert [task.name for task in select(["xquad-r", "mini", "xquad-r"])] == ["xquad-r", "mini"]
    for name, nearest in {"xquadr": "xquad-r", "MLQA": "mlqa-r", "minni": "mini", "../mini": "mini"}.items():
        with pytest.raises(UsageError, match=rf"unknown task '{name}'; did you mean [^?]*'{nearest}'.*\? known: "):
            select(["mini", name])
    with pytest.raises(UsageError, match=r"unknown task 'qqqq'; known: .*mini, .*mlqa-r, .*xquad-r"):
        load_task("qqqq")
    with pytest.raises(UsageError, match="no task given; choose from: .*mini, .*mlqa-r, .*xquad-r"):
        select([])


CONTRADICTIONS = [
    ('name = "mini"', 'name = "mimi"', "'mimi' in a file called mini.toml"),
    ("\nzh = { q", "\nzz = { q", "exactly the languages"),
    ("[golden.zh]", "[golden.zz]", "[golden] names ['zz']"),
    ('"ar", "de"', '"ar", "ar", "de"', ""),
    ('"cross"', '"crosss"', "crosss"),
    ("version = 1", "version = 1\ncolour = 1", "colour"),
    ("version = 1", "", "version"),
    ("version = 1", "version = 1\nversion = 1", "TOML"),
    ("{key}", "{tongue}", "tongue"),
    ("{key}", "{}", ""),
    ('url = "bundled:mini/{key}.json"', "url = 1", ""),
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
    (part,) = readers.check(task, held, offline=True)
    collection = part.collection
    assert readers.read(task, held, offline=True) == collection
    assert {grade for relevant in collection.qrels.values() for grade in relevant.values()} == {1}
    found = Counter((q.split(":")[0], d.split(":")[0]) for q, relevant in collection.qrels.items() for d in relevant)
    sizes = Counter(len(relevant) for query_id, relevant in collection.qrels.items() if query_id.startswith("en:"))
    if name == "mlqa-r":
        assert found == PAIRS and sizes == {2: 65, 3: 263, 4: 820}
    else:
        assert len(found) == 121 and set(found.values()) == set(sizes.values()) and list(sizes) == [11]


GOLDEN: list[tuple[Callable[[Any], dict[str, Any]], str]] = [
    (lambda g: {"queries": [(9, "hi:moon-2", "0" * 16)]}, r"query row 9 is .*, expected \('hi:moon-2', '0{16}'\)"),
    (lambda g: {"queries": [*g.queries, (48, "hi:x", "")]}, "query row 48"),
    (lambda g: {"passages": [*g.passages[:2], (76, "hi:23.0.1", g.passages[2][2])]}, "passage row 76 is .*hi:23.0.2"),
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
    with pytest.raises(DataError, match=r"mini/tr: queries with an answer.*'vi': 48.*expected.*'vi': 47"):
        readers.check(altered)
    with pytest.raises(DataError, match=r"no reader for format 'squad'; known: .*squad-sentences"):
        readers.read(replace(task, format="squad"))


@pytest.mark.parametrize("how", ["altered", "truncated", "grown", "missing"])
@pytest.mark.parametrize("bundled", [True, False])
def test_a_damaged_source(bundled: bool, how: str, folder: Path) -> None:
    task, path = load_task("mini"), folder / "mini" / "de.json"
    task, held = (task, None) if bundled else (replace(task, folder=None), folder)
    assert readers.read(task, held, offline=True)
    content = path.read_bytes()
    path.unlink()
    new = {"altered": content.replace(b'"answer_start": 1', b'"answer_start": 2', 1), "truncated": content[:-1]}
    if how != "missing":
        path.write_bytes(new.get(how, content + b"\n"))
    for call in (readers.read, readers.check):
        with pytest.raises(DataError if how == "missing" else IntegrityError) as caught:
            call(task, held, offline=True)
        message, code = str(caught.value), caught.value.exit_code
        assert code == (3 if how == "missing" else 7) and str(path) in message and task.sources["de"].sha256 in message
        assert how == "missing" or hashlib.sha256(path.read_bytes()).hexdigest() in message


@pytest.mark.parametrize("language", ELEVEN)
def test_the_quality_of_mini(language: str) -> None:
    mini = readers.read(load_task("mini"))
    ids, english = ([q.query_id.split(":")[1] for q in mini.queries[a]] for a in (language, "en"))
    assert ids == english and len(set(ids)) >= 40
    sentences = {passage.doc_id: passage.text for passage in mini.passages[language]}
    texts = [row.text for row in mini.passages[language] + mini.queries[language]]
    assert len(sentences) >= 60 and len(set(texts)) == len(texts)
    articles = json.loads((ROOT / "tasks" / "mini" / f"{language}.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    assert len(paragraphs) >= 20
    for question in (question for paragraph in paragraphs for question in paragraph["qas"]):
        (doc_id,) = mini.qrels[f"{language}:{question['id']}"].keys() & sentences.keys()
        assert question["answers"][0]["text"] in sentences[doc_id]
    letters = [c for c in "".join(texts) if c.isalpha()]
    assert sum(SCRIPTS.get(language, "LATIN") in unicodedata.name(c) for c in letters) > 0.8 * len(letters)
    assert all(text == text.strip() == unicodedata.normalize("NFC", text) for text in texts)
