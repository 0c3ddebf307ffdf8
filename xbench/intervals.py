"""Intervals of the values of a result, from its per-query values alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from xbench.catalogue import parse
from xbench.errors import UsageError
from xbench.groups import group_cells
from xbench.progress import log
from xbench.results import CellResult, Result
from xbench.stats import Job, Sample, bootstraps, sample

LEVEL, RESAMPLES, SEED = 0.95, 10_000, 0
# What is drawn as one: queries about one paragraph, queries that are one question, or each query alone.
CLUSTERS = ("paragraph", "question", "query")


def samples(
    cells: Sequence[CellResult],
    clusters: Mapping[str, str],
    by: str = "paragraph",
    names: Sequence[str] | None = None,
) -> dict[str, tuple[Literal["mean", "median"], Sample]]:
    """The per-query values of each measure whose value is a mean or a median of them.

    Args:
        cells: of one result.
        clusters: question, or query that is no translation of others, -> paragraph, as `Result.clusters`.
        by: one of CLUSTERS; a question without a paragraph is its own cluster.
        names: of the measures; by default all that the cells have.

    Raises:
        UsageError: an unknown way to cluster.
    """
    if by not in CLUSTERS:
        raise UsageError(f"cluster {by!r}; known: {', '.join(CLUSTERS)}")
    found: dict[str, tuple[Literal["mean", "median"], Sample]] = {}
    for name in dict.fromkeys(name for cell in cells for name in cell.values):
        if names is not None and name not in names:
            continue
        measure = parse(name)
        having = [cell for cell in cells if measure.column in cell.per_query]
        statistic = measure.statistic
        if not having or statistic is None:
            continue
        queries = [query_id for cell in having for query_id in cell.query_ids]
        questions = [q if q in clusters else q.partition(":")[2] for q in queries]
        drawn = {
            "paragraph": [clusters.get(question, question) for question in questions],
            "question": questions,
            "query": queries,
        }[by]
        values = [float(value) for cell in having for value in cell.per_query[measure.column]]
        where = [cell.cell.name for cell in having for _ in cell.query_ids]
        found[name] = statistic, sample(where, queries, drawn, values)
    return found


def settings(part: Sample) -> dict[str, list[str]]:
    """Setting -> its cells: the groups of which a macro mean is made."""
    found: dict[str, list[str]] = {}
    for cell in part.cells:
        found.setdefault(cell.partition("/")[0], []).append(cell)
    return found


def groups_of(result: Result) -> dict[str, list[str]]:
    """`grouping: where: group` -> the names of its cells, of those that have queries."""
    cells = [cell.cell for cell in result.cells if cell.query_ids]
    return {
        f"{name}: {where}: {group}": [cell.name for cell in some]
        for name, grouping in result.groupings.items()
        for where, groups in group_cells(cells, grouping).items()
        for group, some in groups.items()
    }


def with_intervals(result: Result, by: str = "paragraph") -> Result:
    """The result with a percentile bootstrap interval of each value, each macro mean and each mean by query.

    Clusters are drawn with replacement, all cells at once (see `stats.bootstrap`).
    """
    found: dict[str, dict[str, list[float]]] = {}
    by_query: dict[str, dict[str, list[float]]] = {}
    groups = groups_of(result)
    jobs: dict[tuple[str, ...], dict[tuple[str, bool], Job]] = {}  # by clusters, which are then drawn once
    for name, (statistic, part) in samples(result.cells, result.clusters, by).items():
        mine = jobs.setdefault(tuple(part.clusters), {})
        grouped = {where: cells for where, cells in groups.items() if set(cells) <= set(part.cells)}
        mine[name, False] = Job(part, settings(part) | grouped, statistic)
        if statistic == "mean":  # a mean over queries of medians over queries has no such interval
            mine[name, True] = Job(_by_setting(part), {})
    for mine in jobs.values():
        ends = bootstraps(list(mine.values()), level=LEVEL, resamples=RESAMPLES, seed=SEED)
        for (name, of_queries), intervals in zip(mine, ends, strict=True):
            for where, interval in intervals.items():
                if interval.undefined:
                    log.info("%s of %s: %d resamples without a query of a cell", name, where, interval.undefined)
                if np.isfinite(interval.low):
                    (by_query if of_queries else found).setdefault(where, {})[name] = [interval.low, interval.high]
    sizes = map(len, jobs)
    about: dict[str, Any] = {"interval": "percentile bootstrap", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED}
    about |= {"cluster": by, "clusters": max(sizes, default=0)}
    return replace(result, intervals=found, intervals_by_query=by_query, statistics=about)


def _by_setting(part: Sample) -> Sample:
    """The sample with all cells of a setting as one, so that each query counts once for every cell it is in."""
    names = list(settings(part))
    of_cell = np.array([names.index(cell.partition("/")[0]) for cell in part.cells], np.int64)
    queries = [f"{part.cells[cell]} {query}" for cell, query in zip(part.cell, part.queries, strict=True)]
    return part._replace(cells=names, queries=queries, cell=of_cell[part.cell])
