"""Language bias of a whole result: by query language, and by pair of languages."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from xbench import bias
from xbench.catalogue import BIAS, parse
from xbench.errors import DataError, UsageError
from xbench.intervals import with_intervals
from xbench.ranks import RankTable
from xbench.records import Cell, Ranked
from xbench.results import CellResult, Result
from xbench.scoring import log_undefined, score

MAPS: dict[str, tuple[Callable[[Ranked], NDArray[np.float64]], Callable[[NDArray[np.float64]], np.floating]]] = {
    "median rank of the translation in the joint pool": (bias.translation_ranks, np.median),
    "AP in separate pools": (bias.separate_pools, np.mean),
    "AP in the joint pool with one target": (bias.one_target, np.mean),
}


def multi_cells(result: Result) -> list[CellResult]:
    """The multi cells of a result.

    Raises:
        UsageError: it has none.
    """
    found = [cell for cell in result.cells if cell.cell.setting == "multi"]
    if not found:
        raise UsageError(f"{result.task['name']}: the result has no multi cell, so language bias has no meaning")
    return found


def bias_result(result: Result, table: RankTable, k: int, cluster: str = "paragraph") -> Result:
    """The measures of language bias in the multi cells of a result, with intervals.

    Args:
        result: as stored.
        table: its ranks (`parquet.read_ranks`).
        k: cut-off of those that have one.
        cluster: of the intervals, as in `intervals.samples`.

    Raises:
        UsageError: the result has no multi cell, or keeps fewer than k first passages.
    """
    old = {cell.cell: cell for cell in multi_cells(result)}
    if any(cell.passage_languages != table.languages for cell in old):
        raise DataError(f"{result.task['name']}: the ranks beside the result are of other languages")
    if table.top.shape[1] < min(k, int(table.sizes.sum())):
        raise UsageError(
            f"k = {k}: the result keeps the first {table.top.shape[1]} passages of each query; "
            f"for more, evaluate again with -m AWRF@{k}, say"
        )
    measures = [parse(name.format(k=k)) for name in BIAS]
    cells = [replace(score(cell, table, measures, was.missing), left_out=was.left_out) for cell, was in old.items()]
    log_undefined(cells, measures)
    return with_intervals(replace(result, cells=cells), cluster)


def heat_maps(table: RankTable, cells: Sequence[Cell]) -> dict[str, NDArray[np.float64]]:
    """Title -> float64 (languages, languages): queries down, passages across.

    NaN where there is no multi cell among `cells` or no query has a relevant passage, and for a median that a
    run's missing passages make infinite.
    """
    found = {title: np.full((len(table.languages), len(table.languages)), np.nan) for title in MAPS}
    for cell in cells:
        a = table.languages.index(cell.query_language)
        ranked, query_ids = table.ranked(cell)
        for title, (values, mean) in MAPS.items() if query_ids else ():
            for b, column in enumerate(values(ranked).T):
                some = column[~np.isnan(column)]
                found[title][a, b] = mean(some) if len(some) else np.nan
    return {title: np.where(np.isfinite(matrix), matrix, np.nan) for title, matrix in found.items()}
