"""Results of one task, paired query by query with the first."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xbench.catalogue import Measure
from xbench.gate.pairs import means, same_task
from xbench.intervals import RESAMPLES, SEED, groups_of, settings
from xbench.paired import Comparison, compare, holm
from xbench.results import Result
from xbench.task import SETTINGS

# Of the signs: with 110 cells in a family, p must be able to get below .01 / 110.
FLIPS = 100_000


def compare_results(
    first: Result, second: Result, measures: Sequence[Measure], *, cluster: str = "paragraph", alpha: float = 0.05
) -> dict[str, list[Comparison]]:
    """Measure -> one comparison a setting (its macro mean), one a group of languages, one a cell; see `paired.compare`.

    The groups are those of the first result.

    Args:
        first, second: of the same task, same version; differences are second - first.
        measures: means only.
        cluster: what changes sides as one, as in `intervals.samples`.
        alpha: of the smallest detectable difference.

    Raises:
        DataError: results of different tasks, or with different cells or queries.
        UsageError: a median, or a measure that the results do not have.
    """
    same_task(first, second)
    parts = means((first, second), measures, cluster)
    found = {}
    for measure in measures:
        before, after = parts[measure.name]
        groups = settings(before)
        further = {name: cells for name, cells in groups_of(first).items() if set(cells) <= set(before.cells)}
        rows = compare(
            before,
            after,
            groups,
            further=further,
            higher_is_better=not measure.lower_is_better,
            resamples=RESAMPLES,
            flips=FLIPS,
            seed=SEED,
            alpha=alpha,
        )
        order = [*(setting for setting in SETTINGS if setting in groups), *further, *before.cells]
        found[measure.name] = sorted(rows, key=lambda row: order.index(row.name))
    return found


def compare_all(
    first: Result,
    others: Sequence[Result],
    measures: Sequence[Measure],
    *,
    cluster: str = "paragraph",
    alpha: float = 0.05,
) -> list[dict[str, list[Comparison]]]:
    """`compare_results` of the first with each of the others, corrected for how many there are.

    With Holm's correction over all comparisons of a measure: those of a setting over all others, those of groups
    over all groups and others, those of cells over all cells of a setting and all others. `detectable` is at the
    alpha of its first step. With one other, as `compare_results`.
    """
    found = [compare_results(first, other, measures, cluster=cluster, alpha=alpha / len(others)) for other in others]
    if len(others) == 1:
        return found
    family = {cell.cell.name: f"cells of {cell.cell.setting}" for cell in first.cells} | {s: s for s in SETTINGS}
    for name in found[0]:
        families: dict[str, list[tuple[int, int]]] = {}
        for i, rows in enumerate(each[name] for each in found):
            for j, row in enumerate(rows):
                families.setdefault(family.get(row.name, "groups"), []).append((i, j))
        for places in families.values():
            corrected = holm(np.array([found[i][name][j].p for i, j in places]))
            for (i, j), p in zip(places, corrected, strict=True):
                found[i][name][j] = found[i][name][j]._replace(p_holm=float(p))
    return found


class Tally(NamedTuple):
    """How often a system beats the first."""

    setting: str
    cells_won: int  # significant at alpha, corrected
    cells_even: int
    cells_lost: int
    wins: int  # queries
    ties: int
    losses: int


def tallies(rows: Sequence[Comparison], *, higher_is_better: bool, alpha: float) -> list[Tally]:
    """One a setting: in how many cells and on how many queries the second system is better, even, worse."""
    found = []
    for setting in (row for row in rows if row.name in SETTINGS):
        cells = [row for row in rows if row.name.startswith(f"{setting.name}/")]
        sure = [row.difference * (1 if higher_is_better else -1) for row in cells if row.p_holm <= alpha]
        won, lost = sum(gap > 0 for gap in sure), sum(gap < 0 for gap in sure)
        counts = won, len(cells) - won - lost, lost
        found.append(Tally(setting.name, *counts, setting.wins, setting.ties, setting.losses))
    return found


class Change(NamedTuple):
    """A query whose value two results disagree on; differences are second - first."""

    query_id: str
    cell: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """Second - first."""
        return self.second - self.first


def most_changed(first: Result, second: Result, measure: Measure, count: int) -> Mapping[str, list[Change]]:
    """Setting -> the queries whose values differ most, with the cell, largest first; only those that differ.

    Where differences are equal, in the order of cell and query id.
    """
    found: dict[str, list[Change]] = {}
    other = {cell.cell: cell for cell in second.cells}
    for cell in first.cells:
        if cell.cell not in other or measure.column not in cell.per_query:
            continue
        there = other[cell.cell]
        values = dict(zip(there.query_ids, there.per_query[measure.column].tolist(), strict=True))
        before = zip(cell.query_ids, cell.per_query[measure.column].tolist(), strict=True)
        changes = [Change(q, cell.cell.name, v, values[q]) for q, v in before if values[q] != v]
        found.setdefault(cell.cell.setting, []).extend(changes)
    return {
        setting: sorted(some, key=lambda c: (-abs(c.difference), c.cell, c.query_id))[:count]
        for setting, some in found.items()
        if some
    }
