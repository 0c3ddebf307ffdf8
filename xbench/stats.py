"""Statistics from per-query values: cluster bootstrap intervals, and the comparison of two systems.

Queries are not independent: those of a paragraph share its passages, and a question is asked in
every language. So clusters of queries (by paragraph, else by question) are what is resampled and
what changes sides, all cells at once, since the same clusters occur in all of them.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
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


class Comparison(NamedTuple):
    """Two systems on a cell or group of cells; differences are second - first."""

    name: str
    first: float
    second: float
    difference: float
    interval: Interval  # of the difference
    p: float  # two-sided
    p_worse: float  # one-sided, of "the second is worse"
    p_holm: float  # two-sided, corrected over the cells of the group; p itself for a group
    effect: float | None  # d_z: mean / standard deviation of the queries' differences; None: all equal, not 0
    wins: int  # queries on which the second is better
    ties: int
    losses: int
    queries: int
    clusters: int
    detectable: float | None  # smallest true difference found with the wanted power; None: no variance to go by


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
    members = _members(sample, groups)
    estimate = {"mean": _mean, "median": _median}[statistic]
    rng = np.random.default_rng(seed)
    size = len(sample.clusters)
    parts = []
    for drawn in _draws(size, sample, resamples, rng):
        offset = np.arange(len(drawn))[:, None] * size
        weights = np.bincount((drawn + offset).ravel(), minlength=drawn.size).reshape(drawn.shape)
        parts.append(_with_groups(estimate(sample, weights), members))
    found = np.concatenate(parts)
    undefined = np.isnan(found).sum(axis=0)
    ends = np.full((2, found.shape[1]), np.nan)
    some = undefined < resamples
    ends[:, some] = np.nanquantile(found[:, some], [(1 - level) / 2, (1 + level) / 2], axis=0)
    names = [*sample.cells, *members]
    return {name: Interval(float(a), float(b), int(u)) for name, a, b, u in zip(names, *ends, undefined, strict=True)}


def compare(
    first: Sample,
    second: Sample,
    groups: Mapping[str, Sequence[str]],
    *,
    higher_is_better: bool = True,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> list[Comparison]:
    """Two systems on the same queries: a row for every cell, then for every group.

    Of means only: a difference of medians is no mean of differences, so signs cannot be flipped.

    p is of the paired randomisation test: under the null hypothesis the two systems may change
    sides, a cluster as a whole and in all cells at once, which flips the sign of its sum of
    differences. Exact where all flips of the clusters that differ are no more than `resamples`,
    else (hits + 1) / (resamples + 1) (Phipson and Smyth 2010). Smucker, Allan and Carterette 2007;
    Holm 1979. Queries whose values differ by rounding alone tie.

    `detectable` is for a two-sided t test of the clusters with the cluster-robust standard error
    of the mean (a ratio: linearised), at `alpha` for a group and for a cell at `alpha` over the
    number of cells in its group, Holm's first step.

    Args:
        first, second: samples of the same cells, queries and clusters.
        groups: name -> cells, as in `bootstrap`, no cell in two; the cells of none form one family.
        higher_is_better: False for rank distances; decides wins, losses and `p_worse`.
        level, resamples, seed: as in `bootstrap`.
        alpha, power: of `detectable`.

    Raises:
        DataError: different cells, queries or clusters; groups as in `bootstrap`, or that overlap.
    """
    from statsmodels.stats.multitest import multipletests

    _same(first, second)
    members = _members(first, groups)
    grouped = [cell for cells in members.values() for cell in cells]
    if len(set(grouped)) < len(grouped):
        raise DataError(f"groups {', '.join(groups)}: a cell is in two of them")
    tie = np.isclose(first.values, second.values, rtol=ROUNDING, atol=ROUNDING)
    gap = first._replace(values=np.where(tie, 0.0, second.values - first.values))
    good = 1 if higher_is_better else -1
    sums, sizes = _tables(gap)
    counts = sizes.sum(axis=0)
    shares = _with_groups(sums / counts, members)  # (clusters, columns): they add up to the difference
    influence = shares - _with_groups(sizes * sums.sum(axis=0) / counts**2, members)
    clusters = (_with_groups(sizes, members) > 0).sum(axis=0)
    spread = np.sqrt((influence**2).sum(axis=0) * clusters / np.maximum(clusters - 1, 1))  # standard error
    p, p_worse = _randomisation(shares * good, first, resamples, seed)
    p_holm, family = p.copy(), np.ones(len(p))
    for cells in (*members.values(), np.setdiff1d(np.arange(len(first.cells)), grouped)):
        if len(cells):
            p_holm[cells], family[cells] = multipletests(p[cells], method="holm")[1], len(cells)
    old, new = (_with_groups(_cell_means(s)[None], members)[0] for s in (first, second))
    intervals = bootstrap(gap, groups, level=level, resamples=resamples, seed=seed)
    edges = _edges(gap)
    rows = []
    for j, (name, interval) in enumerate(intervals.items()):
        inside = np.concatenate([np.arange(edges[i], edges[i + 1]) for i in members.get(name, np.array([j]))])
        better = np.sign(gap.values[inside]) * good
        varies = spread[j] > ROUNDING * np.abs(shares[:, j]).sum()
        least = _detectable(int(clusters[j]), alpha / family[j], power) * float(spread[j]) if varies else None
        rows.append(
            Comparison(
                name=name,
                first=float(old[j]),
                second=float(new[j]),
                difference=float(new[j] - old[j]),
                interval=interval,
                p=float(p[j]),
                p_worse=float(p_worse[j]),
                p_holm=float(p_holm[j]),
                effect=_effect(gap.values[inside], 1 / counts[gap.cell[inside]]),
                wins=int((better > 0).sum()),
                ties=int((better == 0).sum()),
                losses=int((better < 0).sum()),
                queries=len(better),
                clusters=int(clusters[j]),
                detectable=least,
            )
        )
    return rows


def _index(names: Sequence[str]) -> tuple[list[str], Ints]:
    """The distinct names, sorted, and which of them each is."""
    known = sorted(set(names))
    place = {name: i for i, name in enumerate(known)}
    return known, np.array([place[name] for name in names], np.int64)


def _members(sample: Sample, groups: Mapping[str, Sequence[str]]) -> dict[str, Ints]:
    """Group -> indices of its cells."""
    place = {name: i for i, name in enumerate(sample.cells)}
    for group, cells in groups.items():
        if missing := [cell for cell in cells if cell not in place]:
            raise DataError(f"group {group!r}: no values of the cell {missing[0]!r}")
        if group in place or not cells or len(set(cells)) < len(cells):
            raise DataError(f"group {group!r} is empty, has a cell twice or bears the name of a cell")
    return {group: np.array([place[cell] for cell in cells], np.int64) for group, cells in groups.items()}


def _same(first: Sample, second: Sample) -> None:
    if cells := sorted(set(first.cells) ^ set(second.cells)):
        raise DataError(f"only one of the two systems has values of {len(cells)} cells: {', '.join(cells[:5])}")
    one, other = (
        set(zip([s.cells[i] for i in s.cell], s.queries, [s.clusters[j] for j in s.cluster], strict=True))
        for s in (first, second)
    )
    if rows := sorted(one ^ other):
        shown = ", ".join(f"{query} in {cell}, cluster {cluster}" for cell, query, cluster in rows[:5])
        raise DataError(f"{len(rows)} queries have values in one of the two systems only: {shown}")


def _with_groups(table: Floats, members: Mapping[str, Ints]) -> Floats:
    """(m, cells) -> (m, cells + groups): the mean of its cells for each group."""
    return np.column_stack([table, *(table[:, cells].mean(axis=1) for cells in members.values())])


def _tables(sample: Sample) -> tuple[Floats, Floats]:
    """(clusters, cells): sum of the values, and number of queries."""
    k, m = len(sample.clusters), len(sample.cells)
    flat = sample.cluster * m + sample.cell
    sums, sizes = np.zeros((2, k * m))
    np.add.at(sums, flat, sample.values)
    np.add.at(sizes, flat, 1.0)
    return sums.reshape(k, m), sizes.reshape(k, m)


def _edges(sample: Sample) -> Ints:  # (cells + 1,): cell i has the rows edges[i]:edges[i + 1]
    return np.searchsorted(sample.cell, np.arange(len(sample.cells) + 1))


def _cell_means(sample: Sample) -> Floats:  # (cells,) exactly summed, as the values in a result are
    return np.array([math.fsum(part) / len(part) for part in np.split(sample.values, _edges(sample)[1:-1])])


def _draws(choices: int, sample: Sample, resamples: int, rng: np.random.Generator) -> Iterator[Ints]:
    """(m, clusters) numbers below `choices`, `resamples` rows in all, in pieces of bounded memory."""
    step = max(1, CHUNK // max(len(sample.clusters), int(np.diff(_edges(sample)).max()), 2 * len(sample.cells)))
    for start in range(0, resamples, step):
        yield rng.integers(0, choices, (min(step, resamples - start), len(sample.clusters)))


def _mean(sample: Sample, weights: Ints) -> Floats:
    """(m, clusters) weights -> (m, cells) means; NaN where a cell has no query."""
    sums, sizes = np.split(weights.astype(np.float64) @ np.column_stack(_tables(sample)), 2, axis=1)
    means = np.full_like(sums, np.nan)
    np.divide(sums, sizes, out=means, where=sizes > 0)
    return means


def _median(sample: Sample, weights: Ints) -> Floats:
    """As `_mean`; the middle value, or the mean of the middle two, each query repeated by its weight."""
    found = np.full((len(weights), len(sample.cells)), np.nan)
    for j, (low, high) in enumerate(itertools.pairwise(_edges(sample))):
        order = low + np.argsort(sample.values[low:high], kind="stable")
        upto = weights[:, sample.cluster[order]].cumsum(axis=1)
        total = upto[:, -1:]
        some = total[:, 0] > 0
        middle = [order[(upto < place)[some].sum(axis=1)] for place in ((total + 1) // 2, total // 2 + 1)]
        found[some, j] = sample.values[middle].mean(axis=0)
    return found


def _randomisation(shares: Floats, sample: Sample, resamples: int, seed: int) -> Floats:
    """(2, columns): p of a sum this far from 0, and of one this low, with signs of the clusters at random."""
    observed = shares.sum(axis=0)
    slack = ROUNDING * np.abs(shares).sum(axis=0)  # equal sums, added up with other signs, differ by rounding

    def hits(null: Floats) -> Floats:
        found = np.array([np.abs(null) >= np.abs(observed) - slack, null <= observed + slack], np.float64)
        total: Floats = found.sum(axis=1)
        return total

    rng = np.random.default_rng([seed, 1])  # not the stream of the bootstrap
    p = np.ones((2, len(observed)))
    for drawn in _draws(2, sample, resamples, rng):
        p += hits((2.0 * drawn - 1.0) @ shares)
    p /= resamples + 1
    for j, column in enumerate(shares.T):
        moving = column[column != 0]
        if (flips := 2 ** len(moving)) <= resamples:
            signs = 1.0 - 2.0 * (np.arange(flips)[:, None] >> np.arange(len(moving)) & 1)
            p[:, j] = hits((signs @ moving)[:, None])[:, j] / flips
    return p


def _effect(gaps: Floats, weights: Floats) -> float | None:
    """d_z, each cell of a group weighing the same."""
    weights = weights / weights.sum()
    mean = float(weights @ gaps)
    deviation = math.sqrt(float(weights @ (gaps - mean) ** 2) * len(gaps) / max(len(gaps) - 1, 1))
    if deviation <= ROUNDING * float(np.abs(gaps).max()):
        return None if gaps.any() else 0.0
    return mean / deviation


def _detectable(clusters: int, alpha: float, power: float) -> float:
    """True difference over its standard error at which a two-sided t test has this power.

    By scipy's inverse, since statsmodels' TTestPower.solve_power stops early at the alphas of large
    families: at .01 / 110 and 240 clusters its answer has power .69, not .8. A significant
    difference of the wrong sign, less likely than 1e-5, is not counted as found.
    """
    from scipy import special, stats

    return float(special.nctdtrinc(clusters - 1, 1 - power, stats.t.isf(alpha / 2, clusters - 1)))
