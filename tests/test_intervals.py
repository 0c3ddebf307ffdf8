"""Intervals in a result: scipy's numbers, from the per-query file alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from xbench.errors import UsageError
from xbench.evaluate import Plan, evaluate
from xbench.intervals import with_intervals
from xbench.models import load
from xbench.readers import read
from xbench.results import Result, read_result, write_result
from xbench.tasks import load_task

MEASURES = ["AP", "R@10", "RankDistance", "RankDistanceMedian", "AlignmentViolation"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return evaluate(load("hash"), load_task("mini"), MEASURES, plan=Plan(tmp_path_factory.mktemp("cache")))


def clusters_of(result: Result) -> dict[str, str]:
    """query_id -> article and paragraph of its answer, read from the passages' ids."""
    qrels = read(load_task("mini")).qrels
    return {query: next(iter(sorted(docs))).rpartition(".")[0].partition(":")[2] for query, docs in qrels.items()}


@pytest.mark.parametrize("name", ["mono/en", "cross/zh-el", "multi/th"])
def test_scipy_draws_the_same(result: Result, name: str) -> None:
    cell = next(c for c in result.cells if c.cell.name == name)
    paragraph = clusters_of(result)
    names = sorted({paragraph[q] for q in cell.query_ids})
    # The order of the clusters decides which draw is whose; xbench sorts them by the id of their first paragraph.
    names.sort(key=lambda p: f"ar:{p}")
    for measure, column in (("AP", "AP"), ("R@10", "R@10")):
        values = dict(zip(cell.query_ids, cell.per_query[column], strict=True))
        rows = [[value for q, value in values.items() if paragraph[q] == p] for p in names]
        sums, sizes = np.array([sum(row) for row in rows]), np.array([float(len(row)) for row in rows])
        expected = stats.bootstrap(
            (sums, sizes),
            lambda s, n, axis: s.sum(axis=axis) / n.sum(axis=axis),
            paired=True,
            vectorized=True,
            n_resamples=10_000,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        assert result.intervals[name][measure] == pytest.approx([expected.low, expected.high], rel=1e-12)


def test_every_value_has_one_that_holds_it(result: Result) -> None:
    found = result.to_json()
    assert found["statistics"] == {
        "interval": "percentile bootstrap",
        "level": 0.95,
        "resamples": 10_000,
        "seed": 0,
        "cluster": "paragraph",
        "clusters": 24,
    }
    places = [(c["values"], c["intervals"]) for c in found["cells"]]
    places += [(found["summary"][s], found["intervals"][s]) for s in ("mono", "cross", "multi")]
    assert len(places) == 132 + 3
    for values, intervals in places:
        assert set(values) == set(intervals)
        assert all(low <= values[name] <= high for name, (low, high) in intervals.items())
    # The macro mean of 110 cells that share their questions: far wider than if cells were independent.
    widths = [np.subtract(*c["intervals"]["AP"][::-1]) for c in found["cells"] if c["setting"] == "cross"]
    low, high = found["intervals"]["cross"]["AP"]
    assert high - low > 1.5 * np.sqrt(np.sum(np.square(widths))) / 110


def test_from_the_file_alone(result: Result, tmp_path: Path) -> None:
    path = write_result(result, tmp_path)
    stored = read_result(path)
    assert stored.intervals == result.intervals and stored.clusters == result.clusters
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        cell["intervals"] = {}
    path.write_text(json.dumps(content))
    bare = dataclasses.replace(read_result(path), intervals={})
    assert with_intervals(bare).intervals == result.intervals


def test_clusters(result: Result) -> None:
    widths = {}
    for by, size in (("paragraph", 24), ("question", 48), ("query", 528)):
        found = with_intervals(result, by)
        assert (found.statistics["cluster"], found.statistics["clusters"]) == (by, size)
        low, high = found.intervals["multi"]["AP"]
        widths[by] = high - low
    # The languages of a question rise and fall together, so drawing them one by one looks too certain.
    assert widths["query"] < widths["question"]
    with pytest.raises(UsageError, match="cluster 'article'; known: paragraph, question, query"):
        with_intervals(result, "article")
