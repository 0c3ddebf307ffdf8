"""Pools that are too large for all scores: a task that streams its passages, beside runs of the same depth."""

import contextlib
import importlib.util
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest

from xbench import cutoff, export, readers
from xbench.catalogue import parse
from xbench.errors import DataError, IntegrityError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.models import Hits, jvm, load
from xbench.models.fuse import Fusion
from xbench.models.hashing import HashEncoder
from xbench.ranks import judge
from xbench.readers.part import Part
from xbench.readers.sentences import read_sentences
from xbench.records import Cell, Collection, Corpus, CorpusFile, Passage, Query
from xbench.results import read_ranks, read_result, write_result
from xbench.runs import score_run
from xbench.storage import sha256
from xbench.task import Task, vary
from xbench.tasks import load_task

LANGUAGES = ("de", "en")


@pytest.fixture(scope="module")
def bm25() -> Iterator[Any]:
    if not importlib.util.find_spec("pyserini"):
        pytest.skip("NO PYSERINI: nothing of bm25 is tested; pip install 'xbench[bm25]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(jvm.HEAP_VARIABLE, "256m")
        yield load("bm25")


def read_rows(path: Path) -> Iterator[Passage]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield Passage(*json.loads(line))


READ = {"rows": read_rows}


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """The bundled task in three languages, with its passages streamed from files by `reader`."""

    def stream(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
        (part,) = read_sentences(task, paths)
        large = {}
        for language, rows in part.collection.passages.items():
            path = tmp_path / f"{language}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            large[language] = Corpus((CorpusFile(path, sha256(path)),), lambda p: READ["rows"](p), len(rows), "test-1")
        counts = {a: {what: n for what, n in some.items() if what != "passages"} for a, some in part.counts.items()}
        yield Part(part.cells, part.collection._replace(passages={}, large=large), counts)

    monkeypatch.setitem(readers.READERS, "streamed", stream)
    return replace(vary(load_task("mini"), languages=LANGUAGES), format="streamed")


def small() -> tuple[Task, Collection]:
    task = vary(load_task("mini"), languages=LANGUAGES)
    return task, readers.read(task, None, offline=True)


Run = dict[str, dict[str, float]]


def runs_of(bm25: Any, collection: Collection, task: Task, depth: int, folder: Path) -> dict[str, Run]:
    """Of each cell, by scores of all passages: the first by the ranking rule, with minus their rank as score."""
    found: dict[str, Run] = {}
    for cell in task.cells():
        pool = {language: collection.passages[language] for language in cell.passage_languages}
        ids = [passage.doc_id for rows in pool.values() for passage in rows]
        queries = collection.queries[cell.query_language]
        with bm25.search(pool, folder) as searcher:
            scores = searcher.scores(queries, cell.query_language).tolist()
        found[cell.name] = {
            query.query_id: {
                d: -float(i)
                for i, (s, d) in enumerate(sorted(zip(row, ids, strict=True), reverse=True)[:depth])
                if s > -np.inf
            }
            for query, row in zip(queries, scores, strict=True)
        }
    return found


@pytest.mark.parametrize("depth", [4, 1000])
def test_every_cell_as_trec_eval_has_it(
    bm25: Any, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    """Queries, values and what was not retrieved, of runs that were made from all scores."""
    monkeypatch.setattr(cutoff, "DEPTH", depth)
    original, collection = small()
    result = evaluate(bm25, task, ["AP", "RR", "R@3", f"nDCG@{min(depth, 10)}"], plan=Plan(tmp_path / "cache"))
    assert result.model["identity"]["depth"] == depth
    runs = runs_of(bm25, collection, original, depth, tmp_path)
    assert [c.cell for c in result.cells] == original.cells() and len(result.cells) == 2 + 2 + 2
    lost = 0
    for cell in result.cells:
        inside = {p.doc_id for language in cell.cell.passage_languages for p in collection.passages[language]}
        asked = [query.query_id for query in collection.queries[cell.cell.query_language]]
        qrels = {q: {d: g for d, g in collection.qrels[q].items() if d in inside} for q in asked}
        qrels = {q: judged for q, judged in qrels.items() if judged}
        run = runs[cell.cell.name]
        assert cell.query_ids == list(qrels) and cell.passages == len(inside) and cell.missing == 0
        for name, values in cell.per_query.items():
            wanted = {m.query_id: m.value for m in ir_measures.iter_calc([ir_measures.parse_measure(name)], qrels, run)}
            np.testing.assert_allclose(values, [wanted.get(q, 0.0) for q in cell.query_ids], atol=1e-12)
        assert cell.unmatched == {
            "queries": sum(not run[q] for q in qrels),
            "relevant": sum(d not in run[q] for q, judged in qrels.items() for d in judged),
            "passages": sum(len(inside) - len(run[q]) for q in qrels),
        }
        lost += cell.unmatched["relevant"]
    assert lost > 0
    path = write_result(result, tmp_path / "out")
    again = read_result(path)
    assert again.summary() == result.summary()
    table = read_ranks(path, again)
    for cell in original.cells():
        assert (
            result.ranks is not None
            and table.ranked(cell)[0].ranks.tolist() == result.ranks.ranked(cell)[0].ranks.tolist()
        )


BIAS = ["RankDistance", "SameLanguageShare@1", "SameLanguageWrongFirst", "PEER@3"]


def test_language_bias_is_that_of_a_run_of_the_same_depth(
    bm25: Any, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutoff, "DEPTH", 30)
    original, collection = small()
    cells = [cell for cell in original.cells() if cell.setting == "multi"]
    result = evaluate(bm25, task, [*BIAS, "AP"], plan=Plan(tmp_path / "cache"))
    runs = runs_of(bm25, collection, original, 30, tmp_path)
    lines = [f"{q} Q0 {d} 0 {s} x" for c in cells for q, row in runs[c.name].items() for d, s in row.items()]
    (tmp_path / "x.run").write_text("".join(f"{line}\n" for line in lines))
    table = judge(collection, LANGUAGES)
    _, wanted = score_run(
        tmp_path / "x.run", cells, table, [parse(n) for n in [*BIAS, "AP"]], depth=100, ignore_ranks=True
    )
    found = {c.cell: c for c in result.cells}
    for cell in wanted:
        assert found[cell.cell].query_ids == cell.query_ids
        assert found[cell.cell].values == pytest.approx(cell.values)
    assert {"SameLanguageShare@1", "AP"} <= set(wanted[0].values)


def test_a_second_run_reads_no_passage(bm25: Any, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(tmp_path / "cache")
    first = evaluate(bm25, task, ["RR"], plan=plan)

    def unread(path: Path) -> Iterator[Passage]:
        raise AssertionError(f"{path} is read")
        yield

    monkeypatch.setitem(READ, "rows", unread)
    again = evaluate(bm25, task, ["RR"], plan=plan)
    assert again.summary() == first.summary() and again.model == first.model
    assert first.model["fingerprint"] != evaluate(bm25, small()[0], ["RR"], plan=plan).model["fingerprint"]


def test_runs_are_exported(bm25: Any, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far down as they are ranked; trec_eval then gives the result's own values."""
    monkeypatch.setattr(cutoff, "DEPTH", 30)
    monkeypatch.setattr(export, "DEPTH", 30)
    result = evaluate(bm25, task, ["AP", "R@5"], plan=Plan(tmp_path / "cache"))
    (part,) = readers.parts(task, None, offline=True)
    export.export_qrels(task, part.collection, part.cells, tmp_path)
    export.export_runs(result, task, part.collection, part.cells, tmp_path, cache=tmp_path / "cache")
    for cell in result.cells:
        stem = str(tmp_path / export.stem(task, cell.cell))
        qrels = list(ir_measures.read_trec_qrels(stem + ".qrels.trec"))
        run = list(ir_measures.read_trec_run(stem + ".run.trec"))
        assert {q.query_id for q in qrels} == set(cell.query_ids)
        assert max(Counter(line.query_id for line in run).values(), default=0) <= 30
        wanted = ir_measures.calc_aggregate([ir_measures.AP, ir_measures.R @ 5], qrels, run)
        assert {str(m): value for m, value in wanted.items()} == pytest.approx(cell.values)
    export.export_runs(result, task, part.collection, part.cells[:1], tmp_path, cache=tmp_path / "cache", depth=2)
    run = list(ir_measures.read_trec_run(str(tmp_path / export.stem(task, part.cells[0])) + ".run.trec"))
    assert max(Counter(line.query_id for line in run).values()) == 2
    monkeypatch.setattr(cutoff, "DEPTH", 31)
    with pytest.raises(IntegrityError, match="bm25: not the one of the result"):
        export.export_runs(result, task, part.collection, part.cells, tmp_path, cache=tmp_path / "cache")


def test_a_judged_passage_that_is_not_there(
    bm25: Any, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = readers.READERS["streamed"]

    def short(task: Task, paths: Mapping[str, Path]) -> Iterator[Part]:
        (part,) = stream(task, paths)
        query = part.collection.queries["en"][0].query_id
        part.collection.qrels[query]["en:99.9.9"] = 1
        yield part

    monkeypatch.setitem(readers.READERS, "streamed", short)
    with pytest.raises(DataError, match=r"^1 judged passages are in no corpus, expected 0: en:99.9.9$"):
        evaluate(bm25, task, ["RR"], plan=Plan(tmp_path / "cache"))
    task = replace(task, options={"dangling": 1})
    result = evaluate(bm25, task, ["RR", "AP"], plan=Plan(tmp_path / "cache"))
    (cell,) = [c for c in result.cells if c.cell.name == "mono/en"]
    assert cell.unmatched is not None and cell.unmatched["relevant"] >= 1
    assert cell.per_query["AP"][0] == 0.5 and cell.per_query["RR"][0] == 1  # the other one is first


class Dense:
    """A retriever that scores all passages alone."""

    name, identity = "dense", {"kind": "dense"}

    def search(self, passages: Mapping[str, Sequence[Passage]], folder: Path) -> Any:
        raise AssertionError


def test_what_cannot_search_large_pools(task: Task, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model 'dense' needs all passages of mini at once"):
        evaluate(Dense(), task, ["RR"], plan=Plan(tmp_path))
    fusion = Fusion("fuse:hash+dense", (HashEncoder(), Dense()), None)
    with pytest.raises(UsageError, match="model 'fuse:hash.dense' needs all passages of mini at once"):
        evaluate(fusion, task, ["RR"], plan=Plan(tmp_path))


class Fixed:
    """A large retriever that finds what it is told, whatever the query."""

    name, identity = "fixed", {"kind": "fixed"}

    def __init__(self, found: Sequence[str]):
        self.found = found

    @contextlib.contextmanager
    def search_large(self, corpora: Mapping[str, Corpus], cache: Path) -> Iterator["Fixed"]:
        yield self

    def pool(self, languages: Sequence[str]) -> "Fixed":
        return self

    def missing(self, doc_ids: Sequence[str]) -> list[str]:
        return []

    def hits(self, queries: Sequence[Query], language: str, k: int) -> Iterator[Hits]:
        for _ in queries:
            yield Hits(list(self.found[:k]), [0.0] * len(self.found[:k]))


def test_measures_that_look_too_deep(task: Task, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="measure R@1001: only the first 1000 passages of a large pool"):
        evaluate(Fixed([]), task, ["R@1000", "R@1001"], plan=Plan(tmp_path))
    nothing = evaluate(Fixed([]), task, ["R@1000", "AP", "nDCG"], plan=Plan(tmp_path)).summary()
    assert nothing["mono"] == {"R@1000": 0.0, "AP": 0.0, "nDCG": 0.0}


def test_grades_languages_and_queries_without_a_judgement() -> None:
    """By hand: a passage judged not relevant has no place; one of a language that is not asked for is no passage."""
    corpus = Corpus((), read_rows, 50, "x")
    queries = {"a": [Query("a:1", "x"), Query("a:2", "x")], "b": [Query("b:1", "x")]}
    qrels = {"a:1": {"a:9": 1, "a:10": 2, "a:7": 0, "c:1": 1}, "b:1": {"b:1": 1, "a:10": 1}}
    collection = Collection(queries, {}, qrels, {}, large={"a": corpus, "b": corpus})
    table = judge(collection, ("a", "b"))
    assert table.doc_ids == ["a:10", "a:7", "a:9", "b:1"] and table.sizes.tolist() == [50, 50]
    assert table.query_ids == ["a:1", "a:2", "b:1"] and table.judged.indptr.tolist() == [0, 3, 3, 5]
    mono, cross, multi = Cell("mono", "a", ("a",)), Cell("cross", "b", ("a",)), Cell("multi", "b", ("a", "b"))
    part = Part([mono, cross, multi], collection, {})
    found, lost = cutoff.retrieve_first(part, Fixed(["b:5", "a:10", "a:3", "b:1"]), table, 3, lambda _: None)
    # Of `alone` in the order of doc_ids: a:10 is second; the others are not there.
    assert found.alone is not None and found.alone.tolist() == [1, -1, -1, 1, -1]
    assert found.above.tolist() == [[-1, -1]] * 3 + [[0, 1], [2, 1]]
    assert lost == {
        "mono/a": {"queries": 0, "relevant": 1, "passages": 46},
        "cross/b-a": {"queries": 0, "relevant": 0, "passages": 46},
        "multi/b": {"queries": 0, "relevant": 0, "passages": 96},
    }
    assert found.doc_ids == ["a:10", "a:7", "a:9", "b:1", "b:5", "a:3"]
    assert found.doc_language.tolist() == [0, 0, 0, 1, 1, 0]
    assert found.top.tolist() == [[-1] * 3, [-1] * 3, [4, 0, 5]]
    assert found.ranked(mono)[0].ranks.tolist() == [2.0, np.inf]
    assert found.ranked(multi)[0].ranks.tolist() == [2.0, 4.0]
