"""Two results compared: what is printed is what the results hold."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from xbench import cli
from xbench.catalogue import parse, parse_all
from xbench.errors import DataError, UsageError
from xbench.evaluate import Plan, evaluate
from xbench.gate import compare_results
from xbench.gate.compare import Change, compare_all, most_changed, tallies
from xbench.gate.queries import texts
from xbench.gate.show import changed_tables, tally_tables
from xbench.models import load
from xbench.readers import read
from xbench.results import Result, read_result, write_result
from xbench.tables import render
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


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A model that retrieves nothing but what has the same bytes."""
    plan = Plan(tmp_path_factory.mktemp("cache"))
    return evaluate(load("canary:duplicate"), load_task("mini"), MEASURES, plan=plan)


def test_several_are_corrected_over_all(results: tuple[Result, Result], third: Result) -> None:
    """Holm over the others for a setting, over cells and others for cells, over groups and others for groups."""
    task = dataclasses.replace(results[0], groupings={"mono/x": {"one": ["en", "de"], "other": ["zh"]}})
    others, measures = [results[1], third, results[0]], parse_all(["AP", "RankDistance"])
    found = compare_all(task, others, measures, alpha=0.06)
    for name in ("AP", "RankDistance"):
        alone = [compare_results(task, other, measures, alpha=0.02)[name] for other in others]
        rows = [each[name] for each in found]
        assert [r._replace(p_holm=0) for some in rows for r in some] == [
            r._replace(p_holm=0) for some in alone for r in some
        ]
        families: dict[str, list[tuple[float, float]]] = {}
        for row in (row for some in rows for row in some):
            kind = "groups" if row.name.startswith("mono/x: ") else row.name.partition("/")[0] + "/" * ("/" in row.name)
            families.setdefault(kind, []).append((row.p, row.p_holm))
        sizes = {"mono": 3, "cross": 3, "multi": 3, "mono/": 33, "cross/": 330, "multi/": 33}
        wanted = sizes if name == "AP" else {k: n for k, n in sizes.items() if k.startswith("multi")}
        assert {k: len(v) for k, v in families.items() if k != "groups"} == wanted and len(families["groups"]) > 3
        for pairs in families.values():
            p, corrected = zip(*pairs, strict=True)
            assert corrected == pytest.approx(multipletests(p, method="holm")[1])
    assert compare_all(task, others[:1], measures) == [compare_results(task, others[0], measures)]


@pytest.mark.parametrize("measure", ["AP", "RankDistance"])
def test_wins_and_losses_are_counted(results: tuple[Result, Result], third: Result, measure: str) -> None:
    first, second = results
    wanted = parse(measure)
    (found, _) = compare_all(first, [second, third], [wanted], alpha=0.1)
    higher = not wanted.lower_is_better
    for tally in tallies(found[measure], higher_is_better=higher, alpha=0.1):
        better = worse = even = won = lost = 0
        for a, b in zip(first.cells, second.cells, strict=True):
            if a.cell.setting != tally.setting:
                continue
            row = next(r for r in found[measure] if r.name == a.cell.name)
            up = (b.values[measure] > a.values[measure]) is higher
            won += row.p_holm <= 0.1 and up
            lost += row.p_holm <= 0.1 and not up
            signs = np.sign(b.per_query[measure] - a.per_query[measure]) * (1 if higher else -1)
            better, even, worse = better + (signs > 0).sum(), even + (signs == 0).sum(), worse + (signs < 0).sum()
        cells = sum(c.cell.setting == tally.setting for c in first.cells)
        assert tally[1:] == (won, cells - won - lost, lost, better, even, worse)
        assert won + lost > 0
    (table,) = tally_tables(first, [second, third], [found, found], [wanted], 0.1)
    assert "against canary:random: cells by p Holm <= 0.1" in table.title
    assert [row[0] for row in table.rows] == ["hash"] * (len(table.rows) // 2) + ["canary:duplicate"] * (
        len(table.rows) // 2
    )


def test_the_queries_that_changed_most(results: tuple[Result, Result]) -> None:
    first, second = results
    found = most_changed(first, second, parse("AP"), 7)
    assert list(found) == ["mono", "cross", "multi"]
    for setting, changes in found.items():
        every = [
            (-abs(y - x), a.cell.name, q, x, y)
            for a, b in zip(first.cells, second.cells, strict=True)
            for q, x, y in zip(a.query_ids, a.per_query["AP"], b.per_query["AP"], strict=True)
            if a.cell.setting == setting and x != y
        ]
        assert changes == [Change(q, cell, x, y) for _, cell, q, x, y in sorted(every)[:7]]
        assert all(c.difference == c.second - c.first for c in changes)
    assert most_changed(first, first, parse("AP"), 7) == {}
    assert list(most_changed(first, second, parse("RankDistance"), 1)) == ["multi"]


def test_changed_queries_with_texts_and_ranks(
    results: tuple[Result, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    task = load_task("mini")
    said = {q.query_id: q.text for rows in read(task).queries.values() for q in rows}
    paths = [write_result(result, tmp_path / result.model["slug"]) for result in results]
    stored = [(path, read_result(path)) for path in paths]
    made = changed_tables(stored, parse_all(["AP"]), 5, task, None)
    assert [table.title.partition(":")[0] for table in made] == ["mini mono", "mini cross", "mini multi"]
    for table in made:
        assert table.columns[-3:] == ["first's rank", "second's rank", "text"]
        for row in table.rows:
            assert row[-1] == said[str(row[0])]
            ranks = [_first_rank(result, str(row[1]), str(row[0])) for result in results]
            assert row[-3:-1] == ranks
            if table.title.startswith(("mini mono", "mini cross")):  # one relevant passage: AP is 1 / rank
                assert [1 / rank for rank in ranks] == pytest.approx(row[2:4])
    (paths[1].parent / "mini.ranks.parquet").unlink()
    caplog.set_level("INFO", "xbench")
    gone = dataclasses.replace(load_task("xquad-r"), name="mini")
    bare = changed_tables(stored, parse_all(["AP"]), 5, gone, tmp_path)
    assert all(table.columns == ["query", "cell", "first", "second", "difference"] for table in bare)
    assert "no texts of queries, since the data are not at hand (--data DIR)" in caplog.text
    assert texts(task, None, {"en:none"}) == {}
    arguments = ["compare", *map(str, paths), "--changed", "2", "--format", "csv"]
    assert cli._run(arguments, False) == 0
    out = capsys.readouterr().out
    assert out.count("2 queries whose AP differs most") == 3 and "text" in out
    assert cli._run(["compare", *map(str, paths), str(paths[1])], False) == 0
    out = capsys.readouterr().out
    assert out.count("hash (second) and canary:random (first)") == 2 and "cells won" in out


def _first_rank(result: Result, cell: str, query_id: str) -> int:
    assert result.ranks is not None
    ranked, query_ids = result.ranks.ranked(next(c.cell for c in result.cells if c.cell.name == cell))
    i = query_ids.index(query_id)
    return int(ranked.ranks[ranked.indptr[i] : ranked.indptr[i + 1]].min())


def test_texts_of_queries_are_shown_as_text(results: tuple[Result, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "=cmd|x <img src=x onerror=alert(1)>\x1b[31m\u202e\n| a |" + "y" * 400
    found = most_changed(*results, parse("AP"), 1)["mono"]
    monkeypatch.setattr("xbench.gate.show.texts", lambda *_: {found[0].query_id: hostile})
    stored = [(Path(name), result) for name, result in zip("ab", results, strict=True)]
    (table, *_) = changed_tables(stored, parse_all(["AP"]), 1, load_task("mini"), None)
    text = str(table.rows[0][-1])
    assert text == hostile[:300] + " ..."
    for format_ in ("md", "csv", "tex"):
        shown = render([table], format_)
        assert "\x1b" not in shown and "\u202e" not in shown
        assert format_ != "md" or not re.search(r"(?<!\\)[<|]img|(?<!\\)<", shown)
        assert format_ != "csv" or ",=cmd" not in shown
