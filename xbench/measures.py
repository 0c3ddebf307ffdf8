"""Measures as functions of the ranks of the relevant passages, in ir-measures' spelling.

Every value is one float64 per query. A mean over queries is an aggregate and belongs to the
caller; the mean of AP is mAP, the mean of RR is MRR.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench import bias
from xbench.errors import UsageError, unknown

Floats = NDArray[np.float64]


class Ranked(NamedTuple):
    """The relevant passages of n queries, each with at least one, ranks ascending within a query.

    Compressed sparse rows: query `i` has entries `indptr[i]:indptr[i + 1]`; ranks are 1-based and
    of the full pool of `pool` passages.
    """

    indptr: NDArray[np.int64]  # (n + 1,)
    ranks: NDArray[np.int64]  # (nnz,)
    grades: NDArray[np.int64]  # (nnz,) parallel to ranks
    pool: int

    @property
    def relevant(self) -> Floats:
        """(n,) |R|: how many relevant passages each query has."""
        return np.diff(self.indptr).astype(np.float64)

    def sum(self, values: Floats) -> Floats:
        """(n,) sum over the entries of each query, in order."""
        return np.add.reduceat(values, self.indptr[:-1]) if len(values) else np.zeros(0)

    def within(self, k: float) -> Floats:
        """(n,) how many relevant passages each query has among the first k."""
        return self.sum((self.ranks <= k).astype(np.float64))

    def first(self) -> Floats:
        """(n,) rank of the best relevant passage."""
        return self.ranks[self.indptr[:-1]].astype(np.float64)

    def last(self) -> Floats:
        """(n,) rank of the worst relevant passage."""
        return self.ranks[self.indptr[1:] - 1].astype(np.float64)


def average_precision(r: Ranked, k: float) -> Floats:
    """AP@k: sum over relevant passages at rank <= k of precision there, over |R| (trec_eval map, map_cut)."""
    place = np.arange(len(r.ranks)) - np.repeat(r.indptr[:-1], np.diff(r.indptr)) + 1
    return r.sum(np.where(r.ranks <= k, place / r.ranks, 0.0)) / r.relevant


def reciprocal_rank(r: Ranked, k: float) -> Floats:
    """RR@k: 1 over the rank of the first relevant passage, 0 if it stands below k (trec_eval recip_rank)."""
    first = r.first()
    return np.where(first <= k, 1 / first, 0.0)


def recall(r: Ranked, k: float) -> Floats:
    """R@k: share of the relevant passages among the first k, over |R|, not over min(k, |R|).

    TREC's recall: on XQuAD-R's joint pool, with 11 relevant passages, R@10 cannot pass 10/11.
    """
    return r.within(k) / r.relevant


def precision(r: Ranked, k: float) -> Floats:
    """P@k: share of relevant passages among the first k, over k even where the pool is smaller."""
    return r.within(k) / k


def success(r: Ranked, k: float) -> Floats:
    """Success@k: 1 if a relevant passage is among the first k, else 0."""
    return (r.first() <= k).astype(np.float64)


def r_precision(r: Ranked, k: float) -> Floats:
    """Rprec: precision at rank |R|."""
    return r.sum((r.ranks <= np.repeat(r.relevant, np.diff(r.indptr))).astype(np.float64)) / r.relevant


def ndcg(r: Ranked, k: float) -> Floats:
    """nDCG@k with the grade itself as gain and 1/log2(1 + rank) as discount (trec_eval ndcg, ndcg_cut).

    The ideal ranking is that of all relevant passages by grade, cut at k as well.
    """
    query = np.repeat(np.arange(len(r.indptr) - 1), np.diff(r.indptr))
    gain = np.where(r.ranks <= k, r.grades / np.log2(1.0 + r.ranks), 0.0)
    ideal_grades = r.grades[np.lexsort((-r.grades, query))]
    place = np.arange(len(r.ranks)) - r.indptr[:-1][query] + 1
    ideal = np.where(place <= k, ideal_grades / np.log2(1.0 + place), 0.0)
    return r.sum(gain) / r.sum(ideal)


def _rank_distance(r: Ranked, k: float) -> Floats:
    return bias.rank_distance(r.first(), r.last())


def _normalised_rank_distance(r: Ranked, k: float) -> Floats:
    return bias.normalised_rank_distance(r.first(), r.last(), r.relevant, r.pool)


class _Family(NamedTuple):
    function: Callable[[Ranked, float], Floats]
    cutoff: str = "optional"  # or "required", "none"
    multi_only: bool = False
    median: bool = False


FAMILIES = {
    "AP": _Family(average_precision),
    "RR": _Family(reciprocal_rank),
    "nDCG": _Family(ndcg),
    "R": _Family(recall, "required"),
    "P": _Family(precision, "required"),
    "Success": _Family(success, "required"),
    "Rprec": _Family(r_precision, "none"),
    "RankDistance": _Family(_rank_distance, "none", multi_only=True),
    "RankDistanceMedian": _Family(_rank_distance, "none", multi_only=True, median=True),
    "nRankDistance": _Family(_normalised_rank_distance, "none", multi_only=True),
}
# ir-measures' own aliases, and the spellings papers use.
ALIASES = {"MAP": "AP", "mAP": "AP", "MRR": "RR", "Recall": "R", "NDCG": "nDCG", "Precision": "P", "RPrec": "Rprec"}


class Measure(NamedTuple):
    """A measure with its cut-off, if it has one; `name` is its one spelling."""

    name: str
    family: str
    k: float

    def __call__(self, ranked: Ranked) -> Floats:
        """float64 (n,): the value of each query."""
        return FAMILIES[self.family].function(ranked, self.k)

    @property
    def multi_only(self) -> bool:
        """Whether it is about translations in one pool, so undefined in mono and cross cells."""
        return FAMILIES[self.family].multi_only

    @property
    def per_query(self) -> bool:
        """Whether it has a column of its own per query; a median shares the column of its mean."""
        return not FAMILIES[self.family].median

    def aggregate(self, values: Floats) -> float:
        """The value of a cell: the mean over queries, exactly summed, or the median."""
        if FAMILIES[self.family].median:
            return float(np.median(values))
        return math.fsum(values) / len(values)


def parse(text: str) -> Measure:
    """The measure of a spelling such as `nDCG@10`, `AP` or `MRR@10`.

    Raises:
        UsageError: unknown, a missing or superfluous cut-off, or one that is not a positive number.
    """
    head, at, tail = text.strip().partition("@")
    family = ALIASES.get(head, head)
    if family not in FAMILIES:
        raise unknown("measure", text, [f + ("@k" if FAMILIES[f].cutoff == "required" else "") for f in FAMILIES])
    wish = FAMILIES[family].cutoff
    if at and wish == "none":
        raise UsageError(f"measure {text!r}: {family} has no cut-off; write {family}")
    if not at and wish == "required":
        raise UsageError(f"measure {text!r}: {family} needs a cut-off; write {family}@10, say")
    if at and not re.fullmatch("0*[1-9][0-9]{0,17}", tail):
        raise UsageError(f"measure {text[:60]!r}: the cut-off {tail[:40]!r} is not a positive whole number below 10^18")
    return Measure(f"{family}@{int(tail)}" if at else family, family, int(tail) if at else math.inf)


def parse_all(texts: list[str] | tuple[str, ...]) -> list[Measure]:
    """Each measure once, in order; as `parse`."""
    return list(dict.fromkeys(parse(text) for text in texts))
