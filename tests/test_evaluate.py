"""The whole job: exported rankings judged by ir-measures, given vectors, Python models."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ir_measures
import numpy as np
import pandas
import pytest
from test_ranking import copies

from xbench import ranking
from xbench.catalogue import parse
from xbench.errors import DataError, ModelOutputError
from xbench.evaluate import Plan, evaluate
from xbench.export import export_qrels, export_runs
from xbench.models import ROLES, load
from xbench.models.hashing import HashEncoder
from xbench.ranking import passages_above
from xbench.readers import read
from xbench.records import Collection
from xbench.results import Result, write_result
from xbench.task import Task, vary
from xbench.tasks import load_task
from xbench.top import first_passages

MEASURES = ["AP", "RR", "nDCG@10", "nDCG", "R@10", "Success@1", "P@5", "Rprec", "RR@10"]


def archive(folder: Path) -> None:
    """An archive of arrays under the name of an array."""
    np.savez(folder / "x.npz", a=np.ones(2))
    (folder / "x.npz").rename(folder / "passages.de.npy")


def save(name: str, array: np.ndarray) -> Callable[[Path], None]:
    """Damage to a folder of vectors: another array in the place of a file."""
    return lambda folder: np.save(folder / name, array, allow_pickle=True)


def save_vectors(folder: Path, task: str, data: Path | None = None, dimension: int | None = None) -> None:
    """The vectors of `hash`, or random ones, as `vectors:` expects them."""
    folder.mkdir()
    collection = read(load_task(task), data)
    rng = np.random.default_rng(0)
    encoder = HashEncoder()
    for role in ROLES:
        for language, rows in collection.rows(role).items():
            if dimension:
                vectors = rng.standard_normal((len(rows), dimension), dtype=np.float32)
            else:
                vectors = encoder.encode([row.text for row in rows], role, language)
            np.save(folder / f"{role}.{language}.npy", vectors)


def export(result: Result, task: Task, collection: Collection, names: list[str], folder: Path, cache: Path) -> None:
    cells = [cell for cell in task.cells() if cell.name in names]
    export_qrels(task, collection, cells, folder)
    export_runs(result, task, collection, cells, folder, cache=cache)


def judge_by_ir_measures(result: Result, folder: Path, cells: list[str]) -> None:
    """Every value of some cells, mean and per query, equals ir-measures' on the exported ranking.

    Exported scores are float64 and pytrec_eval reads float32, so the run is given as -rank.
    """
    by_name = {cell.cell.name: cell for cell in result.cells}
    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    for name in cells:
        stem = f"{result.task['name']}.{name.replace('/', '.')}"
        run = list(ir_measures.read_trec_run(str(folder / f"{stem}.run.trec")))
        qrels = list(ir_measures.read_trec_qrels(str(folder / f"{stem}.qrels.trec")))
        ranks: dict[str, int] = {}
        ranked = []
        previous: dict[str, float] = {}
        for row in run:
            assert row.score <= previous.get(row.query_id, np.inf)
            previous[row.query_id] = row.score
            ranks[row.query_id] = ranks.get(row.query_id, 0) + 1
            ranked.append(ir_measures.ScoredDoc(row.query_id, row.doc_id, -float(ranks[row.query_id])))
        cell = by_name[name]
        assert set(ranks.values()) == {cell.passages} and set(ranks) == set(cell.query_ids)
        for metric in ir_measures.iter_calc(measures, qrels, ranked):
            mine = cell.per_query[str(metric.measure)][cell.query_ids.index(metric.query_id)]
            assert abs(mine - metric.value) <= 1e-9, (name, metric)
        for measure, value in ir_measures.calc_aggregate(measures, qrels, ranked).items():
            assert abs(cell.values[str(measure)] - value) <= 1e-9, (name, measure)


@pytest.mark.parametrize("model", ["hash", "vectors"])
def test_ir_measures_agrees_on_exported_rankings(model: str, tmp_path: Path, own_cache: Path) -> None:
    spelling = "hash"
    if model == "vectors":
        save_vectors(tmp_path / "v", "mini", dimension=24)
        spelling = f"vectors:{tmp_path / 'v'}"
    task, plan = load_task("mini"), Plan(own_cache, offline=True)
    result = evaluate(load(spelling), task, [*MEASURES, "RankDistance"], plan=plan)
    names = ["mono/en", "mono/th", "cross/ar-de", "cross/zh-el", "multi/en", "multi/hi"]
    export(result, task, read(task), names, tmp_path, own_cache)
    judge_by_ir_measures(result, tmp_path, names)


def test_ir_measures_agrees_on_real_data(data: Path, tmp_path: Path, own_cache: Path) -> None:
    """MLQA-R, where cells have different queries; top 100 of a cell is enough for RR@100-like values."""
    plan = Plan(own_cache, data=data)
    task = load_task("mlqa-r")
    # Full-depth runs of all 56 cells would be 90 million lines: two cells, by a task of two languages.
    small = vary(task, languages=("es", "zh"), settings=("cross",))
    result = evaluate(load("hash"), small, MEASURES, plan=plan)
    assert [len(cell.query_ids) for cell in result.cells] == [161, 161]
    assert [cell.left_out for cell in result.cells] == [339, 343]
    names = ["cross/es-zh", "cross/zh-es"]
    export(result, small, read(small, data), names, tmp_path, own_cache)
    judge_by_ir_measures(result, tmp_path, names)


def test_given_vectors_equal_the_encoder(tmp_path: Path, own_cache: Path) -> None:
    save_vectors(tmp_path / "v", "mini")
    plan = Plan(own_cache, offline=True)
    by_files = evaluate(load(f"vectors:{tmp_path / 'v'}"), load_task("mini"), plan=plan)
    by_hash = evaluate(load("hash"), load_task("mini"), plan=plan)
    assert by_files.summary() == by_hash.summary()
    assert by_files.texts == {"total": 1375, "distinct": 1375}
    assert set(by_files.model["identity"]["files"]) == {
        f"{r}.{a}.npy" for r in ("queries", "passages") for a in load_task("mini").languages
    }


def test_neither_threads_nor_blocks_change_a_byte(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of the vectors are duplicates, two fifths near-duplicates, 1e-6 or 1e-7 apart."""
    save_vectors(tmp_path / "v", "mini", dimension=300)
    rng = np.random.default_rng(5)
    for path in sorted((tmp_path / "v").glob("passages.*.npy")):
        np.save(path, copies(rng, len(np.load(path)), 300))
    model, task = load(f"vectors:{tmp_path / 'v'}"), load_task("mini")
    written = []
    for block, tile, threads in [(None, None, 1), (1, 9_000, 2), (7, 40_000, 1), (64, 300_000, 2), (528, 10**8, 2)]:
        if block and tile:
            monkeypatch.setattr(ranking, "TILE_BYTES", tile)  # 35 to all 847 passages
            monkeypatch.setattr("xbench.evaluate.passages_above", partial(passages_above, block=block))
            monkeypatch.setattr("xbench.evaluate.first_passages", partial(first_passages, block=block))
        result = evaluate(model, task, ["AP", "RankDistance", "MRC@50"], plan=Plan(own_cache, threads=threads))
        folder = write_result(result, tmp_path / f"{block}").parent
        written.append({p.name: p.read_bytes() for p in folder.iterdir() if p.name != "mini.timing.json"})
    assert sorted(written[0]) == [
        f"mini.{end}" for end in ("json", *(f"{t}.parquet" for t in ("queries", "ranks", "top")))
    ]
    assert all(files == written[0] for files in written)


def test_the_result_file_keeps_the_contract(tmp_path: Path, own_cache: Path) -> None:
    result = evaluate(load("hash"), load_task("mini"), plan=Plan(own_cache))
    path = write_result(result, tmp_path / result.model["slug"])
    assert path == tmp_path / result.model["slug"] / "mini.json"
    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert found["schema"] == 1
    assert set(found["task"]) == {"name", "version", "sha256"}
    assert {"name", "fingerprint"} <= set(found["model"])
    assert set(found["summary"]) == {"mono", "cross", "multi"}
    assert {"AP", "RR", "RankDistance", "RankDistanceMedian", "nRankDistance"} <= set(found["summary"]["multi"])
    assert not any("RankDistance" in c["values"] for c in found["cells"] if c["setting"] != "multi")
    for cell in found["cells"]:
        keys = {"setting", "query_language", "passage_languages", "queries", "passages", "left_out", "values"}
        assert set(cell) == {*keys, "missing", "intervals"} and cell["queries"] == 48 and cell["missing"] == 0
    frame = pandas.read_parquet(tmp_path / result.model["slug"] / "mini.queries.parquet")
    assert len(frame) == 132 * 48 and list(frame)[:2] == ["cell", "query_id"]
    for cell in result.cells:
        rows = frame[frame["cell"] == cell.cell.name]
        for name, value in cell.values.items():
            column = "RankDistance" if name == "RankDistanceMedian" else name
            assert parse(name).aggregate(rows[column].to_numpy()) == value
        assert cell.cell.setting == "multi" or rows["RankDistance"].isna().all()


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda f: (f / "queries.th.npy").unlink(), DataError, ["queries.th.npy", "missing", "(48, d)"]),
        (
            save("passages.de.npy", np.ones((5, 8), "f4")),
            DataError,
            ["passages.de.npy", "(5, 8)", "(77, d)", "de:0.0.0"],
        ),
        (save("passages.de.npy", np.ones((77, 8), "f8")), DataError, ["passages.de.npy", "float64"]),
        (save("passages.de.npy", np.ones(77, "f4")), DataError, ["passages.de.npy", "(77,)"]),
        (save("passages.de.npy", np.ones((77, 9), "f4")), DataError, ["passages.de.npy", "9", "8"]),
        (lambda f: (f / "passages.de.npy").write_bytes(b"\x93NUMPY"), DataError, ["passages.de.npy", "not a .npy"]),
        (save("passages.de.npy", np.array([{}] * 77)), DataError, ["passages.de.npy"]),
        (save("passages.de.npy", np.ones((77, 0), "f4")), DataError, ["passages.de.npy", "(77, 0)"]),
        (archive, DataError, ["passages.de.npy", ".npz"]),
        (save("queries.de.npy", np.full((48, 8), np.nan, "f4")), ModelOutputError, ["NaN", "de:tea-1"]),
        (save("queries.de.npy", np.zeros((48, 8), "f4")), ModelOutputError, ["zero vector", "de:tea-1"]),
        (save("queries.de.npy", np.full((48, 8), 1e20, "f4")), ModelOutputError, ["overflow"]),
    ],
)
def test_bad_vectors(damage, error, words, tmp_path: Path, own_cache: Path) -> None:
    save_vectors(tmp_path / "v", "mini", dimension=8)
    if error is ModelOutputError and words == ["overflow"]:
        np.save(tmp_path / "v" / "passages.de.npy", np.full((77, 8), 1e19, "f4"))
    damage(tmp_path / "v")
    with pytest.raises(error) as caught:
        evaluate(load(f"vectors:{tmp_path / 'v'}"), load_task("mini"), plan=Plan(own_cache))
    assert all(word in str(caught.value) for word in words), caught.value
