"""Language bias of a result: its tables against its own cells, against the slow way, in memory and read again."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from test_ranks import world

from xbench import bias
from xbench.catalogue import BIAS, parse
from xbench.errors import UsageError
from xbench.evaluate import Plan, evaluate
from xbench.language import MAPS, bias_result, heat_maps
from xbench.models import load
from xbench.ranks import RankTable
from xbench.records import Cell
from xbench.results import Result, read_ranks, read_result, write_result
from xbench.tasks import load_task

RANK, SEPARATE, ONE = MAPS
MEASURES = ("AP", "RankDistance", "nRankDistance", "RankDistanceMedian", "SameLanguageShare@10", "PEER@10", "MRC@10")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    plan = Plan(tmp_path_factory.mktemp("cache"), offline=True)
    return evaluate(load("hash"), load_task("mini"), MEASURES, plan=plan)


@pytest.fixture(scope="module")
def table(result: Result) -> RankTable:
    assert result.ranks is not None
    return result.ranks


@pytest.fixture(scope="module")
def again(result: Result, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, RankTable]:
    """What was written, as `xbench bias` has it."""
    folder = tmp_path_factory.mktemp("result")
    path = write_result(result, folder)
    return read_result(path), read_ranks(path, read_result(path))


def test_stored_and_in_memory_tables_give_the_same(
    result: Result, table: RankTable, again: tuple[Result, RankTable]
) -> None:
    first, second = bias_result(result, table, 10), bias_result(*again, 10)
    assert [cell.to_json() for cell in first.cells] == [cell.to_json() for cell in second.cells]
    assert first.intervals == second.intervals and first.statistics == second.statistics
    for one, other in zip(first.cells, second.cells, strict=True):
        assert one.query_ids == other.query_ids
        for column, values in one.per_query.items():
            np.testing.assert_array_equal(values, other.per_query[column])
    multi = [cell.cell for cell in first.cells]
    for title, matrix in heat_maps(table, multi).items():
        np.testing.assert_array_equal(matrix, heat_maps(again[1], multi)[title])
    # A language whose cell was not scored has no row, rather than zeros.
    assert [np.isnan(m[1]).all() for m in heat_maps(table, multi[:1]).values()] == [True] * 3


def test_bias_is_of_the_multi_cells_and_agrees_with_the_result(result: Result, table: RankTable) -> None:
    found = bias_result(result, table, 10)
    multi = [cell for cell in result.cells if cell.cell.setting == "multi"]
    assert [cell.cell for cell in found.cells] == [cell.cell for cell in multi]
    names = [name.format(k=10) for name in BIAS]
    for cell, was in zip(found.cells, multi, strict=True):
        assert list(cell.values) == names and cell.query_ids == was.query_ids
        assert (cell.passages, cell.left_out, cell.missing) == (was.passages, was.left_out, was.missing)
        for name, value in was.values.items():
            assert cell.values[name] == value
            np.testing.assert_array_equal(cell.per_query[parse(name).column], was.per_query[parse(name).column])
        for name in names:
            low, high = found.intervals[cell.cell.name][name]
            assert low <= high
    for name in MEASURES:
        assert found.intervals["multi"][name] == result.intervals["multi"][name]
        assert found.summary()["multi"][name] == result.summary()["multi"][name]
    assert found.statistics["cluster"] == "paragraph"
    by_query = bias_result(result, table, 10, cluster="query")
    assert by_query.statistics["cluster"] == "query" and by_query.intervals != found.intervals
    assert [cell.values for cell in by_query.cells] == [cell.values for cell in found.cells]


def test_separate_pools_are_the_mono_and_cross_cells(result: Result, table: RankTable) -> None:
    """And in the same way, one target and the rank of the translation the slow way, from the first passages."""
    maps = heat_maps(table, [c.cell for c in result.cells if c.cell.setting == "multi"])
    cells = {cell.cell.name: cell for cell in result.cells}
    for (i, a), (j, b) in itertools.product(enumerate(table.languages), repeat=2):
        cell = cells[f"mono/{a}" if a == b else f"cross/{a}-{b}"]
        assert abs(maps[SEPARATE][i, j] - cell.values["AP"]) <= 1e-12
        ranked, query_ids = table.ranked(Cell("multi", a, table.languages))
        targets, best = [], []
        for q in range(len(query_ids)):
            part = slice(ranked.indptr[q], ranked.indptr[q + 1])
            assert ranked.joint is not None
            entries = list(zip(ranked.ranks[part], ranked.joint.language[part], strict=True))
            mine = [rank for rank, language in entries if language == j]
            others = [rank for rank, language in entries if language != j]
            places = [rank - sum(other < rank for other in others) for rank in mine]
            if mine:
                best.append(min(mine))
                targets.append(sum(n / rank for n, rank in enumerate(places, 1)) / len(places))
        assert maps[RANK][i, j] == np.median(best)
        assert abs(maps[ONE][i, j] - np.mean(targets)) <= 1e-12


def test_left_out_and_missing_are_those_of_the_result(again: tuple[Result, RankTable]) -> None:
    """Stored tables lack the queries that were left out: only the result knows how many there were."""
    cells = [replace(cell, left_out=3, missing=2) for cell in again[0].cells]
    assert {(c.left_out, c.missing) for c in bias_result(replace(again[0], cells=cells), again[1], 5).cells} == {(3, 2)}


def test_what_is_refused(result: Result, table: RankTable) -> None:
    with pytest.raises(UsageError, match="k = 101: the result keeps the first 100 passages of each query"):
        bias_result(result, table, 101)
    assert table.sizes.sum() > 100  # else k would be the pool's size, which is allowed:
    short = table._replace(sizes=np.array([9, 1, *[9] * (len(table.sizes) - 2)]))
    assert short.sizes.sum() <= 100 and bias_result(result, short, 1000).cells
    none = replace(result, cells=[cell for cell in result.cells if cell.cell.setting != "multi"])
    with pytest.raises(UsageError, match="mini: the result has no multi cell"):
        bias_result(none, table, 10)
    with pytest.raises(UsageError, match="cluster 'page'"):
        bias_result(result, table, 10, cluster="page")


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_maps_of_small_worlds(seed: int, run: bool) -> None:
    """NaN where no query has a relevant passage, a language that asks nothing too, or where a median is infinite."""
    w = world(seed, run=run)
    w.queries = [q for q in w.queries if not q.startswith(w.languages[-1])]
    table = w.table(0)
    maps = heat_maps(table, [w.multi(a) for a in w.languages])
    functions = {
        RANK: (bias.translation_ranks, np.median),
        SEPARATE: (bias.separate_pools, np.mean),
        ONE: (bias.one_target, np.mean),
    }
    assert list(maps) == list(functions)
    for title, (function, mean) in functions.items():
        assert np.isnan(maps[title][-1]).all()
        for i, a in enumerate(w.languages[:-1]):
            ranked, queries = table.ranked(w.multi(a))
            rows = function(ranked) if queries else np.zeros((0, len(w.languages)))
            for j in range(len(w.languages)):
                values = [value for value in rows[:, j] if value == value]
                expected = mean(values) if values else np.nan
                np.testing.assert_equal(maps[title][i, j], expected if np.isfinite(expected) else np.nan)


def test_a_measure_that_a_run_leaves_undefined_has_no_value(result: Result, table: RankTable) -> None:
    """One relevant passage of one query was not retrieved: its language has no distance, the others do."""
    above = table.above.copy()
    above[0] = -1
    found = bias_result(result, table._replace(above=above), 10)
    first, *rest = [cell.values for cell in found.cells]
    assert {*rest[0]} - {*first} == {"RankDistance", "RankDistanceMedian", "nRankDistance"}
    assert "RankDistance" not in found.summary()["multi"] and "AP" in found.summary()["multi"]
