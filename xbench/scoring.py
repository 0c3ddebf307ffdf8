"""From ranks to the values of cells; the same for vectors and for runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xbench.catalogue import Measure
from xbench.progress import log
from xbench.ranks import RankTable
from xbench.records import Cell
from xbench.results import CellResult


def score(
    cell: Cell,
    table: RankTable,
    measures: Sequence[Measure],
    missing: int = 0,
    foreign: Mapping[str, NDArray[np.float64]] | None = None,
) -> CellResult:
    """The values of a cell.

    A query without a relevant passage in the pool is left out and counted (arXiv 2408.10536 does
    so: counting zeros would cap MLQA-R's cross mAP at .46, and it prints up to .68). A measure
    exists in a cell if it is defined for all its queries.

    Args:
        cell: one of the task's.
        table: the ranks.
        measures: what to compute.
        missing: queries for which a run has no passage in the pool; they count 0.
        foreign: per-query values of measures that only ir-measures has.
    """
    ranked, query_ids = table.ranked(cell)
    values: dict[str, float] = {}
    per_query: dict[str, NDArray[np.float64]] = {}
    for measure in measures if query_ids else ():
        if measure.multi_only and cell.setting != "multi":
            continue
        found = (foreign or {})[measure.name] if measure.foreign else measure(ranked)
        if not np.isfinite(found).all():
            continue
        per_query[measure.column] = found
        values[measure.name] = measure.aggregate(found)
    queries = int((table.query_language == table.languages.index(cell.query_language)).sum())
    return CellResult(cell, ranked.pool, queries - len(query_ids), missing, query_ids, values, per_query)


def log_undefined(cells: Sequence[CellResult], measures: Sequence[Measure]) -> None:
    """Say in how many cells a measure is missing because it is undefined for a query there."""
    for measure in measures:
        lacking = [
            c.cell.name
            for c in cells
            if c.query_ids and measure.name not in c.values and (c.cell.setting == "multi" or not measure.multi_only)
        ]
        if lacking:
            shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
            log.info("no %s in %d cells (%s): undefined for some queries", measure.name, len(lacking), shown)
