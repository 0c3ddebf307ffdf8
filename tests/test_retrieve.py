"""Retrievers: vectors searched pool by pool as at once; scores that depend on the pool; resuming."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xbench.catalogue import parse_all
from xbench.cli import main
from xbench.errors import IntegrityError, ModelOutputError
from xbench.evaluate import Plan, evaluate, fused, vectors
from xbench.export import export_qrels, export_runs
from xbench.index import search
from xbench.models import load
from xbench.models.fuse import Fusion
from xbench.ranks import RankTable, judge
from xbench.readers import read
from xbench.records import Cell, Collection, Passage, Query
from xbench.results import Result, read_ranks, read_result, write_result
from xbench.retrieve import Pools, first, retrieve
from xbench.retrievers import Dense
from xbench.runs import score_file
from xbench.task import Task
from xbench.tasks import load_task

INF = float("inf")


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("mini")


@pytest.fixture(scope="module")
def collection(task: Task) -> Collection:
    return read(task)


class Close:
    """Vectors of which some pairs have exactly equal products, and others products that differ by 2^-60 or so."""

    name = "close"

    def __init__(self) -> None:
        self.identity: dict[str, object] = {"kind": "close"}

    def vectors(self, role: str, language: str, collection: Collection) -> NDArray[np.float32]:
        rows = collection.rows(role)[language]
        rng = np.random.default_rng([len(language), *language.encode()])
        if role == "queries":
            return np.repeat(rng.standard_normal((len(rows), 1), np.float32), 96, axis=1) + np.float32(1.5)
        # Permutations of a few vectors: equal products with a constant query, whatever the order of addition gives.
        bases = np.random.default_rng(1).standard_normal((5, 96), np.float32)
        found = np.stack([rng.permutation(bases[i % 5]) for i in range(len(rows))])
        found[::7, 0] += np.float32(1e-7)
        return found


class Overlap:
    """Scores by how many letters a query shares with a passage that are rare in the pool; some share none."""

    def __init__(self) -> None:
        self.name, self.identity = "overlap", {"kind": "overlap"}
        self.opened: list[tuple[str, ...]] = []
        self.asked = 0
        self.broken: float | None = None

    @contextlib.contextmanager
    def search(self, passages: Mapping[str, Sequence[Passage]], folder: Path) -> Iterator["Overlap"]:
        assert folder.is_dir()
        self.opened.append(tuple(passages))
        self.texts = [set(p.text.split()) for rows in passages.values() for p in rows]
        self.seen: dict[str, int] = {}
        for word in itertools.chain(*self.texts):
            self.seen[word] = self.seen.get(word, 0) + 1
        yield self

    def scores(self, queries: Sequence[Query], language: str) -> NDArray[np.float64]:
        self.asked += len(queries)
        out = np.full((len(queries), len(self.texts)), -INF)
        for i, query in enumerate(queries):
            words = set(query.text.split())
            for j, text in enumerate(self.texts):
                if words & text:
                    out[i, j] = sum(1 / self.seen[word] for word in sorted(words & text))
        if self.broken is not None:
            out[0, 0] = self.broken
        return out


def slow_ranks(scores: NDArray[np.float64], doc_ids: list[str]) -> dict[str, int]:
    listed = sorted(zip(scores.tolist(), doc_ids, strict=True), reverse=True)
    return {doc_id: rank for rank, (_, doc_id) in enumerate(listed, 1)}


def test_vectors_pool_by_pool_as_at_once(task: Task, collection: Collection, tmp_path: Path) -> None:
    models: list[Any] = [load(f"canary:{name}") for name in ("duplicate", "random", "constant")]
    for model in [load("hash"), Close(), *models]:
        name = model.name
        encoded = vectors(model, collection, tmp_path)
        dense = Dense(name, {"name": name}, encoded, collection)
        job = Pools(dense, task, task.cells(), collection)
        table, unmatched = retrieve(job, judge(collection, task.languages), 100, tmp_path)
        expected = evaluate(model, task, plan=Plan(tmp_path)).ranks
        assert expected is not None and table.alone is not None
        assert np.array_equal(table.above, expected.above) and np.array_equal(table.top, expected.top)
        for cell in task.cells():
            a, b = table.ranked(cell), expected.ranked(cell)
            assert np.array_equal(a[0].ranks, b[0].ranks) and a[1] == b[1]
        assert {key for counts in unmatched.values() for key, n in counts.items() if n} == set()


def test_scores_that_depend_on_the_pool(task: Task, collection: Collection, tmp_path: Path) -> None:
    """Against ranks by sorting, cell by cell."""
    model = Overlap()
    result = evaluate(model, task, plan=Plan(tmp_path))
    table = result.ranks
    assert table is not None
    assert model.opened == [(a,) for a in task.languages] + [task.languages]
    assert model.asked == 48 * 132
    fresh = Overlap()
    for found in result.cells:
        cell = found.cell
        passages = {b: collection.passages[b] for b in cell.passage_languages}
        doc_ids = [p.doc_id for rows in passages.values() for p in rows]
        ranked, query_ids = table.ranked(cell)
        queries = {q.query_id: q for q in collection.queries[cell.query_language]}
        lost = {"queries": 0, "relevant": 0, "passages": 0}
        with fresh.search(passages, tmp_path):
            scores = fresh.scores([queries[query_id] for query_id in query_ids], cell.query_language)
        for i, query_id in enumerate(query_ids):
            ranks = slow_ranks(scores[i], doc_ids)
            relevant = [d for d in collection.qrels[query_id] if d in ranks]
            mine = ranked.ranks[ranked.indptr[i] : ranked.indptr[i + 1]]
            assert mine.tolist() == sorted(ranks[d] for d in relevant)
            lost["queries"] += bool((scores[i] == -INF).all())
            lost["relevant"] += sum(scores[i][doc_ids.index(d)] == -INF for d in relevant)
            lost["passages"] += int((scores[i] == -INF).sum())
            if cell.setting == "multi":
                row = table.query_ids.index(query_id)
                best = sorted(ranks, key=ranks.__getitem__)[:100]
                assert [table.doc_ids[j] for j in table.top[row]] == best
        assert found.unmatched == lost
        assert found.missing == 0 and len(found.query_ids) == len(query_ids)
    assert any(c.unmatched and c.unmatched["queries"] for c in result.cells)
    # The joint pool's ranks are not those of one language: rare words differ.
    one = Cell("mono", "en", ("en",))
    assert not np.array_equal(table.ranked(one)[0].ranks, table._replace(alone=None).ranked(one)[0].ranks)


def test_result_files_round_trip(task: Task, tmp_path: Path) -> None:
    result = evaluate(Overlap(), task, plan=Plan(tmp_path, command="x"))
    path = write_result(result, tmp_path / "out")
    back = read_result(path)
    assert back.summary() == result.summary() and [c.unmatched for c in back.cells] == [
        c.unmatched for c in result.cells
    ]
    ranks = read_ranks(path, back)
    assert ranks.alone is not None
    for cell in task.cells():
        assert np.array_equal(ranks.ranked(cell)[0].ranks, result.ranks.ranked(cell)[0].ranks)  # type: ignore[union-attr]
    again = write_result(evaluate(Overlap(), task, plan=Plan(tmp_path, command="x")), tmp_path / "again")
    for name in ("mini.json", "mini.queries.parquet", "mini.ranks.parquet", "mini.top.parquet"):
        assert (path.parent / name).read_bytes() == (again.parent / name).read_bytes()


def test_an_interrupted_search_goes_on(
    task: Task, collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(Overlap(), task, plan=Plan(tmp_path / "whole"))
    model = Overlap()
    monkeypatch.setattr("xbench.retrieve.BLOCK_BYTES", 10 * 8 * 77)
    good = model.scores

    def until(queries: Sequence[Query], language: str) -> NDArray[np.float64]:
        if model.asked >= 30 * 48:
            raise KeyboardInterrupt
        return good(queries, language)

    monkeypatch.setattr(model, "scores", until)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, task, plan=Plan(tmp_path / "cut"))
    again = Overlap()
    result = evaluate(again, task, plan=Plan(tmp_path / "cut"))
    assert again.asked == (132 - 30) * 48 and again.opened[0] == (task.languages[2],)
    assert [c.values for c in result.cells] == [c.values for c in whole.cells]
    assert evaluate(nothing := Overlap(), task, plan=Plan(tmp_path / "cut")) and nothing.opened == []
    kept = sorted((tmp_path / "cut").rglob("*.npz"))
    assert len(kept) == 132
    content = bytearray(kept[7].read_bytes())
    content[200] ^= 1
    kept[7].write_bytes(content)
    with pytest.raises(IntegrityError, match=kept[7].name):
        evaluate(Overlap(), task, plan=Plan(tmp_path / "cut"))


def test_what_is_kept_is_of_one_task(task: Task, tmp_path: Path) -> None:
    """The same ids with other texts are another task."""
    plain = evaluate(Overlap(), task, plan=Plan(tmp_path))
    longer = evaluate(model := Overlap(), replace(task, context=True), plan=Plan(tmp_path))
    assert model.asked == 132 * 48
    assert [c.values for c in plain.cells] != [c.values for c in longer.cells]


@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_scores_that_cannot_be_ranked(bad: float, task: Task, tmp_path: Path) -> None:
    model = Overlap()
    model.broken = bad
    with pytest.raises(ModelOutputError, match="NaN or infinity among the scores of ar:"):
        evaluate(model, task, plan=Plan(tmp_path))
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize("array", [np.zeros((5, 77), np.float32), np.zeros((5, 76)), np.zeros(77)])
def test_scores_of_another_shape(array: NDArray[Any], task: Task, tmp_path: Path) -> None:
    model = Overlap()
    model.scores = lambda queries, language: array  # type: ignore[method-assign]
    with pytest.raises(ModelOutputError, match=r"expected float64 \(48, 77\)"):
        evaluate(model, task, plan=Plan(tmp_path))


def test_first() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        m = int(rng.integers(1, 30))
        scores = rng.choice([-INF, 0.0, 1.0, 2.0], m)
        order = rng.permutation(m)
        expected = sorted(range(m), key=lambda j: (-scores[j], -order[j]))
        for k in (0, 1, m):
            assert first(scores, order, k).tolist() == expected[:k]


def by_definition(model: Fusion, collection: Collection, cell: Cell, query: str, cache: Path) -> list[str]:
    """The fused ranking of one query: of xbench's own search, 1/(60 + rank) or scaled scores added up."""
    totals: dict[str, float] = {}
    for part, weight in zip(model.parts, model.weights or [None] * len(model.parts), strict=True):
        encoded = vectors(part, collection, cache)
        doc_ids = [d for b in cell.passage_languages for d in collection.ids("passages", b)]
        own = np.concatenate([encoded.vectors["passages"][b] for b in cell.passage_languages])
        row = collection.ids("queries", cell.query_language).index(query)
        from xbench.index import Index
        from xbench.ranking import Pool

        index = Index.build(own, doc_ids, cache / "x")
        found = search([index], Pool([own], doc_ids), encoded.vectors["queries"][cell.query_language][[row]], len(own))
        best, worst = found[0][0][1], found[0][-1][1]
        for rank, (place, score) in enumerate(found[0], 1):
            share = 1 / (60 + rank) if weight is None else weight * (score - worst) / (best - worst)
            totals[doc_ids[place]] = totals.get(doc_ids[place], 0) + share
    return [d for _, d in sorted(((score, d) for d, score in totals.items()), reverse=True)]


@pytest.mark.parametrize("name", ["fuse:hash+canary:random", "fuse:0.9*hash+0.1*canary:random"])
def test_fusion_and_its_export(name: str, task: Task, collection: Collection, tmp_path: Path) -> None:
    model: Any = load(name)
    result = evaluate(model, task, plan=Plan(tmp_path, command="xbench run x"))
    table: RankTable = result.ranks  # type: ignore[assignment]
    for cell in (Cell("multi", "de", task.languages), Cell("mono", "th", ("th",)), Cell("cross", "ru", ("zh",))):
        ranked, query_ids = table.ranked(cell)
        for i in (0, 20, 47):
            expected = by_definition(model, collection, cell, query_ids[i], tmp_path)
            mine = ranked.ranks[ranked.indptr[i] : ranked.indptr[i + 1]].astype(int)
            relevant = {d for d in collection.qrels[query_ids[i]] if d in expected}
            assert {expected[r - 1] for r in mine} == relevant
        export_runs(result, task, collection, [cell], tmp_path / "out", cache=tmp_path)
        scored = rescored(task, collection, cell, tmp_path / "out")
        own = next(c for c in result.cells if c.cell == cell)
        assert scored.cells[0].values == own.values


def rescored(task: Task, collection: Collection, cell: Cell, folder: Path) -> Result:
    name = f"{task.name}.{cell.name.replace('/', '.')}.run.trec"
    return score_file(folder / name, task, collection, [cell], parse_all(task.measures))


def test_what_is_not_retrieved_is_exported_last(
    task: Task, collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As BM25 would be: made again from the result."""
    model = Overlap()
    model.identity = {"kind": "bm25"}
    result = evaluate(model, task, plan=Plan(tmp_path))
    monkeypatch.setattr("xbench.export._bm25", lambda: model)
    cells = [Cell("multi", "en", task.languages), Cell("cross", "en", ("th",))]
    export_runs(result, task, collection, cells, tmp_path / "out", cache=tmp_path)
    export_qrels(task, collection, cells, tmp_path / "out")
    for cell in cells:
        own = next(c for c in result.cells if c.cell == cell)
        scored = rescored(task, collection, cell, tmp_path / "out").cells[0]
        assert scored.values == own.values and scored.missing == 0
    model.identity = {"kind": "bm25", "other": 1}
    with pytest.raises(IntegrityError, match="not the retriever of the result"):
        export_runs(result, task, collection, cells, tmp_path / "out", cache=tmp_path)


def test_parts_of_a_fusion_are_its_identity(task: Task, collection: Collection, tmp_path: Path) -> None:
    def identity(name: str) -> dict[str, object]:
        model: Any = load(name)
        return fused(model, [vectors(p, collection, tmp_path) for p in model.parts], collection, None).identity

    names = ["fuse:hash+canary:random", "fuse:canary:random+hash", "fuse:.5*hash+.5*canary:random",
             "fuse:.4*hash+.6*canary:random", "fuse:hash+canary:oracle"]  # fmt: skip
    found = [json.dumps(identity(name), sort_keys=True) for name in names]
    assert len(set(found)) == len(names)


def test_cuts_are_told_by_the_place_of_a_part(task: Task, collection: Collection, tmp_path: Path) -> None:
    result = evaluate(load("fuse:canary:random+hash"), task, plan=Plan(tmp_path))
    assert set(result.truncation) == {"1.queries", "1.passages", "2.queries", "2.passages"}
    assert result.truncation["1.queries"] == dict.fromkeys(task.languages)
    assert result.truncation["2.passages"] == {a: {"texts": 0, "tokens": 0} for a in task.languages}


def test_batches_of_what_encodes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "fuse:canary:oracle+canary:random", "-t", "mini", "-o", str(tmp_path), "--batch-tokens", "9"])
    assert caught.value.code == 2 and "nothing is encoded" in capsys.readouterr().err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "fuse:0.25*canary:oracle+0.75*hash", "-t", "mini", "-o", str(tmp_path), "--run-depth", "5"])
    assert not caught.value.code
    (path,) = tmp_path.rglob("mini.json")
    assert "fuse-0.25-canary-oracle-0.75-hash-" in path.parent.name
    assert read_result(path).model["identity"]["weights"] == [0.25, 0.75]
    runs = list(tmp_path.rglob("*.run.trec"))
    assert len(runs) == 132 and sum(run.read_text().count("\n") for run in runs) == 132 * 48 * 5


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    """By command, killed at random moments: the bytes of an undisturbed run, and no pool searched twice."""

    def start(cache: str, out: str) -> subprocess.Popen[bytes]:
        command = ["run", "fuse:hash+canary:random", "-t", "mini", "-o", str(tmp_path / out)]
        program = "import sys; from xbench.cli import main; main(sys.argv[1:])"
        environment = os.environ | {"XBENCH_CACHE": str(tmp_path / cache), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", program, *command], env=environment, stdout=-3, stderr=-3)

    def result(out: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / out).rglob("mini.*") if "timing" not in path.name}

    assert start("whole", "whole").wait(60) == 0
    rng = random.Random(4)
    kept: dict[Path, int] = {}
    partly = 0
    for i in range(3):
        process = start(f"cache{i}", f"out{i}")
        folder = tmp_path / f"cache{i}" / "pools"
        while not list(folder.glob("*/*.npz")):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.npz")}
        partly += len(kept) < 132
        assert start(f"cache{i}", f"out{i}").wait(60) == 0
        assert result(f"out{i}") == result("whole")
        assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert partly, "no kill hit a half-searched task; the test would prove little"
