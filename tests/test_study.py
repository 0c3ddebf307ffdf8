"""Studies: real training of very small models, killed and resumed; their figures against others, computed slowly."""

import dataclasses
import itertools
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from own import beir, error, jsonl
from own import run as xbench

from xbench.cli.train import _override
from xbench.errors import DataError, IntegrityError, UsageError, XbenchError
from xbench.tables import Table
from xbench.train import report as reports
from xbench.train import trials
from xbench.train.config import read_config
from xbench.train.loop import train
from xbench.train.outcomes import Outcome, outcome, t_interval
from xbench.train.plots import plots
from xbench.train.prepare import find_files, read_table
from xbench.train.report import means_table, report, to_json
from xbench.train.sampling import Sampler
from xbench.train.study import Claim, Study, read_study, study_names
from xbench.train.trials import Trial, find_tasks, finished, run_all, selected

CONFIG = """
[data]
files = ["pairs.jsonl"]
[model]
base = "static"
vocabulary = 400
dim = 16
[training]
steps = 12
batch_size = 16
learning_rate = 0.05
warmup = 2
checkpoint_every = 4
"""
STUDY = """
name = "small"
question = "Which?"
tasks = ["own.toml"]
measures = ["AP", "RankDistance"]
baseline = "x-x"
[groups.script]
latin = ["de", "en"]
[models.static]
config = "config.toml"
seeds = [0, 3, 4]
[variants.x-x]
"sampling.mode" = "x-x"
[variants.x-y]
"sampling.mode" = "x-y"
[variants.hybrid]
"sampling.mode" = "hybrid"
"sampling.alpha" = 0.25
[[claims]]
text = "Across languages X-Y is better."
source = "this test"
better = "x-y"
than = "hybrid"
setting = "cross"
measure = "AP"
[[claims]]
text = "Hybrid has less rank distance."
source = "this test"
better = "hybrid"
than = "x-x"
setting = "multi"
measure = "RankDistance"
"""

Found = tuple[Study, dict[str, dict[str, list[Trial]]], Outcome]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 200 pairs in two languages, and a task of twelve questions in both."""
    folder, rng = tmp_path_factory.mktemp("world"), random.Random(0)
    rows = []
    for group in range(100):
        topics = rng.sample(range(40), 3)
        for language in ("de", "en"):
            words = [f"{language}{topic}x" for topic in topics]
            question = f"{' '.join(rng.sample(words, 2))} {language}q{group}"
            passage = f"{' '.join(words)} {language}p{group}"
            rows.append({"group": f"g{group}", "lang": language, "question": question, "passage": passage})
    jsonl(folder / "pairs.jsonl", rows)
    topics_of = [rng.sample(range(40), 3) for _ in range(12)]
    for language in ("de", "en"):
        texts = {f"d{i}": " ".join(f"{language}{topic}x" for topic in some) for i, some in enumerate(topics_of)}
        asked = {f"q{i}": f"{language}{some[0]}x {language}?" for i, some in enumerate(topics_of)}
        beir(folder / "own" / language, texts, asked, [(f"q{i}", f"d{i}", 1) for i in range(12)])
    (folder / "config.toml").write_text(CONFIG)
    (folder / "study.toml").write_text(STUDY)
    own = ("tasks", "new", "own", "--from", folder / "own", "--parallel", "-m", "AP", "-m", "RankDistance")
    assert xbench(*own, "-o", folder / "own.toml") == 0
    return folder


def go(
    folder: Path, config: Path, only: tuple[str, ...] = (), teach: Callable[..., Path] = train, data: Path | None = None
) -> list[Table]:
    """As the command does it."""
    study = read_study(str(config))
    tasks = find_tasks(study, data)
    run_all(study, selected(study, only), folder, tasks, teach, cache=config.parent / "cache", data=data, threads=1)
    return report(study, folder, tasks)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("done again")


@pytest.fixture(scope="module")
def done(world: Path) -> Path:
    """The study, finished; not to be written into."""
    folder = world / "done"
    assert go(folder, world / "study.toml")
    return folder


@pytest.fixture
def copy(done: Path, world: Path, tmp_path: Path) -> Iterator[Path]:
    """The same, to be broken; definitions beside it."""
    for name in ("config.toml", "study.toml", "own.toml", "pairs.jsonl"):
        shutil.copy(world / name, tmp_path)
    shutil.copytree(world / "own", tmp_path / "own")
    shutil.copytree(world / "cache", tmp_path / "cache")
    shutil.copytree(done, tmp_path / "out")
    yield tmp_path / "out"


REPORT = ("study.json", "table.md", "table.csv", "plots/own-AP.svg", "plots/own-AP-static-languages.svg")


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in (*REPORT, "plots/own-RankDistance.svg")}


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


# What is done is kept


def test_what_is_there_is_not_done_again(done: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(done)
    for name in before:
        (copy / name).unlink()
    monkeypatch.setattr(trials, "evaluate", never)
    go(copy, copy.parent / "study.toml", teach=never)
    assert files(copy) == before  # another folder, another day
    assert not list(copy.rglob("vectors")) and not list(copy.rglob("checkpoint-*"))


def test_a_lost_result_is_made_again_and_nothing_else(copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*.json") if "timing" not in path.name}
    shutil.rmtree(copy / "results" / "static" / "x-y" / "seed-3")
    study = read_study(str(copy.parent / "study.toml"))
    run_all(study, study.runs(), copy, find_tasks(study, None), never, cache=copy.parent / "cache", threads=1)
    assert {path: path.read_bytes() for path in before} == before


def test_scores_are_in_the_card(done: Path) -> None:
    record = json.loads((done / "static/x-y/seed-3/training.json").read_text())
    result = json.loads((done / "results/static/x-y/seed-3/own.json").read_text())
    assert record["scores"] == [{"task": result["task"], "values": result["summary"]}]
    assert "| own" in (done / "static/x-y/seed-3/model/README.md").read_text()
    assert result["model"]["name"] == "small/static/x-y/seed-3"


def start(world: Path, folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "xbench", "study", str(world / "study.toml"), "-o", str(folder), "--threads", "1"]
    environment = os.environ | {"XBENCH_CACHE": str(folder.parent / "cache")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_killed_and_resumed(world: Path, done: Path, tmp_path: Path) -> None:
    """Once in a training run, once between training and evaluation of another; then it goes on to the same bytes."""
    folder = tmp_path / "out"
    for sign in ("static/x-y/seed-0/checkpoint-*", "static/hybrid/seed-3/training.json"):
        process = start(world, folder)
        while process.poll() is None and not list(folder.glob(sign)):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was faster than this test"
    go(folder, world / "study.toml")
    assert files(folder) == files(done)


@pytest.mark.slow
def test_killed_twelve_times(world: Path, done: Path, tmp_path: Path) -> None:
    folder, rng = tmp_path / "out", random.Random(1)
    for _ in range(12):
        process = start(world, folder)
        time.sleep(rng.uniform(3, 9))
        process.kill()
        process.wait()
    go(folder, world / "study.toml")
    assert files(folder) == files(done)


def test_what_does_not_match(copy: Path) -> None:
    study = copy.parent / "study.toml"

    def refused(kind: type[XbenchError], phrase: str) -> None:
        with pytest.raises(kind, match=phrase):
            go(copy, study, teach=never)

    one, other = (copy / "static" / variant / "seed-0" / "model" / "model.safetensors" for variant in ("x-x", "x-y"))
    kept = one.read_bytes()
    shutil.copy(other, one)
    refused(IntegrityError, "x-x/seed-0/own.json: of another model")
    one.write_bytes(kept)

    change(study, '"RankDistance"]', '"RankDistance", "R@3"]')
    refused(DataError, r"own.json: has no R@3; move it away")
    change(study, '"RankDistance", "R@3"]', '"RankDistance"]')

    change(copy.parent / "own.toml", "version = 1", "version = 2")
    refused(IntegrityError, "own.json: of another version of own")
    change(copy.parent / "own.toml", "version = 2", "version = 1")

    record = copy / "static/hybrid/seed-3/training.json"
    digest = next(iter(json.loads(record.read_text())["data"]["files"].values()))
    change(record, digest, "0" * 64)
    refused(IntegrityError, r"hybrid/seed-3: trained on another pairs.jsonl \(000000000000\)")
    change(record, "0" * 64, digest)

    change(copy.parent / "config.toml", "dim = 16", "dim = 24")
    refused(DataError, "training.json: of another config")
    for path in copy.rglob("training.json"):
        path.unlink()
    refused(DataError, "config.json: of another config")


def test_a_run_that_fails_leaves_the_others(copy: Path, done: Path) -> None:
    place = copy / "static" / "hybrid" / "seed-4"
    shutil.rmtree(place)
    shutil.rmtree(copy / "results" / "static" / "hybrid" / "seed-4")
    (copy / "study.json").unlink()

    def fails(*_: Any, **__: Any) -> Path:
        raise XbenchError("the loss is nan")

    with pytest.raises(XbenchError, match="nan"):
        go(copy, copy.parent / "study.toml", teach=fails)
    assert go(copy, copy.parent / "study.toml", only=("x-x/*",), teach=never) == []  # no half models
    shutil.copytree(done / "static" / "hybrid" / "seed-4", place)  # trained, but not evaluated
    assert go(copy, copy.parent / "study.toml", only=("x-x/*",), teach=never) == []
    assert not (copy / "study.json").exists()


# The figures


def read(folder: Path, variant: str, seed: int) -> pd.DataFrame:
    return pd.read_parquet(folder / "results" / "static" / variant / f"seed-{seed}" / "own.queries.parquet")


def slow_means(frame: pd.DataFrame, measure: str) -> dict[str, float]:
    """Setting -> mean over cells of means over queries."""
    cells = frame.dropna(subset=[measure]).groupby("cell")[measure].mean()
    return {str(s): float(g.mean()) for s, g in cells.groupby(lambda cell: cell.split("/")[0])}


def slow_gaps(folder: Path, first: str, second: str, setting: str, measure: str) -> np.ndarray[Any, Any]:
    """(questions,): what each adds to the difference of the macro means, of values averaged over seeds."""
    gaps: dict[str, float] = {f"q{i}": 0.0 for i in range(12)}
    for variant, sign in ((second, 1.0), (first, -1.0)):
        for seed in (0, 3, 4):
            frame = read(folder, variant, seed)
            frame = frame[frame["cell"].str.startswith(setting)]
            cells = frame["cell"].nunique()
            for query, value in zip(frame["query_id"], frame[measure], strict=True):
                gaps[query.split(":")[1]] += sign * value / 3 / 12 / cells
    return np.array([gaps[name] for name in sorted(gaps)])


def slow_p(gaps: np.ndarray[Any, Any]) -> float:
    """All 4,096 ways to change sides."""
    null = [abs(float(np.dot(signs, gaps))) for signs in itertools.product((1, -1), repeat=len(gaps))]
    return sum(value >= abs(gaps.sum()) - 1e-12 for value in null) / len(null)


def slow_holm(p: list[float]) -> list[float]:
    order = sorted(range(len(p)), key=lambda i: p[i])
    found = [0.0] * len(p)
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[i]))
        found[i] = largest
    return found


SETTINGS = {"AP": ("mono", "cross", "multi"), "RankDistance": ("multi",)}


def test_values(done: Path) -> None:
    about = json.loads((done / "study.json").read_text())
    values = {(v["variant"], v["measure"], v["where"]): v for v in about["values"]}
    for variant in ("x-x", "x-y", "hybrid"):
        for measure, settings in SETTINGS.items():
            means = [slow_means(read(done, variant, seed), measure) for seed in (0, 3, 4)]
            for setting in settings:
                value = values[variant, measure, setting]
                seeds = [mean[setting] for mean in means]
                middle = sum(seeds) / 3
                reach = 4.302652729911275 * (sum((s - middle) ** 2 for s in seeds) / 2 / 3) ** 0.5  # t, 2 degrees
                np.testing.assert_allclose(value["seeds"], seeds, rtol=1e-12)
                np.testing.assert_allclose(value["value"], middle, rtol=1e-12)
                np.testing.assert_allclose(value["over_seeds"], [middle - reach, middle + reach], atol=1e-9)
    assert values["x-y", "AP", "script: mono: latin"]["value"] == values["x-y", "AP", "mono"]["value"]


def test_intervals_over_queries(done: Path) -> None:
    """Twelve questions drawn with replacement, in both languages and all seeds at once."""
    drawn = np.random.default_rng(0).integers(0, 12, (10_000, 12))
    gaps = slow_gaps(done, "x-x", "x-y", "cross", "AP")  # in the order of the names, in which clusters are drawn
    ends = np.quantile(12 * gaps[drawn].mean(axis=1), [0.025, 0.975])
    about = json.loads((done / "study.json").read_text())
    (test,) = (t for t in about["tests"] if (t["second"], t["where"], t["measure"]) == ("x-y", "cross", "AP"))
    np.testing.assert_allclose(test["over_queries"], ends, atol=1e-12)


def test_tests_against_the_baseline(done: Path) -> None:
    about = json.loads((done / "study.json").read_text())
    tests = {(t["second"], t["where"], t["measure"]): t for t in about["tests"]}
    keys = [(s, w, m) for m, settings in SETTINGS.items() for s in ("x-y", "hybrid") for w in settings]
    assert [key for key in tests if not key[1].startswith("script")] == sorted(keys, key=[*tests].index)
    p = {}
    for second, where, measure in keys:
        test, gaps = tests[second, where, measure], slow_gaps(done, "x-x", second, where, measure)
        p[second, where, measure] = slow_p(gaps)
        assert test["first"] == "x-x" and test["seeds"] == 3
        np.testing.assert_allclose([test["difference"], test["p"]], [gaps.sum(), p[second, where, measure]], atol=1e-12)
        seeds = [
            slow_means(read(done, second, s), measure)[where] - slow_means(read(done, "x-x", s), measure)[where]
            for s in (0, 3, 4)
        ]
        assert test["agree"] == sum((gap > 0) == (gaps.sum() > 0) for gap in seeds if abs(gap) > 1e-12)
        ends = t_interval(seeds)
        assert ends is not None
        np.testing.assert_allclose(test["over_seeds"], ends, atol=1e-9)
    for measure in SETTINGS:  # a family each
        mine = [key for key in keys if key[2] == measure]
        np.testing.assert_allclose([tests[k]["p_holm"] for k in mine], slow_holm([p[k] for k in mine]), atol=1e-12)
    assert min(p.values()) < 0.05, "nothing to see"


def test_claims(done: Path) -> None:
    about = json.loads((done / "study.json").read_text())
    first, second = about["claims"]
    p = [
        slow_p(slow_gaps(done, "hybrid", "x-y", "cross", "AP")),
        slow_p(slow_gaps(done, "x-x", "hybrid", "multi", "RankDistance")),
    ]
    np.testing.assert_allclose([c["test"]["p_holm"] for c in (first, second)], slow_holm(p), atol=1e-12)
    assert (first["test"]["first"], first["test"]["second"], first["better"]) == ("hybrid", "x-y", "x-y")
    assert "Across languages X-Y is better." in (done / "table.md").read_text()


@pytest.fixture(scope="module")
def found(world: Path, done: Path) -> Found:
    """The study, its trials, and their outcome."""
    study = read_study(str(world / "study.toml"))
    known = finished(study, done, find_tasks(study, None))
    return study, known, outcome(study, known)


def moved(trial: Trial, by: float) -> Trial:
    """With all its values so much higher."""
    result = trial.results["own"]
    cells = []
    for cell in result.cells:
        per_query = {name: v + by for name, v in cell.per_query.items()}
        values = {name: value + by for name, value in cell.values.items()}
        cells.append(dataclasses.replace(cell, per_query=per_query, values=values))
    return trial._replace(results={"own": dataclasses.replace(result, cells=cells)})


def test_verdicts(found: Found) -> None:
    """X-X and X-Y are made alike, and hybrid is worse by AP; so its rank distance is better."""
    study, known, _ = found
    claims = {
        ("x-y", "hybrid", "cross", "AP"): "confirmed",
        ("hybrid", "x-x", "multi", "AP"): "contradicted",
        ("hybrid", "x-x", "multi", "RankDistance"): "confirmed",
        ("x-y", "hybrid", "multi", "RankDistance"): "contradicted",
        ("x-y", "x-x", "mono", "AP"): "not confirmed",
    }
    study = dataclasses.replace(study, claims=tuple(Claim("c", "s", *key) for key in claims))
    alike = known["static"]["x-x"]
    made = {"x-x": alike, "x-y": alike, "hybrid": [moved(trial, -0.1) for trial in alike]}
    got = outcome(study, {"static": made})
    assert {v.claim[2:]: v.verdict for v in got.verdicts} == claims
    assert [v.claim for v in got.verdicts] == [*study.claims]
    assert [v.test.agree for v in got.verdicts] == [3, 3, 3, 3, 0]
    table = means_table(study, got)
    assert table.columns[4:] == ["AP mono", "AP cross", "AP multi", "RankDistance multi"]
    marked = {row[2]: [str(value).endswith("*") for value in row[4:]] for row in table.rows}
    assert marked == {"x-x": [False] * 4, "x-y": [False] * 4, "hybrid": [True] * 4}


def test_what_one_seed_contradicts_is_not_confirmed(found: Found) -> None:
    study, known, _ = found
    study = dataclasses.replace(study, claims=(Claim("c", "s", "x-x", "hybrid", "cross", "AP"),))
    alike = known["static"]["x-x"]
    for shifts, expected, agree in (((-0.2, -0.2, 0.01), "not confirmed", 2), ((-0.2, -0.2, -0.01), "confirmed", 3)):
        worse = [moved(trial, by) for trial, by in zip(alike, shifts, strict=True)]
        got = outcome(study, {"static": {"x-x": alike, "x-y": alike, "hybrid": worse}})
        (verdict,) = got.verdicts
        assert verdict.test.p_holm < 0.05 and (verdict.verdict, verdict.test.agree) == (expected, agree)


def test_the_files_of_all_runs_are_named(found: Found) -> None:
    study, known, outcome_ = found
    last = known["static"]["hybrid"][-1]
    data = {**last.record["data"], "files": {"more.jsonl": "1" * 64}}
    changed = last._replace(record={**last.record, "data": data})
    trials = {"static": {**known["static"], "hybrid": [*known["static"]["hybrid"][:-1], changed]}}
    assert set(to_json(study, trials, outcome_)["files"]) == {"pairs.jsonl", "more.jsonl"}


def test_results_with_other_queries(found: Found) -> None:
    study, known, _ = found
    trial = known["static"]["x-x"][1]
    cells = list(trial.results["own"].cells)
    cells[0] = dataclasses.replace(cells[0], query_ids=cells[0].query_ids[::-1])
    broken = trial._replace(results={"own": dataclasses.replace(trial.results["own"], cells=cells)})
    some = [known["static"]["x-x"][0], broken]
    with pytest.raises(DataError, match="different queries"):
        outcome(study, {"static": {**known["static"], "x-x": some}})


def test_a_claim_about_nothing(found: Found) -> None:
    study, known, _ = found
    claim = study.claims[0]._replace(setting="script: mono: greek")
    with pytest.raises(DataError, match="no task has AP of script: mono: greek"):
        outcome(dataclasses.replace(study, claims=(claim,)), known)


def test_t_interval_of_one_seed() -> None:
    assert t_interval([0.5]) is None


# What is written


def test_the_report(done: Path) -> None:
    about = json.loads((done / "study.json").read_text())
    assert [run["run"] for run in about["runs"]][:2] == ["static/x-x/seed-0", "static/x-x/seed-3"]
    assert about["missing"] == about["left_out"] == []
    text = (done / "study.json").read_text()
    assert str(done) not in text and str(done.parent) not in text  # nothing of this machine
    cells = {each["variant"]: each["cells"] for each in about["cells"]}["hybrid"]
    means = [read(done, "hybrid", s).groupby("cell")["AP"].mean()["cross/de-en"] for s in (0, 3, 4)]
    np.testing.assert_allclose(cells["cross/de-en"]["AP"][0], sum(means) / 3, rtol=1e-12)
    rows = (done / "table.csv").read_text().split("\n")
    assert rows[1].startswith("model,task,where,measure,variant,seeds,value,")
    assert len(rows) == 2 + len(about["values"]) + 1


def texts_of(svg: bytes) -> set[str]:
    return {"".join(each.itertext()).strip() for each in ET.fromstring(svg).iter() if each.tag.endswith("}text")}


def test_plots(done: Path) -> None:
    for name in ("own-AP", "own-RankDistance", "own-AP-static-languages"):
        content = (done / "plots" / f"{name}.svg").read_bytes()
        texts = texts_of(content)
        assert {"x-x", "x-y", "hybrid", "multi"} <= texts, texts
        assert ("mono" in texts) == ("AP" in name) and ({"de", "en"} <= texts) == ("languages" in name)
        assert b"<dc:date>" not in content and b"matplotlib.org" not in content


def test_nobodys_own_settings(found: Found, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "font.size", 40.0)
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    study, _, out = found
    assert plots(study, out)["own-AP"] == (done / "plots/own-AP.svg").read_bytes()
    assert matplotlib.rcParams["font.size"] == 40.0


def test_curves(found: Found, tmp_path: Path) -> None:
    study, _, out = found
    for axis, values in (
        ("sampling.alpha", (1, 0.0, 0.5)),
        ("data.languages", (["en", "de"], ["en"], ["a", "b", "c"])),
    ):
        variants = {
            name: {"sampling.mode": "m" if name == "hybrid" else "n", axis: value}
            for name, value in zip(study.variants, values, strict=True)
        }
        made = dataclasses.replace(study, axis=axis, variants=variants)
        sizes = [len(value) if isinstance(value, list) else value for value in values]
        assert [made.place(name) for name in variants] == [(m, float(n)) for m, n in zip("nnm", sizes, strict=True)]
        texts = texts_of(plots(made, out)["own-AP"])
        assert {axis, "static m", "static n"} <= texts and "x-x" not in texts
    (tmp_path / "study.toml").write_text(STUDY.replace('name = "small"', 'name = "small"\naxis = "sampling.alpha"'))
    with pytest.raises(DataError, match=r"variants.x-x: no number, list or table 'sampling.alpha'"):
        read_study(str(tmp_path / "study.toml"))


# Definitions, tasks, commands


BAD = {
    "name: missing": ('name = "small"', ""),
    "naem: no such key": ('name = "small"', 'name = "small"\nnaem = 1'),
    "question: found 3": ('question = "Which?"', "question = 3"),
    "'../x' can name no folder": ("[models.static]", '[models."../x"]'),
    "'results' can name no folder": ("[models.static]", "[models.results]"),
    "'a/b' can name no folder": ("[variants.x-y]", '[variants."a/b"]'),
    "seed: no such key": ("seeds = [0, 3, 4]", "seed = 1"),
    "seeds: found [], expected a list": ("seeds = [0, 3, 4]", "seeds = []"),
    "[0, 0] has something twice": ("seeds = [0, 3, 4]", "seeds = [0, 0]"),
    "found [True], expected": ("seeds = [0, 3, 4]", "seeds = [true]"),
    "baseline: 'y' is no variant": ('baseline = "x-x"', 'baseline = "y"'),
    "better: 'y' is no variant": ('better = "x-y"', 'better = "y"'),
    "expected two variants": ('better = "x-y"', 'better = "hybrid"'),
    "one of the measures AP, RankDistance": ('measure = "AP"', 'measure = "RR"'),
    "is no mean over queries": ('"RankDistance"]', '"RankDistanceMedian"]'),
    "training.seed: is given by the seeds": ('"sampling.alpha" = 0.25', '"training.seed" = 1'),
    "'other' is the group of all": ("latin =", "other ="),
    "tasks: found": ('tasks = ["own.toml"]', "tasks = []"),
    "variants.x-x: found 1": ('[variants.x-x]\n"sampling.mode" = "x-x"', "[variants]\nx-x = 1"),
    "Expected '=' after a key": ("[models.static]", "[models.static"),
}


@pytest.mark.parametrize("phrase", BAD)
def test_a_wrong_definition(phrase: str, tmp_path: Path) -> None:
    old, new = BAD[phrase]
    assert old in STUDY
    (tmp_path / "study.toml").write_text(STUDY.replace(old, new))
    if phrase.startswith("Expected"):
        phrase = "study.toml"
    with pytest.raises(DataError) as caught:
        read_study(str(tmp_path / "study.toml"))
    assert phrase in str(caught.value) and "\n" not in str(caught.value)


def test_no_such_study_or_key(world: Path, tmp_path: Path) -> None:
    for name in ("hybird", "none.toml"):
        with pytest.raises(UsageError, match="hybrid"):
            read_study(name)
    shutil.copy(world / "config.toml", tmp_path)
    (tmp_path / "study.toml").write_text(STUDY.replace("sampling.alpha", "sampling.beta"))
    with pytest.raises(UsageError, match="beta"):
        read_study(str(tmp_path / "study.toml")).runs()
    same = STUDY.replace('"x-y"\n', '"x-x"\n', 1)
    (tmp_path / "study.toml").write_text(same)
    with pytest.raises(DataError, match="static/x-x/seed-0 and static/x-y/seed-0 are the same"):
        read_study(str(tmp_path / "study.toml")).runs()


def test_what_is_set_over_what(world: Path, tmp_path: Path) -> None:
    """The config, the study, the variant, the seed: each over the one before."""
    shutil.copy(world / "config.toml", tmp_path)
    text = STUDY.replace("[models.static]", '[set]\n"sampling.alpha" = 0.75\n"model.dim" = 8\n[models.static]')
    (tmp_path / "study.toml").write_text(text)
    last = read_study(str(tmp_path / "study.toml")).runs()[-1]
    assert last.name == "static/hybrid/seed-4" and last.config.training.seed == 4
    first = read_study(str(tmp_path / "study.toml")).runs()[0]
    alphas, config = (first.config.sampling.alpha, last.config.sampling.alpha), last.config
    assert (alphas, config.model.dim, config.training.steps) == ((0.75, 0.25), 8, 12)


QUESTIONS = ["alpha", "domain", "hybrid", "languages", "low-resource", "same-pairs", "unseen"]


def test_bundled_studies() -> None:
    assert study_names() == QUESTIONS
    for name in QUESTIONS:
        study = read_study(name)
        assert study.name == name and study.claims and len(study.runs()) >= 9
        assert all(run.config.data.clean_of == ("xquad-r", "mlqa-r") for run in study.runs())
        in_domain = {run.variant for run in study.runs() if "mlqa-test" not in run.config.data.without}
        assert all(name == "domain" for _ in in_domain)
    hybrid = read_study("hybrid")
    assert [len(m.seeds) for m in hybrid.models.values()] == [5, 3] and [*hybrid.variants] == ["x-x", "x-y", "hybrid"]
    assert [run.name for run in hybrid.runs()][:4] == [
        *(f"static/{variant}/seed-0" for variant in ("x-x", "x-y", "hybrid")),
        "static/x-x/seed-1",
    ]
    # The control's X-X runs are the main study's, so that they can be copied from there.
    control = {run.name: run.config for run in read_study("same-pairs").runs()}
    assert {name for name, config in control.items() if config in [run.config for run in hybrid.runs()]} == {
        f"static/x-x/seed-{seed}" for seed in range(3)
    }
    assert all(config.sampling.kinds == {"qa": 1.0} for name, config in control.items() if "/x-x/" not in name)
    languages = read_study("languages")
    assert {languages.place(v) for v in languages.variants} == {("x-x", 1.0)} | {
        (mode, float(n)) for mode in ("x-x", "hybrid") for n in (3, 5, 7, 9, 11)
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_bundled_studies_have_pairs_and_groups(name: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every variant has batches to draw, and every claim is about cells that are there."""
    cache = tmp_path_factory.getbasetemp() / "pairs"
    study = read_study(name)
    tasks = find_tasks(study, data)
    assert tasks.left_out == (["wikihop"] if name == "domain" else [])
    for claim in study.claims:
        grouping, _, rest = claim.setting.partition(": ")
        if rest:
            groups = [by for by in tasks.groupings.values() for key in by if claim.setting.startswith(f"{key}: ")]
            assert groups, claim
        else:
            assert grouping in ("mono", "cross", "multi")
    for run in study.runs():
        if run.seed == 0:
            config = run.config
            table = read_table(config, find_files(config.data, config.folder, data), cache, data)
            sampler = Sampler(table, table.used & ~table.held_out, config.sampling, 64, 0)
            assert all(len(sampler.batch(step).queries) > 32 for step in range(20))


def test_what_is_missing_is_said(copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A task without data, a model that is not trained, and the library for plots."""
    study, empty = copy.parent / "study.toml", copy.parent / "nothing"
    empty.mkdir()
    shutil.rmtree(copy / "plots")
    change(study, "[variants.x-x]", '[models.other]\nconfig = "config.toml"\nseeds = [7]\n[variants.x-x]')
    change(study, 'tasks = ["own.toml"]', 'tasks = ["own.toml", "wikihop"]')
    with pytest.raises(DataError, match="wikihop"):
        go(copy, study, teach=never, data=empty)
    change(study, 'tasks = ["own.toml", "wikihop"]', 'tasks = ["own.toml"]\noptional = ["wikihop", "mlqa-r"]')
    change(study, "[groups.script]", '[groups.new]\nall = ["de", "en"]\n[groups.script]')  # needs no new results
    monkeypatch.setattr(reports.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level("INFO", "xbench"):
        tables = go(copy, study, only=("static/*/*",), teach=never, data=empty)
    assert {row[0] for row in tables[0].rows} == {"static"}
    about, missing = (
        json.loads((copy / "study.json").read_text()),
        [f"other/{v}/seed-7" for v in ("x-x", "x-y", "hybrid")],
    )
    assert (about["missing"], about["left_out"]) == (missing, ["wikihop", "mlqa-r"])
    assert "new: mono: all" in {value["where"] for value in about["values"]}
    text = (copy / "table.md").read_text()
    assert json.loads((copy / "study.json").read_text())["study"]["tasks"] == ["own.toml"]
    assert "Left out, since their data were not at hand: wikihop, mlqa-r." in text and missing[0] in text
    assert "no plots" in caplog.text and not (copy / "plots").exists()


def test_groups_of_languages(world: Path) -> None:
    """Those of a task alone: else all cells would be in the group `other`."""
    study = read_study(str(world / "study.toml"))
    groups = {"a": {"greek": ("el",)}, "b": {"german": ("de", "vi"), "greek": ("el",)}}
    made = dataclasses.replace(study, groups=groups, by=("seen:paper",))
    expected = {"seen:paper": {"seen": ["de", "en"]}, "b": {"german": ["de"]}}
    assert find_tasks(made, None).groupings == {"own": expected}


def test_only(world: Path) -> None:
    study: Study = read_study(str(world / "study.toml"))
    names = {
        pattern: [run.name for run in selected(study, [pattern])] for pattern in ("x-y/seed-3", "hybrid/*", "seed-0")
    }
    assert names["x-y/seed-3"] == ["static/x-y/seed-3"]
    assert names["hybrid/*"] == [f"static/hybrid/seed-{n}" for n in (0, 3, 4)]
    assert names["seed-0"] == [f"static/{variant}/seed-0" for variant in ("x-x", "x-y", "hybrid")]
    assert len(selected(study, ["x-y/seed-3", "seed-3"])) == 3
    with pytest.raises(UsageError, match="--only y/seed-3"):
        selected(study, ["y/seed-3"])


def test_the_command(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(copy.parent)
    before = files(copy)
    place = Path("out/static/x-y/seed-4")
    shutil.rmtree(place)
    shutil.rmtree(Path("out/results/static/x-y/seed-4"))
    (place.parent / "seed-0/training.json").read_bytes()
    assert xbench("study", "study.toml", "-o", "out", "--dry-run", "--only", "x-y/*") == 0
    shown = capsys.readouterr().out
    assert "| static/x-y/seed-0 | done | done |" in shown and "| static/x-y/seed-4 | missing | own |" in shown
    assert not place.exists()
    assert xbench("study", "study.toml", "-o", "out", "--threads", "1", "--only", "seed-4") == 0
    assert "**Claims**" in capsys.readouterr().out
    assert files(copy) == before
    words = shlex.split(json.loads((place / "training.json").read_text())["command"])
    assert words[:3] == ["xbench", "train", "config.toml"]
    overrides = dict(_override(word) for word in words[4::2])
    assert read_config("config.toml", overrides).sha256 == json.loads((place / "training.json").read_text())["sha256"]
    result = json.loads((copy / "results/static/x-y/seed-4/own.json").read_text())
    assert result["command"] == "xbench study study.toml --only static/x-y/seed-4"
    assert "no run is called so" in error(capsys, 2, "study", "study.toml", "-o", "out", "--only", "x")


def test_values_as_words() -> None:
    """As `--set` reads them back."""
    from xbench.cli.study import _toml

    for value in (True, 3, 0.25, "x-x", 'ä"b', ["a", "b"], {"th": 100, "el x": 0.5}, [], {}):
        assert _override(f"a.b={_toml(value)}") == ("a.b", value)
