"""Results in others' forms, and others' results in ours."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from boardfiles import SLUG, boards, copied
from click.testing import CliRunner
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given
from hypothesis import strategies as st

from xbench.cli import cli
from xbench.errors import DataError, UsageError
from xbench.leaderboard.boards import load_board
from xbench.leaderboard.entries import entries
from xbench.leaderboard.imported import import_mteb
from xbench.leaderboard.reported import HEADER, read_rows
from xbench.modelindex import model_index, number
from xbench.mteb import name_of, read_mteb, to_mteb
from xbench.records import Cell
from xbench.results import read_result
from xbench.tasks import load_task


def test_a_result_in_mtebs_shape(tmp_path: Path) -> None:
    path = copied(tmp_path)
    done = CliRunner().invoke(cli, ["export", str(path), "--mteb", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.exception
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mini.mteb.json"]
    content = json.loads((tmp_path / "out" / "mini.mteb.json").read_text())
    stored = json.loads(path.read_text())
    # The fields of mteb.results.task_result.TaskResult and what its validators ask of scores.
    assert set(content) == {
        "dataset_revision",
        "task_name",
        "mteb_version",
        "scores",
        "evaluation_time",
        "kg_co2_emissions",
    }
    assert content["task_name"] == "mini" and content["dataset_revision"] == stored["task"]["sha256"]
    scores = content["scores"]["test"]
    assert len(scores) == 132
    for entry, cell in zip(scores, stored["cells"], strict=True):
        assert isinstance(entry["languages"], list) and isinstance(entry["hf_subset"], str)
        values = cell["values"]
        assert entry["main_score"] == values["AP"] and entry["ndcg_at_10"] == values["nDCG@10"]
        assert entry["recall_at_100"] == values["R@100"] and entry["hit_rate_at_1"] == values["Success@1"]
        assert entry["map_at_1000"] == values["AP"] and entry["mrr_at_1000"] == values["RR"]  # pools of 77 and 847
        assert not [key for key in entry if "istance" in key]
    (cross,) = (s for s in scores if s["hf_subset"] == "cross/ar-de")
    assert cross["languages"] == ["ara-Arab", "deu-Latn"]


def test_a_measure_without_a_cutoff_is_another_in_a_large_pool(tmp_path: Path) -> None:
    result = read_result(copied(tmp_path))
    large = replace(result, cells=[replace(cell, passages=1001) for cell in result.cells])
    content, lost = to_mteb(large, load_task("mini"))
    assert {"AP", "RR", "RankDistance"} <= set(lost)
    assert "map_at_1000" not in content["scores"]["test"][0] and "main_score" in content["scores"]["test"][0]


@pytest.mark.parametrize(
    ("task", "cell", "name"),
    [
        ("xquad", Cell("mono", "ar", ("ar",)), ("XQuADRetrieval", "validation", "ar")),
        ("mlqa-dev", Cell("cross", "ar", ("zh",)), ("MLQARetrieval", "validation", "zho-ara")),
        ("mlqa-test", Cell("mono", "de", ("de",)), ("MLQARetrieval", "test", "deu-deu")),
        ("belebele", Cell("cross", "eng_Latn", ("acm_Arab",)), ("BelebeleRetrieval", "test", "acm_Arab-eng_Latn")),
        ("miracl", Cell("mono", "yo", ("yo",)), ("MIRACLRetrieval", "dev", "yo")),
    ],
)
def test_names_of_mteb(task: str, cell: Cell, name: tuple[str, str, str]) -> None:
    found = name_of(load_task(task))
    assert (found.task, found.split, found.subset(cell)) == name and cell in load_task(task).cells()


def mteb_file(path: Path, **changes: Any) -> Path:
    """As MTEB writes one, shortened."""
    entry = {
        "ndcg_at_10": 0.91234,
        "map_at_1000": 0.875,
        "recall_at_10": 1.0,
        "mrr_at_10": 0.5,
        "hit_rate_at_1": 0.25,
        "nauc_ndcg_at_10_max": -0.25,
        "main_score": 0.91234,
        "hf_subset": "ar",
        "languages": ["ara-Arab"],
    }
    scores = [entry | changes.pop("entry", {}), entry | {"hf_subset": "ro"}]
    content = {
        "dataset_revision": "r",
        "task_name": "XQuADRetrieval",
        "mteb_version": "2.1.0",
        "evaluation_time": 1.5,
        "kg_co2_emissions": None,
        "scores": {"validation": scores},
    } | changes
    path.write_text(json.dumps(content))
    return path


def test_an_mteb_file_is_read(tmp_path: Path) -> None:
    found = read_mteb(mteb_file(tmp_path / "x.json"), load_task("xquad"))
    right = {"nDCG@10": 0.91234, "AP@1000": 0.875, "R@10": 1.0, "RR@10": 0.5, "Success@1": 0.25}
    assert found.values == {Cell("mono", "ar", ("ar",)): right}
    assert found.others == {"nauc_ndcg_at_10_max": 1, "subset ro": 1}


@pytest.mark.parametrize(
    ("changes", "error", "what"),
    [
        ({"task_name": "MLQARetrieval"}, UsageError, "of 'MLQARetrieval'; xquad is MTEB's XQuADRetrieval"),
        ({"scores": {"test": []}}, UsageError, "no subset of XQuADRetrieval, split validation"),
        ({"scores": []}, UsageError, "no subset"),
        ({"scores": 3}, DataError, "not a result file of MTEB"),
        ({"scores": {"validation": [3]}}, DataError, "not a result file of MTEB"),
        ({"entry": {"ndcg_at_10": 91.2}}, DataError, "ar: ndcg_at_10: found 91.2, expected a number from 0 to 1"),
        ({"entry": {"ndcg_at_10": "0.5"}}, DataError, "found '0.5'"),
        ({"entry": {"ndcg_at_10": True}}, DataError, "found True"),
        ({"entry": {"ndcg_at_10": None}}, DataError, "found None"),
        ({"entry": {"ndcg_at_10": -0.5}}, DataError, "found -0.5"),
    ],
)
def test_what_is_wrong_in_an_mteb_file(tmp_path: Path, changes: dict[str, Any], error: Any, what: str) -> None:
    with pytest.raises(error, match=what):
        read_mteb(mteb_file(tmp_path / "x.json", **changes), load_task("xquad"))


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_nan_is_refused(tmp_path: Path, value: str) -> None:
    path = mteb_file(tmp_path / "x.json")
    path.write_text(path.read_text().replace("0.875", value, 1))
    with pytest.raises(DataError, match="map_at_1000: found (nan|inf), expected a number from 0 to 1"):
        read_mteb(path, load_task("xquad"))


def test_nan_of_what_is_not_imported_is_no_matter(tmp_path: Path) -> None:
    """As in nauc_recall_at_1000_max of the published XQuADRetrieval.json of multilingual-e5-base, at d3ead282."""
    path = mteb_file(tmp_path / "x.json")
    path.write_text(path.read_text().replace("-0.25", "NaN", 1))
    assert read_mteb(path, load_task("xquad")).values[Cell("mono", "ar", ("ar",))]["nDCG@10"] == 0.91234


BOARD = """name = "b"
title = "B"
tasks = [{ name = "mini", version = 1 }]
columns = ["mono nDCG@10", "multi nDCG@10"]
rank = "mono nDCG@10"
reported = ["s"]
"""


def test_out_and_in_again(tmp_path: Path) -> None:
    """What is exported to MTEB's shape and imported is the same row, but reported."""
    folder = boards(tmp_path / "boards", BOARD)
    result = read_result(copied(folder / "results"))
    content, _ = to_mteb(result, load_task("mini"))
    (tmp_path / "mini.json").write_text(json.dumps(content))
    arguments = ["leaderboard", "import", str(tmp_path / "mini.json"), "--task", "mini", "--system", "hash, again"]
    done = CliRunner().invoke(cli, [*arguments, "--source", "s", "--folder", str(folder)])
    assert done.exit_code == 0, done.exception
    (folder / "reported" / "s.toml").write_text('source = "S"\ntitle = "T"\nurl = "https://example.org"\n')
    measured, reported = entries(load_board(folder, "b"), folder)
    assert (measured.kind, reported.kind, reported.name) == ("measured", "reported", "hash, again")
    assert reported.missing == measured.missing == {}
    for column in load_board(folder, "b").board.columns:
        assert reported.means[column].value == pytest.approx(measured.means[column].value, abs=1e-9)
    for key, values in measured.cells["mini"].items():
        assert reported.cells["mini"][key]["nDCG@10"] == pytest.approx(values["nDCG@10"], abs=1e-9)
    with pytest.raises(UsageError, match="has AP@1000 of hash, again in mono/ar already"):
        import_mteb([tmp_path / "mini.json"], load_task("mini"), "hash, again", "s", folder)
    before = (folder / "reported" / "s.csv").read_text()
    import_mteb([tmp_path / "mini.json"], load_task("mini"), "another", "s", folder)
    assert (folder / "reported" / "s.csv").read_text().startswith(before) and before.startswith(HEADER)
    assert {row.system for row in read_rows(folder / "reported" / "s.csv")} == {"hash, again", "another"}
    for source, system in (("../s", "x"), ("s", " "), ("s", "a\nb")):
        with pytest.raises(UsageError):
            import_mteb([tmp_path / "mini.json"], load_task("mini"), system, source, folder)


def test_a_model_index_is_what_the_hub_reads(tmp_path: Path) -> None:
    path = copied(tmp_path)
    done = CliRunner().invoke(cli, ["export", str(path), "--model-card"])
    assert done.exit_code == 0, done.exception
    text = (tmp_path / SLUG / "mini.model-index.yaml").read_text()
    summary = json.loads(path.read_text())["summary"]
    name, results = model_index_to_eval_results(yaml.safe_load(text)["model-index"])
    assert name == "hash"
    found = {(r.dataset_type, r.dataset_config, r.metric_type): r.metric_value for r in results}
    assert found == {("mini", setting, m): v for setting, values in summary.items() for m, v in values.items()}
    assert {r.task_type for r in results} == {"text-retrieval"}
    assert {r.dataset_revision for r in results} == {json.loads(path.read_text())["task"]["sha256"]}
    card = ModelCard(f"---\nlanguage: en\n{text}---\n# Card\n")
    assert card.data.eval_results and len(card.data.eval_results) == len(found)


@given(st.text(), st.text(), st.floats(0, 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_model_index_of_any_text(name: str, task: str, value: float) -> None:
    text = model_index(name, [{"task": {"name": task, "version": 1}, "values": {"mono": {"AP": value}, "multi": {}}}])
    (model,) = yaml.safe_load(text)["model-index"]
    (result,) = model["results"]
    assert model["name"] == name and result["dataset"]["type"] == task
    assert result["metrics"] == [{"type": "AP", "name": "mono AP", "value": value}]
    assert isinstance(yaml.safe_load(number(value)), float)
