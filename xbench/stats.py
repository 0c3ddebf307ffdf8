"""Statistics from per-query values: cluster bootstrap intervals.

Queries are not independent: those of a paragraph share its passages, and a question is asked in
every language. So clusters of queries (by paragraph, else by question) are what is resampled and
what changes sides, all cells at once, since the same clusters occur in all of them.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ROUNDING = 1e-12  # relative: what is nearer than this differs by rounding only
CHUNK = 1 << 22  # numbers drawn at a time: 32 MiB an array


class Sample(NamedTuple):
    """One measure of one system: n rows, one a cell and query, in the order of cell and query."""

    cells: list[str]  # names, sorted
    clusters: list[str]  # names, sorted
    queries: list[str]  # n ids
    values: Floats  # (n,) finite
    cell: Ints  # (n,) index into cells
    cluster: Ints  # (n,) index into clusters


class Interval(NamedTuple):
    """A percentile interval; NaN if no resample defines it."""

    low: float
    high: float
    undefined: int  # resamples left out, in which a cell had no query


def sample(cells: Sequence[str], queries: Sequence[str], clusters: Sequence[str], values: Sequence[float]) -> Sample:
    """A sample from n rows in any order.

    A cell whose values are all NaN is left out: the measure is undefined there.

    Args:
        cells, queries, clusters: n names: the cell, query and cluster of each row.
        values: float64 (n,).

    Raises:
        ValueError: a value is infinite, or NaN in a cell that has other values.
        DataError: a query occurs twice in a cell, or no value is left.
    """
    array = np.asarray(values, np.float64)
    names, place = _index(cells)
    bad = np.bincount(place, ~np.isfinite(array))
    undefined = np.bincount(place, np.isnan(array)) == np.bincount(place)
    if wrong := [names[i] for i in np.flatnonzero((bad > 0) & ~undefined)]:
        raise ValueError(f"{len(wrong)} cells have values that are not finite: {', '.join(wrong[:5])}")
    kept = np.flatnonzero(~undefined[place]).tolist()
    if not kept:
        raise DataError("no cell has a value of this measure")
    names, cell = _index([cells[i] for i in kept])
    query_names, query = _index([queries[i] for i in kept])
    cluster_names, cluster = _index([clusters[i] for i in kept])
    order = np.lexsort((query, cell))
    cell, query = cell[order], query[order]
    for i in np.flatnonzero((np.diff(cell) == 0) & (np.diff(query) == 0)):
        raise DataError(f"query {query_names[query[i]]} occurs twice in cell {names[cell[i]]}")
    return Sample(names, cluster_names, [query_names[i] for i in query], array[kept][order], cell, cluster[order])


def bootstrap(
    sample: Sample,
    groups: Mapping[str, Sequence[str]],
    *,
    statistic: Literal["mean", "median"] = "mean",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of every cell and group, from clusters drawn with replacement.

    One resampling serves all cells, and all measures that have the same clusters. It is that of
    scipy.stats.bootstrap (percentile, paired) with the generator `default_rng(seed)`. Efron and
    Tibshirani 1993, chapter 13; clusters as units: Davison and Hinkley 1997, section 3.8.

    Args:
        sample: as `sample` makes it.
        groups: name -> cells; the value of a group is the mean of the values of its cells.
        statistic: of the queries of a cell, "mean" or "median" (as numpy.median).
        level: the share of resamples inside.
        resamples, seed: how many, and of which random numbers.

    Raises:
        DataError: a group is empty, bears the name of a cell or has a cell that the sample lacks.
    """
    (found,) = bootstraps([Job(sample, groups, statistic)], level=level, resamples=resamples, seed=seed)
    return found


class Job(NamedTuple):
    """What `bootstrap` is asked for."""

    sample: Sample
    groups: Mapping[str, Sequence[str]]
    statistic: Literal["mean", "median"] = "mean"


def bootstraps(
    jobs: Sequence[Job], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> list[dict[str, Interval]]:
    """`bootstrap` of several samples with the same clusters, which are drawn once for all.

    Raises:
        DataError: as `bootstrap`.
    """
    sample = jobs[0].sample
    if any(job.sample.clusters != sample.clusters for job in jobs):
        raise ValueError("samples of different clusters")
    members = [group_members(job.sample, job.groups) for job in jobs]
    estimates = [{"mean": _means, "median": _medians}[job.statistic](job.sample) for job in jobs]
    rng = np.random.default_rng(seed)
    size = len(sample.clusters)
    parts: list[list[Floats]] = [[] for _ in jobs]
    widest = max((job.sample for job in jobs), key=_width)
    for drawn in draws(size, widest, resamples, rng):
        offset = np.arange(len(drawn))[:, None] * size
        weights = np.bincount((drawn + offset).ravel(), minlength=drawn.size).reshape(drawn.shape)
        for part, estimate, some in zip(parts, estimates, members, strict=True):
            part.append(with_groups(estimate(weights), some))
    return [
        _ends([*job.sample.cells, *some], np.concatenate(part), level)
        for job, some, part in zip(jobs, members, parts, strict=True)
    ]


def _ends(names: Sequence[str], found: Floats, level: float) -> dict[str, Interval]:
    """The percentile intervals of the columns of resamples (m, names)."""
    undefined = np.isnan(found).sum(axis=0)
    ends = np.full((2, found.shape[1]), np.nan)
    some = undefined < len(found)
    ends[:, some] = np.nanquantile(found[:, some], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: Interval(float(a), float(b), int(u)) for name, a, b, u in zip(names, *ends, undefined, strict=True)}


def _index(names: Sequence[str]) -> tuple[list[str], Ints]:
    """The distinct names, sorted, and which of them each is."""
    known = sorted(set(names))
    place = {name: i for i, name in enumerate(known)}
    return known, np.array([place[name] for name in names], np.int64)


def group_members(sample: Sample, groups: Mapping[str, Sequence[str]]) -> dict[str, Ints]:
    """Group -> indices of its cells."""
    place = {name: i for i, name in enumerate(sample.cells)}
    for group, cells in groups.items():
        if missing := [cell for cell in cells if cell not in place]:
            raise DataError(f"group {group!r}: no values of the cell {missing[0]!r}")
        if group in place or not cells or len(set(cells)) < len(cells):
            raise DataError(f"group {group!r} is empty, has a cell twice or bears the name of a cell")
    return {group: np.array([place[cell] for cell in cells], np.int64) for group, cells in groups.items()}


def with_groups(table: Floats, members: Mapping[str, Ints]) -> Floats:
    """(m, cells) -> (m, cells + groups): the mean of its cells for each group."""
    return np.column_stack([table, *(table[:, cells].mean(axis=1) for cells in members.values())])


def cluster_tables(sample: Sample) -> tuple[Floats, Floats]:
    """(clusters, cells): sum of the values, and number of queries."""
    k, m = len(sample.clusters), len(sample.cells)
    flat = sample.cluster * m + sample.cell
    sums, sizes = np.zeros((2, k * m))
    np.add.at(sums, flat, sample.values)
    np.add.at(sizes, flat, 1.0)
    return sums.reshape(k, m), sizes.reshape(k, m)


def cell_edges(sample: Sample) -> Ints:
    """(cells + 1,): cell i has the rows edges[i]:edges[i + 1]."""
    return np.searchsorted(sample.cell, np.arange(len(sample.cells) + 1))


def cell_means(sample: Sample) -> Floats:
    """(cells,) exactly summed, as the values in a result are."""
    return np.array([math.fsum(part) / len(part) for part in np.split(sample.values, cell_edges(sample)[1:-1])])


def draws(choices: int, sample: Sample, resamples: int, rng: np.random.Generator) -> Iterator[Ints]:
    """(m, clusters) numbers below `choices`, `resamples` rows in all, in pieces of bounded memory."""
    step = max(1, CHUNK // _width(sample))
    for start in range(0, resamples, step):
        yield rng.integers(0, choices, (min(step, resamples - start), len(sample.clusters)))


def _width(sample: Sample) -> int:
    """Numbers that one resample takes."""
    return max(len(sample.clusters), int(np.diff(cell_edges(sample)).max()), 2 * len(sample.cells))


Estimate = Callable[[Ints], Floats]  # (m, clusters) weights -> (m, cells) values; NaN where a cell has no query


def _means(sample: Sample) -> Estimate:
    """The mean of the queries of each cell, each repeated by the weight of its cluster."""
    k, m = len(sample.clusters), len(sample.cells)
    filled = len(np.unique(sample.cluster * m + sample.cell))
    if filled * 8 > k * m:
        table = np.column_stack(cluster_tables(sample))

        def totals(weights: Floats) -> Floats:
            found: Floats = weights @ table
            return found
    else:  # few clusters are in more than one cell, as where languages share no question

        def totals(weights: Floats) -> Floats:
            found = np.asarray((sparse @ weights.T).T)
            return found

        from scipy.sparse import coo_array

        columns = np.concatenate([sample.cell, sample.cell + m])
        values = np.concatenate([sample.values, np.ones(len(sample.values))])
        sparse = coo_array((values, (columns, np.tile(sample.cluster, 2))), (2 * m, k)).tocsr()

    def estimate(weights: Ints) -> Floats:
        sums, sizes = np.split(totals(weights.astype(np.float64)), 2, axis=1)
        means = np.full_like(sums, np.nan)
        np.divide(sums, sizes, out=means, where=sizes > 0)
        return means

    return estimate


def _medians(sample: Sample) -> Estimate:
    """As `_means`; the middle value, or the mean of the middle two."""
    edges = list(itertools.pairwise(cell_edges(sample)))
    orders = [low + np.argsort(sample.values[low:high], kind="stable") for low, high in edges]

    def estimate(weights: Ints) -> Floats:
        found = np.full((len(weights), len(sample.cells)), np.nan)
        for j, order in enumerate(orders):
            upto = weights[:, sample.cluster[order]].cumsum(axis=1)
            total = upto[:, -1:]
            some = total[:, 0] > 0
            middle = [order[(upto < place)[some].sum(axis=1)] for place in ((total + 1) // 2, total // 2 + 1)]
            found[some, j] = sample.values[middle].mean(axis=0)
        return found

    return estimate
