"""The first passage of every pool of some cells, which measures of answer strings look at."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xbench.answers import UNSEARCHED
from xbench.ranking import Pool
from xbench.ranks import RankTable
from xbench.records import Cell
from xbench.space import Space
from xbench.top import first_passages


def first_by_vectors(
    cells: Sequence[Cell], table: RankTable, space: Space, *, threads: int | None = None
) -> NDArray[np.int64]:
    """int64 (queries, languages + 1), as `answers.answered` takes it, by the ranking rule.

    The joint pool's is the first of `table.top`; each pool of one language is searched by the queries of its cells.
    """
    found = np.full((len(table.query_ids), len(table.languages) + 1), UNSEARCHED, np.int64)
    if table.top.shape[1]:
        found[:, -1] = table.top[:, 0]
    asked = [a for i, a in enumerate(table.languages) if (table.query_language == i).any()]
    queries = dict(zip(asked, (matrix for matrix in space.queries if len(matrix)), strict=True))
    for language, piece, offset in zip(space.languages, space.pool.pieces, space.pool.offsets, strict=False):
        alone = Pool([piece], table.doc_ids[offset : offset + len(piece)])
        for cell in cells:
            if cell.passage_languages == (language,) and cell.query_language in queries:
                mine = table.query_language == table.languages.index(cell.query_language)
                first = first_passages([queries[cell.query_language]], alone, 1, threads=threads)
                found[mine, table.languages.index(language)] = offset + first[:, 0]
    return found
