"""Tasks of one's own: layouts, what a judgement means, the definition, and the same values as by other ways."""

import gzip
import hashlib
import json
import os
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own import HEADER, beir, error, jsonl, run, tiny, tsv

from xbench import readers
from xbench.errors import DataError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.own import new
from xbench.records import Collection, Corpus, Passage, Query
from xbench.task import Task, vary
from xbench.tasks import load_task, read_definition, same_task

MINI = load_task("mini")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(folder: Path | str, *options: str, name: str = "my") -> Task:
    assert run("tasks", "new", name, "--from", folder, "--force", *options) == 0
    task = read_definition(Path(f"{name}.toml"))
    readers.check(task)
    return task


def collection(task: Task) -> Collection:
    return readers.read(task)


def ids(task: Task) -> dict[str, dict[str, int]]:
    return collection(task).qrels


def test_beir_as_beir_reads_it(here: Path) -> None:
    """As BEIR's GenericDataLoader (beir/datasets/data_loader.py), written out."""
    jsonl(
        here / "d" / "corpus.jsonl",
        [
            {"_id": "d1", "title": "Tea", "text": "is green.", "metadata": {"url": "x"}},
            {"_id": "d2", "title": "", "text": " Coffee\u2028is brown. "},
            {"_id": "d3", "title": "Milk", "text": ""},
            {"_id": "NA", "title": " ", "text": "nothing"},
        ],
    )
    jsonl(here / "d" / "queries.jsonl", [{"_id": i, "text": f" text {i} "} for i in ("q3", "q1", "q2", "q4")])
    tsv(here / "d" / "qrels" / "test.tsv", [HEADER, ("q1", "d1", 2), ("q3", "d3", 1), ("q3", "NA", 0), ("q2", "d2", 0)])
    tsv(here / "d" / "qrels" / "dev.tsv", [HEADER, ("q4", "d1", 1)])
    corpus: dict[str, dict[str, Any]] = {}
    for line in (here / "d" / "corpus.jsonl").read_text().split("\n")[:-1]:
        row = json.loads(line)
        corpus[row.get("_id")] = {"text": row.get("text"), "title": row.get("title")}
    queries = {}
    for line in (here / "d" / "queries.jsonl").read_text().split("\n")[:-1]:
        row = json.loads(line)
        queries[row.get("_id")] = row.get("text")
    qrels: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (here / "d" / "qrels" / "test.tsv").read_text().split("\n")[1:-1]:
        query, doc, score = line.split("\t")
        qrels[query][doc] = int(score)
    task = make("d", "--language", "de")
    found = collection(task)
    # BEIR's models get (title + sep + text).strip(), its evaluation the queries that the qrels have.
    assert found.passages["de"] == [Passage(f"de:{i}", f"{d['title']} {d['text']}".strip()) for i, d in corpus.items()]
    relevant = [i for i in queries if any(grade > 0 for grade in qrels.get(i, {}).values())]
    assert found.queries["de"] == [Query(f"de:{i}", queries[i]) for i in relevant] and relevant == ["q3", "q1"]
    assert found.qrels == {f"de:{i}": {f"de:{d}": g for d, g in qrels[i].items()} for i in relevant}
    assert task.counts["de"] == {
        "queries": 2, "passages": 4, "copies": 0, "duplicates": 0, "irrelevant": 1, "judgements": 3, "unjudged": 1
    }  # fmt: skip
    other = make("d", "--language", "de", "--split", "dev", name="other")
    assert ids(other) == {"de:q4": {"de:d1": 1}} and other.sha256 != task.sha256


@pytest.fixture
def mini(here: Path) -> Path:
    """The bundled task as eleven BEIR folders."""
    found = readers.read(MINI)
    for a in MINI.languages:
        rows = {
            role: [(row[0].partition(":")[2], row[1]) for row in found.rows(role)[a]]
            for role in ("queries", "passages")
        }
        own = [
            (q, d.partition(":")[2], 1)
            for q, _ in rows["queries"]
            for d in found.qrels[f"{a}:{q}"]
            if d.startswith(f"{a}:")
        ]
        beir(here / "mini-beir" / a, dict(rows["passages"]), dict(rows["queries"]), own)
    return here / "mini-beir"


def test_mini_as_beir_folders(mini: Path, own_cache: Path) -> None:
    """The same texts and judgements by another reader: the same value of every query, in all 132 cells."""
    task = make(mini, "--parallel")
    own, bundled = collection(task), readers.read(MINI)
    assert own._replace(clusters=bundled.clusters) == bundled
    assert [c.name for c in task.cells()] == [c.name for c in MINI.cells()] and task.shared == MINI.shared
    assert [task.size(c) for c in task.cells()] == [MINI.size(c) for c in MINI.cells()]
    results = [evaluate(load("hash"), t, ["AP", "nDCG@10", "RankDistance"], plan=Plan(own_cache)) for t in (task, MINI)]
    for one, other in zip(results[0].cells, results[1].cells, strict=True):
        assert one.cell == other.cell and one.values == other.values and one.query_ids == other.query_ids
        assert all((one.per_query[m] == other.per_query[m]).all() for m in ("AP", "nDCG@10"))
    some = vary(task, languages=["th", "de"])
    assert set(some.sources) >= {"passages/de", "passages/th"} and "passages/ar" not in some.sources
    readers.check(some)


def test_the_definition(mini: Path, here: Path) -> None:
    task = make(mini, "--parallel", "-m", "AP", "-m", "nDCG@10", "--languages", "de,en")
    content = (here / "my.toml").read_bytes()
    raw = tomllib.loads(content.decode())
    assert raw["source"]["at"] == "mini-beir" and raw["measures"] == ["AP", "nDCG@10"] and raw["primary"] == "AP"
    path = mini / "de" / "corpus.jsonl"
    assert raw["files"]["passages/de"] == {
        "name": "de/corpus.jsonl",
        "languages": ["de"],
        "size": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert raw["golden"]["de"] == {
        what: [list(r) for r in getattr(MINI.golden["de"], what)] for what in ("queries", "passages", "qrels")
    }
    assert task.languages == ("de", "en") and {c.setting for c in task.cells()} == {"mono", "cross", "multi"}
    make(mini, "--parallel", "-m", "AP", "-m", "nDCG@10", "--languages", "de,en")
    assert (here / "my.toml").read_bytes() == content
    # From elsewhere the folder is named in full; the task is the same.
    (here / "sub").mkdir()
    assert (
        run(
            "tasks",
            "new",
            "my",
            "--from",
            mini,
            "--parallel",
            "-m",
            "AP",
            "-m",
            "nDCG@10",
            "--languages",
            "de,en",
            "-o",
            "sub/my.toml",
        )
        == 0
    )
    there = read_definition(Path("sub/my.toml"))
    assert Path(str(there.folder)) == mini.resolve() and there.sha256 == task.sha256
    os.rename(mini, here / "gone")
    with pytest.raises(DataError, match="is missing or not a file"):
        readers.check(task)


def test_a_changed_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tiny(here / "d"), "--language", "en")
    with (here / "d" / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "d4", "text": "Wine is red."}\n')
    said = error(capsys, 7, "run", "hash", "-t", "my.toml")
    assert "d/corpus.jsonl: found" in said and "xbench tasks new" in said and "delete" not in said
    (here / "d" / "corpus.jsonl").unlink()
    said = error(capsys, 3, "data", "verify", "my.toml")
    assert "d/corpus.jsonl is missing" in said and "put the file back" in said


def test_results_find_their_task_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = make(tiny(here / "d"), "--language", "en")
    for model in ("hash", "canary:random"):
        assert run("run", model, "-t", "my.toml", "-o", "out") == 0
    first, second = sorted((here / "out").glob("*/my.json"))
    content = json.loads(second.read_text())
    assert content["command"] == "xbench run hash -t my.toml" and content["task"]["sha256"] == task.sha256
    assert "say -t my.toml" in error(capsys, 2, "export", str(second))
    assert run("export", second, "-t", "my.toml") == 0
    assert (second.parent / "my.mono.en.qrels.trec").read_text() == "en:q1 0 en:d1 1\nen:q2 0 en:d3 1\n"
    run_file = second.parent / "my.mono.en.run.trec"
    assert run("score", run_file, "-t", "my.toml", "-o", "scored") == 0
    (scored,) = (here / "scored").glob("*/my.json")
    assert json.loads(scored.read_text())["cells"][0]["values"] == content["cells"][0]["values"]
    assert "say -t my.toml" in error(capsys, 2, "compare", first, second)
    assert run("compare", first, second, "-t", "my.toml") == 0
    assert same_task(content["task"], second, "my.toml") == task
    # Another task under the same name is refused.
    (here / "d" / "queries.jsonl").write_text('{"_id": "q1", "text": "tea"}\n{"_id": "q2", "text": "milk"}\n')
    make(here / "d", "--language", "en")
    assert "evaluate again" in error(capsys, 7, "export", second, "-t", "my.toml")
    make(here / "d", "--language", "en", name="other")
    assert "made on my, not on other.toml" in error(capsys, 2, "export", second, "-t", "other.toml")


def test_usage(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(here / "d")
    start = ("tasks", "new", "my", "--from", "d")
    for arguments, phrase in {
        start: "which language are corpus.jsonl and queries.jsonl in? say --language L",
        ("tasks", "new", "mini", "--from", "d", "--language", "en"): "the name of a task that xbench has",
        ("tasks", "new", "a/../b", "--from", "d", "--language", "en"): "expected letters, digits",
        (*start, "--language", "en", "-o", "x.toml"): "expected a file called my.toml",
        (*start, "--language", "e:n"): "language 'e:n': expected letters and digits",
        (*start, "--language", "en", "--settings", "multi"): "no query has a relevant passage in setting 'multi'",
        (*start, "--language", "en", "--settings", "double"): "setting 'double'; known",
        (*start, "--language", "en", "-m", "P(rel=2)@5"): "is for runs only",
        (*start, "--language", "en", "--pairs", "query-passage"): "is of no pair of languages",
        ("tasks", "new", "my", "--from", "none", "--language", "en"): "no such folder",
        ("run", "hash", "-t", "none.toml"): "none.toml: no such file",
        ("tasks", "none.toml"): "none.toml: no such file",
        ("tasks", "none"): "unknown task 'none'",
    }.items():
        assert phrase in error(capsys, 2, *arguments), arguments
    assert not list(here.glob("*.toml"))
    assert "split 'dev'" in error(capsys, 3, *start, "--language", "en", "--split", "dev")
    make("d", "--language", "en")
    assert "--force replaces it" in error(capsys, 2, *start, "--language", "en")
    (here / "two").mkdir()
    (here / "two" / "my.toml").write_bytes((here / "my.toml").read_bytes())
    assert "a second task called 'my'" in error(capsys, 2, "run", "hash", "-t", "my.toml", "-t", "two/my.toml")


@pytest.mark.parametrize(
    ("old", "new_", "code", "phrase"),
    [
        ('name = "corpus.jsonl"', 'name = "../d/corpus.jsonl"', 3, "leads out of the folder"),
        ('name = "corpus.jsonl"', 'name = "/etc/passwd"', 3, "leads out of the folder"),
        ('name = "my"', 'name = "mine"', 3, "in a file called my.toml"),
        ("queries = 2", "queries = 3", 3, "expected {'queries': 3"),
        ('split = "test"', 'splitt = "test"', 3, "unknown [options] ['splitt']"),
        ('split = "test"', 'split = "test"\ndangling = 1', 3, "every judged passage is there"),
        ('[0, "en:q1"', '[0, "en:q2"', 7, "query row 0 is"),
        ('format = "records"', 'format = "recordz"', 3, "no reader for format"),
    ],
)
def test_a_definition_changed_by_hand(
    old: str, new_: str, code: int, phrase: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tiny(here / "d"), "--language", "en")
    text = (here / "my.toml").read_text()
    assert text.count(old) == 1
    (here / "my.toml").write_text(text.replace(old, new_))
    assert phrase in error(capsys, code, "data", "verify", "my.toml")


def test_ir_datasets_and_trec(here: Path) -> None:
    """Tab-separated texts without a header, TREC's qrels, packed files, several files of one role."""
    for a, green in (("de", "grün"), ("en", "green")):
        folder = here / "d" / a
        folder.mkdir(parents=True)
        (folder / "docs-0.tsv.gz").write_bytes(gzip.compress(f"1\t{green}\n2\tb\n".encode()))
        tsv(folder / "docs-1.tsv", [("3", "c")])
        tsv(folder / "queries.tsv", [("1", "q")])
        (folder / "qrels.txt").write_text("1 0 3 1\n1 0 1 2\n")
    jsonl(here / "d" / "notes.jsonl", [{"a": 1}])
    task = make("d")
    found = collection(task)
    assert found.passages["de"] == [Passage("de:1", "grün"), Passage("de:2", "b"), Passage("de:3", "c")]
    assert found.qrels == {"de:1": {"de:3": 1, "de:1": 2}, "en:1": {"en:3": 1, "en:1": 2}}
    # Equal ids are nothing in common, unless that is said.
    assert not task.parallel and {c.setting for c in task.cells()} == {"mono", "multi"}
    parallel = make("d", "--parallel")
    assert ids(parallel)["de:1"] == {"de:3": 1, "de:1": 2, "en:3": 1, "en:1": 2}
    # With a header, and as a table whose rows say their language.
    tsv(
        here / "e" / "docs.tsv",
        [("doc_id", "text", "language"), ("1", "grün", "de"), ("1", "green", "en"), ("2", "b", "en")],
    )
    tsv(here / "e" / "queries.tsv", [("query_id", "text", "lang"), ("1", "q", "de"), ("2", "q", "en")])
    (here / "e" / "qrels.txt").write_text("1 0 en:1 1\n2 0 2 1\nde:1 0 de:1 1\n")
    task = make("e", "--languages", "de,en")
    assert ids(task) == {"de:1": {"en:1": 1, "de:1": 1}, "en:2": {"en:2": 1}}
    assert task.cross == (("de", "en"),) and task.size(task.cells()[1]) == (1, 2)
    assert run("run", "hash", "-t", "my.toml") == 0


def test_what_an_id_means(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A qrels file of all languages: ids of one language are plain, those of several are not."""
    for a in ("de", "en", "fr"):
        jsonl(here / "d" / f"corpus.{a}.jsonl", [{"_id": "same", "text": f"same {a}"}, {"_id": f"only-{a}", "text": a}])
        jsonl(
            here / "d" / f"queries.{a}.jsonl", [{"_id": "q", "text": f"q {a}"}, {"_id": f"q-{a}", "text": f"other {a}"}]
        )
    qrels = here / "d" / "qrels.txt"
    qrels.write_text("q-de 0 only-de 1\nq-de 0 only-en 1\nq-fr 0 en:same 1\nen:q 0 only-fr 1\n")
    task = make("d")
    assert ids(task) == {
        "de:q-de": {"de:only-de": 1, "en:only-en": 1}, "fr:q-fr": {"en:same": 1}, "en:q": {"fr:only-fr": 1}
    }  # fmt: skip
    assert task.cross == (("de", "en"), ("en", "fr"), ("fr", "en"))
    assert [task.size(c)[0] for c in task.cells() if c.setting == "mono"] == [1, 0, 0]
    assert run("run", "hash", "-t", "my.toml") == 0
    values = {
        c["query_language"]: c["queries"]
        for c in json.loads(next((here / "results").glob("*/my.json")).read_text())["cells"]
        if c["setting"] == "mono"
    }
    assert values == {"de": 1, "en": 0, "fr": 0}
    readers.check(vary(task, languages=["de", "en"]))
    for line in ("q-de 0 same 1", "q 0 only-de 1"):
        qrels.write_text(f"q-de 0 only-de 1\n{line}\n")
        said = error(capsys, 3, "tasks", "new", "my", "--from", "d", "--force")
        assert said.startswith("xbench: d/qrels.txt:2: id ") and "is one of de, en, fr" in said
    qrels.write_text("q 0 same 2\nq-de 0 only-de 1\nde:q 0 only-de 1\n")
    assert ids(make("d", "--parallel")) == {
        "de:q": {"de:same": 2, "en:same": 2, "fr:same": 2, "de:only-de": 1},
        "en:q": {"de:same": 2, "en:same": 2, "fr:same": 2},
        "fr:q": {"de:same": 2, "en:same": 2, "fr:same": 2},
        "de:q-de": {"de:only-de": 1},
    }
    qrels.write_text("q 0 same 2\nde:q 0 en:same 1\n")
    assert "en:same has grade 1" in error(capsys, 3, "tasks", "new", "my", "--from", "d", "--force", "--parallel")


def test_translated_questions(here: Path) -> None:
    """A question that its own qrels do not answer: its translation's passage is relevant to it, and it is counted."""
    for a, pairs in {
        "de": [("q1", "d1", 1)],
        "en": [("q1", "d2", 1), ("q2", "d1", 1)],
        "fr": [("q2", "d1", 0)],
    }.items():
        beir(
            here / "d" / a,
            {"d1": f"one {a}", "d2": f"two {a}"},
            {"q1": f"a {a}", "q2": f"b {a}", "q3": f"c {a}"},
            pairs,
        )
    task = make("d", "--parallel")
    assert ids(task) == {
        "de:q1": {"de:d1": 1, "en:d2": 1}, "de:q2": {"en:d1": 1, "fr:d1": 0},
        "en:q1": {"de:d1": 1, "en:d2": 1}, "en:q2": {"en:d1": 1, "fr:d1": 0},
        "fr:q1": {"de:d1": 1, "en:d2": 1}, "fr:q2": {"en:d1": 1, "fr:d1": 0},
    }  # fmt: skip
    assert {a: task.counts[a]["unjudged"] for a in task.languages} == {"de": 1, "en": 1, "fr": 1}
    assert task.shared["fr"] == {"de": 1, "en": 2, "fr": 0} and ("de", "fr") not in (task.cross or ())
    # In some of the languages the counts are the same, though the passages are in the others.
    readers.check(vary(task, languages=["de", "fr"]))
    assert collection(vary(task, languages=["de", "fr"])).qrels["fr:q2"] == {"fr:d1": 0}


def test_what_is_left_out_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beir(
        here / "d",
        {"d1": "same", "d2": "same", "d3": " ", "q1": "Is it so?", "d5": "b"},
        {"q1": "Is it so?", "q2": "b"},
        [("q1", "d1", 1), ("q1", "gone", 1), ("q2", "d2", 1)],
    )
    start = ("tasks", "new", "my", "--from", "d", "--language", "en")
    assert "corpus.jsonl:3: passage 'd3' has no text" in error(capsys, 3, *start)
    said = error(capsys, 3, *start, "--empty", "leave-out")
    assert "qrels/test.tsv:3: passage 'gone': judged, but in no file" in said and "--dangling" in said
    assert "qrels/test.tsv:3" in error(capsys, 3, *start, "--empty", "leave-out", "--dangling", "2")
    start = (*start, "--empty", "leave-out", "--dangling", "1")
    assert "queries.jsonl:1: query 'q1' is itself a passage of the pool" in error(capsys, 3, *start)
    task = make("d", *start[5:], "--self", "keep")
    assert task.counts["en"] == {
        "queries": 2, "passages": 4, "copies": 1, "duplicates": 1, "empty": 1, "irrelevant": 0, "judgements": 3,
        "self": 1, "unjudged": 0,
    }  # fmt: skip
    assert task.options == {"split": "test", "empty": "leave out", "dangling": 1, "self": "keep"}
    # A title that is a passage's whole difference from the query does not hide it (ArguAna).
    jsonl(here / "e" / "corpus.jsonl", [{"_id": "q1", "title": "On", "text": "Is it so?"}, {"_id": "d1", "text": "a"}])
    jsonl(here / "e" / "queries.jsonl", [{"_id": "q1", "text": "Is it so?"}])
    tsv(here / "e" / "qrels" / "test.tsv", [HEADER, ("q1", "d1", 1)])
    assert "is itself a passage" in error(capsys, 3, "tasks", "new", "my", "--from", "e", "--language", "en", "--force")


def test_queries_of_several_languages_and_passages_of_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for a in ("de", "fr"):
        jsonl(here / "d" / f"queries.{a}.jsonl", [{"_id": f"{a}1", "text": f"frage {a}"}])
    jsonl(here / "d" / "docs.jsonl", [{"doc_id": "x", "text": "an answer"}, {"doc_id": "y", "text": "another"}])
    (here / "d" / "qrels.txt").write_text("de1 0 x 1\nfr1 0 y 1\n")
    assert "which language are docs.jsonl in?" in error(capsys, 2, "tasks", "new", "my", "--from", "d")
    task = make("d", "--passages-in", "en")
    assert task.query_languages == ("de", "fr") and task.passage_languages == ("en",)
    assert [c.name for c in task.cells()] == ["cross/de-en", "cross/fr-en"] and ids(task)["de:de1"] == {"en:x": 1}
    assert run("run", "hash", "-t", "my.toml") == 0


def test_translated_queries_and_passages_of_one_language(here: Path) -> None:
    """The judgements of one language's questions hold for all, also where that language is not asked for."""
    for a, pairs in {"de": [("q1", "x", 1)], "fr": [("q2", "y", 1)]}.items():
        jsonl(here / "d" / f"queries.{a}.jsonl", [{"_id": f"q{i}", "text": f"{i} {a}"} for i in (1, 2)])
        tsv(here / "d" / f"qrels.{a}.tsv", [HEADER, *pairs])
    jsonl(here / "d" / "docs.en.jsonl", [{"_id": i, "text": i} for i in "xyz"])
    task = make("d", "--parallel")
    grades = {f"{a}:{q}": {f"en:{d}": 1} for a in ("de", "fr") for q, d in (("q1", "x"), ("q2", "y"))}
    assert ids(task) == grades and task.counts["de"]["judgements"] == 1
    readers.check(vary(task, languages=["fr", "en"]))
    assert ids(vary(task, languages=["fr", "en"])) == {q: some for q, some in grades.items() if q[:2] == "fr"}


def test_a_corpus_too_large_to_hold(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "LARGE", 20)
    folder = here / "d"
    rows = [{"_id": f"d{i}", "title": f"t{i}", "text": f"text {i}"} for i in range(30)]
    jsonl(folder / "corpus" / "part-0.jsonl", rows[:12])
    jsonl(folder / "corpus" / "part-1.jsonl", [*rows[12:], {"_id": "d30", "text": ""}])
    jsonl(folder / "queries.jsonl", [{"_id": "q1", "text": "text 7"}, {"_id": "q2", "text": "text 29"}])
    tsv(folder / "qrels" / "test.tsv", [HEADER, ("q1", "d7", 1), ("q2", "d29", 1)])
    start = ("tasks", "new", "my", "--from", "d", "--language", "en", "--force")
    assert "corpus/part-1.jsonl:19: passage 'd30' has no text" in error(capsys, 3, *start)
    task = make(folder, "--language", "en", "--empty", "leave-out")
    assert task.options["large"] and task.counts["en"]["passages"] == 30
    found = collection(task)
    corpus = found.large["en"]
    assert isinstance(corpus, Corpus) and found.passages == {} and len(corpus) == 30
    assert corpus.form == "records 1 en without empty"
    assert list(corpus) == [Passage(f"en:{r['_id']}", f"{r['title']} {r['text']}") for r in rows]
    assert [f.sha256 for f in corpus.files] == [
        hashlib.sha256((folder / "corpus" / f"part-{i}.jsonl").read_bytes()).hexdigest() for i in (0, 1)
    ]
    assert found.qrels == {"en:q1": {"en:d7": 1}, "en:q2": {"en:d29": 1}}
    # All checks hold that those of a small corpus are.
    tsv(folder / "qrels" / "test.tsv", [HEADER, ("q1", "d7", 1), ("q2", "d31", 1)])
    assert "qrels/test.tsv:3: passage 'd31': judged, but in no file" in error(capsys, 3, *start, "--empty", "leave-out")
    tsv(folder / "qrels" / "test.tsv", [HEADER, ("q1", "d7", 1)])
    jsonl(folder / "corpus" / "part-1.jsonl", [*rows[12:], rows[3]])
    assert "part-1.jsonl:19: passage id 'd3' for the second time, first in line 4 of part-0.jsonl" in error(
        capsys, 3, *start
    )
    # Two languages: where an id could be of either, evaluation could not tell without looking into the corpus.
    for a in ("de", "en"):
        beir(here / "two" / a, {f"{a}{i}": f"{a} {i}" for i in range(25)}, {f"q-{a}": f"q {a}"}, [])
        (here / "two" / a / "qrels" / "test.tsv").unlink()
    (here / "two" / "qrels.txt").write_text("q-de 0 de3 1\nq-en 0 de4 1\n")
    assert "the language of a judged passage must be plain" in error(capsys, 3, *start[:4], "two", "--force")
    (here / "two" / "qrels.txt").write_text("q-de 0 de:de3 1\nq-en 0 de:de4 1\n")
    two = make("two")
    assert ids(two) == {"de:q-de": {"de:de3": 1}, "en:q-en": {"de:de4": 1}}
    assert set(collection(two).large) == {"de", "en"}


def test_a_large_corpus_of_several_languages_in_one_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "LARGE", 5)
    rows = [{"id": f"d{i}", "text": f"{a} {i}", "language": a} for i in range(4) for a in ("de", "en")]
    jsonl(here / "d" / "corpus.jsonl", rows)
    jsonl(here / "d" / "queries.jsonl", [{"id": "q", "text": f"q {a}", "language": a} for a in ("de", "en")])
    (here / "d" / "qrels.txt").write_text("de:q 0 de:d1 1\nen:q 0 de:d2 1\n")
    corpora = collection(make("d", "--languages", "de,en")).large
    for a in ("de", "en"):
        assert list(corpora[a]) == [Passage(f"{a}:d{i}", f"{a} {i}") for i in range(4)] and len(corpora[a]) == 4
    assert {c.form for c in corpora.values()} == {"records 1 de of several", "records 1 en of several"}


# MTEB's layout.

CARD = """---
license: cc-by-4.0
configs:
{configs}---
# A dataset
"""


def card(folder: Path, configs: dict[str, dict[str, str]]) -> None:
    lines = [
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: {p}\n" for s, p in splits.items())
        for name, splits in configs.items()
    ]
    (folder / "README.md").write_text(CARD.format(configs="".join(lines)))


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name.replace("__", "-"): column for name, column in columns.items()}), path)
    return path


@pytest.fixture
def mteb(here: Path) -> Path:
    """A dataset of two languages with subsets, one file in two, whole-number ids."""
    folder = here / "snapshot"
    configs: dict[str, dict[str, str]] = {}
    for a in ("de", "no"):
        parquet(
            folder / f"{a}-corpus/test-00000-of-00002.parquet",
            _id=["d1", "d2"],
            title=["Tee", ""],
            text=["grün", f"b {a}"],
        )
        parquet(
            folder / f"{a}-corpus/test-00001-of-00002.parquet",
            _id=["d3"],
            title=[
                "",
            ],
            text=[f"c {a}"],
        )
        parquet(folder / f"{a}-queries/queries.parquet", _id=[1, 2, 3], text=[f"q{i} {a}" for i in (1, 2, 3)])
        parquet(
            folder / f"{a}-qrels/test.parquet",
            query__id=[1, 2, 2],
            corpus__id=["d3", "d1", "d2"],
            score=[1.0, 2.0, 0.0],
        )
        parquet(folder / f"{a}-qrels/dev.parquet", query__id=[3], corpus__id=["d3"], score=[1.0])
        configs[f"{a}-corpus"] = {"test": f"{a}-corpus/test-*"}
        configs[f"{a}-queries"] = {"queries": f"{a}-queries/*.parquet"}
        configs[f"{a}-qrels"] = {"test": f"{a}-qrels/test.parquet", "dev": f"{a}-qrels/dev.parquet"}
        configs[f"{a}-top_ranked"] = {"test": f"{a}-qrels/test.parquet"}
    card(folder, configs)
    return folder


def test_mteb_as_its_loader_reads_it(mteb: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As mteb/abstasks/retrieval_dataset_loaders.py, with Hugging Face's own reading of the card and the files."""
    datasets = pytest.importorskip("datasets")
    task = make(mteb)
    assert task.languages == ("de", "no") and task.licence == "cc-by-4.0"
    found = collection(task)
    cache = str(tmp_path_factory.mktemp("hf"))

    def rows(config: str, split: str) -> list[dict[str, Any]]:
        names = datasets.get_dataset_split_names(str(mteb), config)
        taken = split if split in names else names[0] if len(names) == 1 else None
        return list(datasets.load_dataset(str(mteb), config, split=taken, cache_dir=cache))

    for a in task.languages:
        qrels: dict[str, dict[str, int]] = defaultdict(dict)
        for row in rows(f"{a}-qrels", "test"):
            qrels[str(row["query-id"])][str(row["corpus-id"])] = int(row["score"])
        queries = {str(r["_id"]): r["text"] for r in rows(f"{a}-queries", "test") if str(r["_id"]) in qrels}
        corpus = {
            str(r["_id"]): (r["title"] + " " + r["text"]).strip() if r["title"] else r["text"].strip()
            for r in rows(f"{a}-corpus", "test")
        }
        assert found.passages[a] == [Passage(f"{a}:{i}", text) for i, text in corpus.items()]
        assert found.queries[a] == [Query(f"{a}:{i}", text) for i, text in queries.items()] and len(queries) == 2
        assert {i: found.qrels[f"{a}:{i}"] for i in queries} == {
            i: {f"{a}:{d}": g for d, g in some.items()} for i, some in qrels.items()
        }
    assert ids(make(mteb, "--split", "dev")) == {"de:3": {"de:d3": 1}, "no:3": {"no:d3": 1}}
    # A snapshot in the hub's cache is links to blobs; and without the card, names tell the same.
    links = mteb.parent / "links"
    for path in sorted(mteb.rglob("*.*")):
        (links / path.relative_to(mteb)).parent.mkdir(parents=True, exist_ok=True)
        (links / path.relative_to(mteb)).symlink_to(path)
    same = make(links, name="linked")
    assert [s.sha256 for s in same.sources.values()] == [s.sha256 for s in task.sources.values()]
    (mteb / "README.md").unlink()
    assert collection(make(mteb, name="bare")) == found


def test_mteb_with_one_language(here: Path) -> None:
    """`default` or `qrels` are the qrels, `query` goes before `queries`."""
    folder = here / "s"
    parquet(folder / "corpus.parquet", id=["d1", "d2"], text=["a", "b"])
    parquet(folder / "q.parquet", id=["q1"], text=["wanted"])
    parquet(folder / "other.parquet", id=["q1"], text=["other"])
    parquet(folder / "rel.parquet", query__id=["q1"], corpus__id=["d2"], score=[1])
    base = {
        "corpus": {"corpus": "corpus.parquet"},
        "query": {"query": "q.parquet"},
        "queries": {"queries": "other.parquet"},
    }
    for name in ("default", "qrels"):
        card(folder, base | {name: {"test": "rel.parquet"}})
        found = collection(make(folder, "--language", "ru"))
        assert found.queries["ru"] == [Query("ru:q1", "wanted")] and found.qrels == {"ru:q1": {"ru:d2": 1}}


def test_pairs_of_languages(here: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Subsets such as `ar-de`: each a cell with a pool of its own, and which side is which must be said."""
    folder = here / "s"
    configs: dict[str, dict[str, str]] = {}

    def parts(*names: str) -> None:
        for part in names:
            parquet(folder / part / "c.parquet", id=["d1", "d2"], text=[f"tea {part}", f"milk {part}"])
            parquet(folder / part / "q.parquet", id=["q1", "q2"], text=[f"tea? {part}", f"milk? {part}"])
            parquet(folder / part / "r.parquet", query__id=["q1", "q2"], corpus__id=["d1", "d2"], score=[1, 1])
            for what, file in {"corpus": "c", "queries": "q", "qrels": "r"}.items():
                configs[f"{part}-{what}"] = {"test": f"{part}/{file}.parquet"}
        card(folder, configs)

    parts("ar-de", "de-ar", "de-de")
    said = error(capsys, 2, "tasks", "new", "my", "--from", "s", "--pairs", "query-passage")
    assert "subsets of one language are there for 'de', but not for 'ar'" in said
    parts("ar-ar")
    for pairs, query in (("query-passage", "ar"), ("passage-query", "de")):
        task = make(folder, "--pairs", pairs)
        assert [c.name for c in task.cells()] == [
            "mono/ar",
            "mono/de",
            "cross/ar-de",
            "cross/de-ar",
        ] and task.pools == "cell"
        part = next(
            p for p in readers.parts(task) if p.cells[0].name == f"cross/{query}-{'de' if query == 'ar' else 'ar'}"
        )
        assert part.collection.queries[query][0].text == "tea? ar-de"
    result = evaluate(load("hash"), task, ["AP"], plan=Plan(own_cache))
    assert [c.values["AP"] for c in result.cells] == [1.0] * 4
    mono = vary(task, settings=["mono"])
    assert [part.cells[0].name for part in readers.check(mono)] == list(mono.counts) == ["mono/ar", "mono/de"]
    cross = make(folder, "--pairs", "query-passage", "--settings", "cross")
    assert [c.name for c in cross.cells()] == ["cross/ar-de", "cross/de-ar"] and len(cross.sources) == 6
    # Without it, a subset is a language of its own.
    assert make(folder).languages == ("ar-ar", "ar-de", "de-ar", "de-de")


HOSTILE = {
    "a tag": (
        "configs: !!python/object/apply:os.system ['true']",
        4,
        "a tag (tag:yaml.org,2002:python/object/apply:os.system)",
    ),
    "a reference": ("a: &a [1]\nconfigs: *a", 4, "a reference (*a)"),
    "a way out": ("configs:\n- config_name: corpus\n  data_files: ../../x", 4, "leads out of the folder"),
    "an absolute way": ("configs:\n- config_name: corpus\n  data_files: /etc/passwd", 4, "leads out of the folder"),
    "another place": ("configs:\n- config_name: corpus\n  data_files: hf://x/y", 4, "leads out of the folder"),
    "a key twice": ("configs: []\nconfigs: []", 3, "key 'configs' twice"),
    "no YAML": ("configs: [", 3, "not a dataset's card"),
    "no list": ("configs: yes", 3, "not a dataset's card"),
    "no name": ("configs:\n- data_files: x", 3, "not a dataset's card"),
    "no file": ("configs:\n- config_name: corpus\n  data_files: none/*.parquet", 3, "'none/*.parquet' matches no file"),
    "brackets": ("configs: " + "[" * 2000, 3, "not a dataset's card"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_cards(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, code, phrase = HOSTILE[case]
    tiny(here / "d")
    (here / "d" / "README.md").write_text(f"---\n{text}\n---\n")
    said = error(capsys, code, "tasks", "new", "my", "--from", "d", "--language", "en")
    assert phrase in said and "d/README.md" in said
    # A folder that is not to be read by its card.
    assert run("tasks", "new", "my", "--from", "d", "--language", "en", "--layout", "beir") == 0


def test_broken_parquet(mteb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ("tasks", "new", "my", "--from", "snapshot", "--force")
    path = mteb / "de-corpus" / "test-00001-of-00002.parquet"
    good = path.read_bytes()
    for content, phrase in (
        (b"", "not a Parquet file"),
        (good[:-20], "not a Parquet file"),
        (b"PAR1" + good[4:60] + b"\xff" * 40 + good[100:], ":1: this or one of the next 10000 rows cannot be read"),
    ):
        path.write_bytes(content)
        said = error(capsys, 3, *start)
        assert said.startswith("xbench: snapshot/de-corpus/test-00001-of-00002.parquet") and phrase in said
    parquet(path, _id=["d3", None], title=["", ""], text=["x", "y"])
    assert "00001-of-00002.parquet:2: _id is None" in error(capsys, 3, *start)
    parquet(path, _id=["d3", "d1"], title=["", ""], text=["x", "y"])
    assert "00001-of-00002.parquet:2: passage id 'd1' for the second time, first in line 1 of test-00000" in error(
        capsys, 3, *start
    )
    parquet(path, _id=["d3"], title=[""], text=[["x"]])
    assert "00001-of-00002.parquet:1: text: expected text, found list" in error(capsys, 3, *start)
    path.write_bytes(good)
    parquet(mteb / "de-qrels" / "test.parquet", query__id=[1, 2], corpus__id=["d3", "d1"], score=[1.0, 0.5])
    assert "de-qrels/test.parquet:2: grade 0.5" in error(capsys, 3, *start)


def test_the_same_in_two_forms(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders on the hub may have their qrels twice, and corpora too: never read as more data."""
    folder = tiny(here / "d")
    start = ("tasks", "new", "my", "--from", "d", "--language", "en", "--force")
    rows = [{"query-id": "q1", "corpus-id": "d1", "score": 1}, {"query-id": "q2", "corpus-id": "d3", "score": 1}]
    jsonl(folder / "qrels" / "test.jsonl", rows)
    assert "d/qrels/test.tsv:2: passage 'd1' of query 'q1' is judged for the second time" in error(capsys, 3, *start)
    tsv(folder / "docs.tsv", [("d1", "Tea is green.")])
    assert run(*start, "--layout", "beir") == 0
    task = read_definition(Path("my.toml"))
    assert [s.name for s in task.sources.values()] == ["corpus.jsonl", "qrels/test.tsv", "queries.jsonl"]
    (folder / "qrels" / "test.tsv").unlink()
    assert "docs.tsv:1: passage id 'd1' for the second time" in error(capsys, 3, *start)
    assert run(*start, "--layout", "jsonl") == 0
    assert [s.name for s in read_definition(Path("my.toml")).sources.values()] == [
        "corpus.jsonl", "qrels/test.jsonl", "queries.jsonl"
    ]  # fmt: skip


def test_folders_that_say_too_little(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jsonl(here / "d" / "corpus.jsonl", [{"_id": "d1", "text": "a", "language": "de"}, {"_id": "d2", "text": "b"}])
    jsonl(here / "d" / "queries.jsonl", [{"_id": "q1", "text": "a", "language": "de"}])
    start = ("tasks", "new", "my", "--from", "d", "--languages", "de,en")
    assert "no file of qrels (split 'test')" in error(capsys, 3, *start)
    (here / "d" / "qrels.txt").write_text("q1 0 d1 1\n")
    assert "corpus.jsonl:2: field 'language' is missing" in error(capsys, 3, *start)
    jsonl(
        here / "d" / "corpus.jsonl",
        [{"_id": "d1", "text": "a", "language": "de"}, {"_id": "d2", "text": "b", "language": "fr"}],
    )
    assert "corpus.jsonl:2: language is 'fr', expected one of de, en" in error(capsys, 3, *start)
    jsonl(here / "d" / "corpus.jsonl", [{"_id": "d1", "text": "a", "language": "de"}])
    assert "no queries and no passages in 'en'" in error(capsys, 2, *start)
    os.mkfifo(here / "d" / "docs.jsonl")  # no file, so not read, and not waited for
    assert run(*start[:5], "--language", "de") == 0


def test_unknown_kind_of_file(here: Path) -> None:
    from xbench.readers.rows import suffix

    with pytest.raises(DataError, match=r"expected a name that ends in \.jsonl"):
        suffix(here / "x.csv")
    with pytest.raises(UsageError, match=r"^x: made on none, a task that xbench has not; .* say -t none\.toml"):
        same_task({"name": "none", "version": 1, "sha256": ""}, Path("x"))


PAIRS = [
    ("p1", "Capital of France?", "Paris"),
    ("p2", "Capital of Italy?", "Rome"),
    ("p3", "Where is Madrid?", "Spain"),
]


def faq(folder: Path, answers: dict[str, Any], field: str = "answers") -> None:
    """Question-answer pairs, searched by questions with the text of one; what its answer is, the query says."""
    jsonl(folder / "corpus.jsonl", [{"_id": i, "text": text, "answer": answer} for i, text, answer in PAIRS])
    texts = {i: text for i, text, _ in PAIRS}
    jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": texts[i], field: some} for i, some in answers.items()])
    tsv(folder / "qrels" / "test.tsv", [HEADER, *((f"q{i}", i, 1) for i in answers)])


def test_exact_match_of_pairs(here: Path, own_cache: Path) -> None:
    faq(here / "faq", {"p1": ["Lyon", "the paris."], "p2": ["Madrid"], "p3": ["madrid", "Spain"]})
    task = make("faq", "--language", "en", "--answers", "-m", "EM@1", "-m", "HasAnswer@1", "-m", "RR")
    found = readers.read(task)
    assert found.items == {f"en:{i}": answer for i, _, answer in PAIRS} and task.counts["en"]["answered"] == 3
    assert found.answers["en:qp1"] == ("Lyon", "the paris.")
    (cell,) = evaluate(load("hash"), task, plan=Plan(own_cache)).cells
    assert cell.values["RR"] == 1.0  # each finds the question with its own text, so by hand:
    assert cell.per_query["EM@1"].tolist() == [1.0, 0.0, 1.0]
    assert cell.per_query["HasAnswer@1"].tolist() == [0.0, 0.0, 1.0]  # only `madrid` is in a question
    # Without --answers nothing of them is looked at, whatever the fields hold.
    faq(here / "faq", {"p1": {"text": 3}})
    assert readers.read(make("faq", "--language", "en")).answers == {}


@pytest.mark.parametrize(
    ("field", "value", "phrase"),
    [
        ("answers", "Paris", "answers: expected a list, found str"),
        ("answers", ["Paris", 3], "answers[1]: expected text, found int"),
        ("answers", [" "], "answers[0]: the text is empty"),
        ("answer", ["Paris"], "answer: expected text, found list"),
    ],
)
def test_answers_in_no_form(field: str, value: object, phrase: str, here: Path, capsys: Any) -> None:
    faq(here / "faq", {"p1": value}, field)
    assert run("tasks", "new", "my", "--from", "faq", "--language", "en", "--answers") == 3
    message = capsys.readouterr().err
    assert phrase in message and "queries.jsonl:1" in message, message
