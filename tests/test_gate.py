"""Two results compared: what is printed is what the results hold."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from xbench import cli
from xbench.catalogue import parse_all
from xbench.errors import DataError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.gate import compare_results
from xbench.models import load
from xbench.results import Result, write_result
from xbench.tasks import load_task

MEASURES = ["AP", "RankDistance", "RankDistanceMedian"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Result]:
    """A worse model and a better one."""
    plan = Plan(tmp_path_factory.mktemp("cache"))
    one, other = (evaluate(load(name), load_task("mini"), MEASURES, plan=plan) for name in ("canary:random", "hash"))
    return one, other


def test_values_are_those_of_the_results(results: tuple[Result, Result]) -> None:
    first, second = results
    found = compare_results(first, second, parse_all(["AP", "RankDistance"]))
    assert list(found) == ["AP", "RankDistance"]
    rows = found["AP"]
    assert [row.name for row in rows[:3]] == ["mono", "cross", "multi"] and len(rows) == 3 + 132
    assert len(found["RankDistance"]) == 1 + 11
    for row in rows:
        if row.name in ("mono", "cross", "multi"):
            values = [r.summary()[row.name]["AP"] for r in results]
        else:
            values = [next(c.values["AP"] for c in r.cells if c.cell.name == row.name) for r in results]
        assert [row.first, row.second] == pytest.approx(values, rel=1e-12)
        assert row.difference == pytest.approx(values[1] - values[0], rel=1e-9, abs=1e-15)
        assert row.interval.low <= row.difference <= row.interval.high
    mono = next(row for row in rows if row.name == "mono")
    assert mono.p == mono.p_holm == 1 / 100_001 and mono.interval.low > 0.6
    assert (mono.wins + mono.ties + mono.losses, mono.queries, mono.clusters) == (528, 528, 24)
    # A t test of the paragraphs' means agrees where it should: far from the border.
    cell = next(row for row in rows if row.name == "mono/en")
    gaps = np.subtract(*(next(c.per_query["AP"] for c in r.cells if c.cell.name == "mono/en") for r in (second, first)))
    assert stats.ttest_1samp(gaps.reshape(24, 2).mean(axis=1), 0).pvalue < 1e-4 and cell.p == 1 / 100_001


def test_a_lower_distance_wins(results: tuple[Result, Result]) -> None:
    (pooled, *_), (turned, *_) = (
        compare_results(*pair, parse_all(["RankDistance"]))["RankDistance"] for pair in (results, results[::-1])
    )
    lower = sum(
        int((a.per_query["RankDistance"] > b.per_query["RankDistance"]).sum())
        for a, b in zip(*(r.cells for r in results), strict=True)
        if a.cell.setting == "multi"
    )
    assert (pooled.wins, turned.losses) == (lower, lower)
    assert (pooled.wins, pooled.losses, pooled.difference) == (turned.losses, turned.wins, -turned.difference)
    # hash keeps the translations further apart than chance does, so as the second it is the worse.
    assert pooled.difference > 0 and pooled.p_worse < 0.01 < 0.99 < turned.p_worse


def test_a_result_beside_itself(results: tuple[Result, Result]) -> None:
    for row in compare_results(results[0], results[0], parse_all(["AP"]))["AP"]:
        assert (row.difference, row.p, row.p_worse, row.p_holm, row.effect, row.detectable) == (0, 1, 1, 1, 0, None)
        assert (row.wins, row.losses, row.ties) == (0, 0, row.queries)


def test_refused(results: tuple[Result, Result]) -> None:
    first, second = results
    with pytest.raises(UsageError, match="only means can be compared"):
        compare_results(first, second, parse_all(["RankDistanceMedian"]))
    with pytest.raises(UsageError, match="RR: not in the result of canary:random; evaluate again with -m RR"):
        compare_results(first, second, parse_all(["RR"]))
    with pytest.raises(DataError, match="results of different tasks"):
        compare_results(first, dataclasses.replace(second, task=second.task | {"version": 2}), parse_all(["AP"]))
    with pytest.raises(DataError, match="mono/ar"):
        compare_results(first, dataclasses.replace(second, cells=second.cells[1:]), parse_all(["AP"]))


def test_the_command(results: tuple[Result, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(write_result(result, tmp_path / result.model["slug"])) for result in results]
    assert cli._run(["compare", *paths, "--format", "csv"], False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mini: AP of hash (second) and canary:random (first)"
    assert lines[1].startswith("cell,queries,first,second,difference,95%,p,p Holm,d_z,wins,ties,losses,detectable")
    assert re.match(r"mono,528,0\.\d+,0\.\d+,", lines[2]) and len(lines) == 2 + 3 + 132
    assert cli._run(["compare", *paths, "-m", "RR"], False) == 2
    assert cli._run(["compare", paths[0], str(tmp_path / "none.json")], False) == 3
    assert "none.json: no such file" in capsys.readouterr().err


def test_bias_commands(results: tuple[Result, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_result(results[1], tmp_path))
    assert cli._run(["bias", path, "-k", "5", "--format", "json"], False) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["mean"]["RankDistance"] == results[1].summary()["multi"]["RankDistance"]
    assert "SameLanguageShare@5" in found["by_language"]["en"] and len(found["maps"]) == 3
    assert found["intervals"]["RankDistance"] == results[1].intervals["multi"]["RankDistance"]
    assert cli._run(["bias", path, "-k", "101"], False) == 2
    assert "keeps the first 100 passages" in capsys.readouterr().err
    (tmp_path / "mini.top.parquet").unlink()
    assert cli._run(["bias", path], False) == 3
