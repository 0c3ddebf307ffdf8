"""Two systems on the same queries: paired tests, intervals of the difference, what could have been seen."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError
from xbench.stats import (
    ROUNDING,
    Interval,
    Sample,
    bootstrap,
    cell_edges,
    cell_means,
    cluster_tables,
    draws,
    group_members,
    with_groups,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
    detectable: float | None  # smallest true difference found with the wanted power; None: p cannot tell


def compare(
    first: Sample,
    second: Sample,
    groups: Mapping[str, Sequence[str]],
    *,
    further: Mapping[str, Sequence[str]] | None = None,
    higher_is_better: bool = True,
    level: float = 0.95,
    resamples: int = 10_000,
    flips: int | None = None,
    seed: int = 0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> list[Comparison]:
    """Two systems on the same queries: a row for every cell, then for every group.

    Of means only: a difference of medians is no mean of differences, so signs cannot be flipped.

    p is of the paired randomisation test: under the null hypothesis the two systems may change
    sides, a cluster as a whole and in all cells at once, which flips the sign of its sum of
    differences. Exact where all flips of the clusters that differ are no more than `flips`,
    else (hits + 1) / (flips + 1) (Phipson and Smyth 2010). Smucker, Allan and Carterette 2007;
    Holm 1979. Queries whose values differ by rounding alone tie.

    `detectable` is for a two-sided t test of the clusters with the cluster-robust standard error
    of the mean (a ratio: linearised), at `alpha` for a group and for a cell at `alpha` over the
    number of cells in its group, Holm's first step. None where p cannot get that low, with so few
    flips or clusters.

    Args:
        first, second: samples of the same cells, queries and clusters.
        groups: name -> cells, as in `bootstrap`, no cell in two; the cells of none form one family.
        further: more groups, such as those of languages, which may overlap; they form a family of their own.
        higher_is_better: False for rank distances; decides wins, losses and `p_worse`.
        level, resamples, seed: as in `bootstrap`.
        flips: of the signs, for p; by default as many as resamples.
        alpha, power: of `detectable`.

    Raises:
        DataError: different cells, queries or clusters; groups as in `bootstrap`, or that overlap.
    """
    members, further = group_members(first, groups), further or {}
    grouped = [cell for cells in members.values() for cell in cells]
    if len(set(grouped)) < len(grouped):
        raise DataError(f"groups {', '.join(groups)}: a cell is in two of them")
    more = np.arange(len(further)) + len(first.cells) + len(groups)  # their columns
    families = [*members.values(), np.setdiff1d(np.arange(len(first.cells)), grouped), more]
    members |= group_members(first, further)
    gap = differences(first, second)
    good = 1 if higher_is_better else -1
    shares, spread, clusters = _columns(gap, members)
    counts = np.diff(cell_edges(gap))
    flips = flips or resamples
    p, p_worse = _randomisation(shares * good, gap, flips, seed)
    p_holm, family = p.copy(), np.ones(len(p))
    for cells in families:
        if len(cells):
            p_holm[cells], family[cells] = holm(p[cells]), len(cells)
    old, new = (with_groups(cell_means(s)[None], members)[0] for s in (first, second))
    intervals = bootstrap(gap, {**groups, **further}, level=level, resamples=resamples, seed=seed)
    edges = cell_edges(gap)
    rows = []
    for j, (name, interval) in enumerate(intervals.items()):
        inside = np.concatenate([np.arange(edges[i], edges[i + 1]) for i in members.get(name, np.array([j]))])
        better = np.sign(gap.values[inside]) * good
        limits = Limits(alpha / family[j], power, flips)
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
                detectable=_detectable(float(spread[j]), int(clusters[j]), limits),
            )
        )
    return rows


def holm(p: Floats) -> Floats:
    """(n,): p of a family of n tests, corrected for their number (Holm 1979)."""
    found, last = np.empty(len(p)), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        found[i] = last = max(last, min(1.0, float(p[i]) * (len(p) - place)))
    return found


class Worse(NamedTuple):
    """A group of cells, and how sure it is that the second system is the worse one there."""

    name: str
    first: float
    second: float
    p: float  # one-sided
    detectable: float | None  # smallest true loss found with the wanted power; None: p cannot tell
    error: float  # standard error of the difference, of whole clusters
    queries: int
    clusters: int
    wins: int  # queries on which the second is better
    losses: int


def worse(
    first: Sample,
    second: Sample,
    groups: Mapping[str, Sequence[str]],
    *,
    higher_is_better: bool = True,
    flips: int = 100_000,
    seed: int = 0,
    alphas: Sequence[float],
    power: float = 0.8,
) -> list[Worse]:
    """Whether the second system is worse: `p_worse` of `compare` for groups of cells, which may overlap, and no more.

    Args:
        first, second, higher_is_better: as in `compare`.
        groups: name -> cells; names are not those of cells.
        flips, seed: of the signs, for p.
        alphas: one a group; `detectable` is for a one-sided t test of the clusters there.
        power: of `detectable`.

    Raises:
        DataError: as `compare`.
    """
    members = group_members(first, groups)
    gap = differences(first, second)
    own = len(first.cells)
    good = 1 if higher_is_better else -1
    shares, spread, clusters = _columns(gap, members)
    p = _randomisation(shares[:, own:] * good, gap, flips, seed)[1]
    old, new = (with_groups(cell_means(s)[None], members)[0, own:] for s in (first, second))
    edges = cell_edges(gap)
    better = np.sign(gap.values) * good
    rows = []
    for j, (name, cells) in enumerate(members.items()):
        inside = np.concatenate([better[edges[i] : edges[i + 1]] for i in cells])
        error, many = float(spread[own + j]), int(clusters[own + j])
        least = _detectable(error, many, Limits(alphas[j], power, flips, sides=1))
        counted = len(inside), many, int((inside > 0).sum()), int((inside < 0).sum())
        rows.append(Worse(name, float(old[j]), float(new[j]), float(p[j]), least, error, *counted))
    return rows


def differences(first: Sample, second: Sample) -> Sample:
    """The first sample with second - first as values, 0 where they differ by rounding alone.

    Raises:
        DataError: different cells, queries or clusters.
    """
    _same(first, second)
    tie = np.isclose(first.values, second.values, rtol=ROUNDING, atol=ROUNDING)
    return first._replace(values=np.where(tie, 0.0, second.values - first.values))


def _columns(gap: Sample, members: Mapping[str, Ints]) -> tuple[Floats, Floats, Ints]:
    """Of each cell and group: (clusters, columns) shares, which add up to the difference; its standard error; clusters.

    Where the clusters differ by rounding alone, the error is 0.
    """
    sums, sizes = cluster_tables(gap)
    counts = sizes.sum(axis=0)
    shares = with_groups(sums / counts, members)
    influence = shares - with_groups(sizes * sums.sum(axis=0) / counts**2, members)
    clusters = (with_groups(sizes, members) > 0).sum(axis=0)
    spread = np.sqrt((influence**2).sum(axis=0) * clusters / np.maximum(clusters - 1, 1))
    return shares, np.where(spread > ROUNDING * np.abs(shares).sum(axis=0), spread, 0.0), clusters


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


def _randomisation(shares: Floats, sample: Sample, flips: int, seed: int) -> Floats:
    """(2, columns): p of a sum this far from 0, and of one this low, with signs of the clusters at random."""
    observed = shares.sum(axis=0)
    slack = ROUNDING * np.abs(shares).sum(axis=0)  # equal sums, added up with other signs, differ by rounding

    def hits(null: Floats) -> Floats:
        found = np.array([np.abs(null) >= np.abs(observed) - slack, null <= observed + slack], np.float64)
        total: Floats = found.sum(axis=1)
        return total

    rng = np.random.default_rng([seed, 1])  # not the stream of the bootstrap
    p = np.ones((2, len(observed)))
    for drawn in draws(2, sample, flips, rng):
        p += hits((2.0 * drawn - 1.0) @ shares)
    p /= flips + 1
    for j, column in enumerate(shares.T):
        moving = column[column != 0]
        if (every := 2 ** len(moving)) <= flips:
            signs = 1.0 - 2.0 * (np.arange(every)[:, None] >> np.arange(len(moving)) & 1)
            p[:, j] = hits((signs @ moving)[:, None])[:, j] / every
    return p


def _effect(gaps: Floats, weights: Floats) -> float | None:
    """d_z, each cell of a group weighing the same."""
    weights = weights / weights.sum()
    mean = float(weights @ gaps)
    deviation = math.sqrt(float(weights @ (gaps - mean) ** 2) * len(gaps) / max(len(gaps) - 1, 1))
    if deviation <= ROUNDING * float(np.abs(gaps).max()):
        return None if gaps.any() else 0.0
    return mean / deviation


class Limits(NamedTuple):
    """Of a test."""

    alpha: float
    power: float
    flips: int
    sides: int = 2


def _detectable(error: float, clusters: int, limits: Limits) -> float | None:
    """True difference at which a t test has this power; None without variance, or where p cannot get so low.

    By scipy's inverse, since statsmodels' TTestPower.solve_power stops early at the alphas of large
    families: at .01 / 110 and 240 clusters its answer has power .69, not .8. A significant
    difference of the wrong sign, less likely than 1e-5, is not counted as found.
    """
    lowest = max(1 / (limits.flips + 1), limits.sides * 2.0**-clusters)  # that p can be
    if not error or lowest > limits.alpha:
        return None
    from scipy import special, stats

    critical = stats.t.isf(limits.alpha / limits.sides, clusters - 1)
    return float(special.nctdtrinc(clusters - 1, 1 - limits.power, critical)) * error
