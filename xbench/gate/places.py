"""How near in score passages were that changed places between two runs of one cell."""

from collections.abc import Collection as Ids
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xbench.lines import raw_lines
from xbench.trec import RankedList, named, read_run

Floats = NDArray[np.float64]


def run_file(result: Path, task: str, cell: str, slug: str) -> Path | None:
    """The run of a cell beside a result file, as `xbench export` writes it; None without one that bears its slug."""
    for suffix in ("", ".gz"):
        path = result.parent / f"{task}.{cell.replace('/', '.')}.run.trec{suffix}"
        if path.is_file():
            first = next(iter(raw_lines(path)), b"").split()
            return path if first[-1:] == [slug.encode()] else None
    return None


def gaps(one: Path, other: Path, query_ids: Ids[str]) -> dict[str, float]:
    """Query -> the largest gap of score, in either run, between passages that changed places.

    A gap is over the largest score of the query, if that is above 1. Queries of which nothing that is in the runs
    has changed places are left out. A passage that only one of two cut runs has counts as having changed places
    with the last one there.

    Raises:
        DataError: a file is not in the format.
        StorageError: it cannot be read.
    """
    pairs = [pair for path in (one, other) for pair in named(path)]
    queries, docs = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    wanted = {i for i, query in enumerate(queries) if query in query_ids}
    first, second = ({r.query: r for r in read_run(p, queries, docs) if r.query in wanted} for p in (one, other))
    found = {}
    for query in sorted(first.keys() & second.keys()):
        lists = first[query], second[query]
        both = [gap for gap in (_largest(*lists), _largest(*lists[::-1])) if gap is not None]
        if both:
            found[queries[query]] = max(both)
    return found


def _largest(mine: RankedList, theirs: RankedList) -> float | None:
    """The largest gap, in my scores, between passages that stand the other way round with them; None without any."""
    place = {doc: i for i, doc in enumerate(theirs.docs.tolist())}
    there = np.array([place.get(doc, -1) for doc in mine.docs.tolist()])
    scores, scale = mine.scores, max(1.0, float(np.abs(mine.scores).max()))
    found: list[Floats] = []
    if (there < 0).any():
        found.append(scores[there < 0] - scores[-1])
    kept, score = there[there >= 0], scores[there >= 0]
    if len(kept):
        # Of the passages above that stand below there, the first has the largest score.
        above = np.searchsorted(np.maximum.accumulate(kept), kept, side="right")
        turned = above < np.arange(len(kept))
        found.append(score[above[turned]] - score[turned])
    gap = np.concatenate(found) if found else np.zeros(0)
    return float(gap.max()) / scale if len(gap) else None
