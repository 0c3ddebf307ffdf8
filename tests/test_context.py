"""`--context`: a passage is its sentence and its paragraph; the texts, what depends on them, and what does not."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xbench import cli
from xbench.errors import IntegrityError
from xbench.models.hashing import HashEncoder
from xbench.readers import check, read
from xbench.results import read_result
from xbench.tasks import load_task, same_task

MINI = load_task("mini")
CONTEXT = dataclasses.replace(MINI, context=True)


def definition(path: Path, language: str) -> dict[str, str]:
    """doc_id -> text: the candidates of XTREME-R's evaluate_retrieval.py, from the raw file."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    return {
        f"{language}:{a}.{p}.{s}": (sentence + paragraph["context"]).replace("\n", "")
        for a, article in enumerate(raw["data"])
        for p, paragraph in enumerate(article["paragraphs"])
        for s, sentence in enumerate(paragraph["sentences"])
    }


@pytest.mark.parametrize("name", ["xquad-r", "mlqa-r"])
def test_texts_of_the_real_tasks(name: str, data: Path) -> None:
    task = load_task(name)
    plain, found = read(task, data), read(dataclasses.replace(task, context=True), data)
    assert (found.queries, found.qrels, found.clusters) == (plain.queries, plain.qrels, plain.clusters)
    texts = {p.doc_id: p.text for rows in found.passages.values() for p in rows}
    expected: dict[str, str] = {}
    for language in task.languages:
        expected |= definition(data / name / f"{language}.json", language)
        assert found.ids("passages", language) == plain.ids("passages", language)
    assert texts == expected
    before = {p.doc_id: p.text for rows in plain.passages.values() for p in rows}
    assert not any("\n" in text for text in texts.values())
    # The line feeds are there to be removed: 29 in XQuAD-R (within O\n2 and the like), none in MLQA-R.
    assert (name == "xquad-r") == any("\n" in text for text in before.values())
    assert all(texts[i].startswith(before[i].replace("\n", "")) for i in texts)


def test_what_a_task_with_context_is() -> None:
    assert CONTEXT.sha256 != MINI.sha256 and CONTEXT.cells() == MINI.cells() and CONTEXT.counts == MINI.counts
    assert CONTEXT.about == MINI.about | {"sha256": CONTEXT.sha256, "context": True} and "context" not in MINI.about
    assert same_task(CONTEXT.about, Path("x")) == CONTEXT and same_task(MINI.about, Path("x")) == MINI
    for about in (CONTEXT.about | {"context": 1}, MINI.about | {"context": True}, CONTEXT.about | {"context": False}):
        with pytest.raises(IntegrityError, match="evaluate again"):
            same_task(about, Path("x"))
    assert check(CONTEXT) == check(MINI) and check(MINI)[0].collection == read(MINI)  # golden rows are of sentences


def run(*arguments: str | Path) -> int:
    return cli._run([str(argument) for argument in arguments], False)


def stored(folder: Path) -> dict[bool, tuple[Path, dict[str, Any]]]:
    """The results in a folder: context -> file, content."""
    found = {}
    for path in folder.glob("*/mini.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        found["context" in content["task"]] = path, content
    return found


def test_run_and_export(tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "hash", "-t", "mini", "-m", "AP", "-o", tmp_path) == 0
    titles = capsys.readouterr().out
    assert run("run", "hash", "-t", "mini", "--context", "-m", "AP", "-o", tmp_path, "--run-depth", "20") == 0
    assert "mini summary of hash" in titles and "mini with context summary of hash" in capsys.readouterr().out
    (plain, before), (path, content) = (stored(tmp_path)[context] for context in (False, True))
    assert content["command"] == "xbench run hash -t mini -m AP --context" and "context" not in before["command"]
    assert content["task"]["context"] is True and content["model"]["identity"]["context"] is True
    identity = {name: value for name, value in content["model"]["identity"].items() if name != "context"}
    assert identity == before["model"]["identity"]
    assert content["model"]["fingerprint"] != before["model"]["fingerprint"] and path.parent != plain.parent
    assert content["summary"] != before["summary"]
    # One store has the vectors of both: the queries were not encoded again.
    assert len(list(own_cache.glob("vectors/*"))) == 1
    timing = json.loads(path.with_name("mini.timing.json").read_text())
    queries = {row.text for rows in read(MINI).queries.values() for row in rows}
    assert timing["texts_reused"] == len(queries)
    # The command in the result gives the result, and the result is read again as a whole.
    assert run(*content["command"].split()[1:], "-o", tmp_path / "again") == 0
    assert (tmp_path / "again" / path.parent.name / "mini.json").read_bytes() == path.read_bytes()
    assert read_result(path).task == content["task"]
    # The run of a cell, from the texts by definition and with dot products in float64 of our own.
    assert run("export", path, "--cell", "multi/en", "--depth", "20", "-o", tmp_path / "runs") == 0
    name = "mini.multi.en.run.trec"
    lines = (tmp_path / "runs" / name).read_text().split("\n")[:-1]
    assert lines == path.with_name(name).read_text().split("\n")[:-1]
    assert MINI.folder is not None
    texts = {}
    for language in MINI.languages:
        texts |= definition(MINI.folder / f"{language}.json", language)
    matrix = HashEncoder().encode(list(texts.values()), "passages", "").astype(np.float64)
    for query in read(MINI).queries["en"]:
        scores = matrix @ HashEncoder().encode([query.text], "queries", "")[0].astype(np.float64)
        best = sorted(zip(scores.tolist(), texts, strict=True), key=lambda pair: (pair[0], pair[1]), reverse=True)
        asked = [line.split() for line in lines if line.split()[0] == query.query_id]
        assert [(float(words[4]), words[2]) for words in asked] == best[:20]
    capsys.readouterr()
    # Bias is read from the stored ranks; the two results are of different tasks.
    assert run("bias", path) == 0 and "mini with context: language bias" in capsys.readouterr().out
    assert run("compare", plain, path) == 3 and ", context)" in capsys.readouterr().err


def test_the_cache_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "hash", "-t", "mini", "--context", "-m", "AP", "-o", tmp_path) == 0
    monkeypatch.setenv("XBENCH_CACHE", str(tmp_path / "empty"))
    ((path, _),) = stored(tmp_path).values()
    assert run("export", path, "--cell", "mono/en") == 10
    assert "make them again: xbench run hash -t mini -m AP --context" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["canary:oracle", "vectors:{}"])
def test_given_vectors_take_no_context(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", model.format(tmp_path), "-t", "mini", "--context", "-o", tmp_path / "out") == 2
    assert "takes no --context" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))
