"""Measures as functions of the ranks of the relevant passages (trec_eval's definitions).

Each gives one float64 per query. A mean over queries is an aggregate and belongs to the caller;
the mean of AP is mAP, the mean of RR is MRR. What a run did not retrieve has an infinite rank, and
so adds nothing. `catalogue` has their names.
"""

import numpy as np
from numpy.typing import NDArray

from xbench.records import Ranked

Floats = NDArray[np.float64]


def average_precision(r: Ranked, k: float) -> Floats:
    """AP@k: sum over relevant passages at rank <= k of precision there, over |R| (trec_eval map, map_cut)."""
    return r.sum(np.where(r.ranks <= k, r.place / r.ranks, 0.0)) / r.relevant


def xtreme_average_precision(r: Ranked, k: float) -> Floats:
    """XtremeAP@k: as AP@k, but over min(|R|, k) instead of |R|.

    XTREME-R's "mAP@20" (google-research/xtreme, `evaluate_retrieval.py`) is its mean at k = 20 over the
    queries of all languages together: the mean by query, not the macro mean. It differs from AP@k only
    for queries with more than k relevant passages.
    """
    return r.sum(np.where(r.ranks <= k, r.place / r.ranks, 0.0)) / np.minimum(r.relevant, k)


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
    return r.sum((r.ranks <= r.relevant[r.query]).astype(np.float64)) / r.relevant


def ndcg(r: Ranked, k: float) -> Floats:
    """nDCG@k with the grade itself as gain and 1/log2(1 + rank) as discount (trec_eval ndcg, ndcg_cut).

    The ideal ranking is that of all relevant passages by grade, cut at k as well.
    """
    gain = np.where(r.ranks <= k, r.grades / np.log2(1.0 + r.ranks), 0.0)
    ideal_grades = r.grades[np.lexsort((-r.grades, r.query))]
    ideal = np.where(r.place <= k, ideal_grades / np.log2(1.0 + r.place), 0.0)
    return r.sum(gain) / r.sum(ideal)


def exact_match(r: Ranked, k: float) -> Floats:
    """EM@1: 1 if the answer string that goes with the first passage is an answer to the query, else 0.

    `max_{a in A_q} 1[norm(answer(d_1)) = norm(a)]`, as `answers.matches`. NaN where the query has no answer string,
    or the passage none that goes with it.
    """
    return r.answered.get("EM", np.full(len(r.indptr) - 1, np.nan))


def has_answer(r: Ranked, k: float) -> Floats:
    """HasAnswer@1: 1 if the first passage holds an answer to the query, judged relevant or not, else 0.

    Substring of normalised text, as `answers.contains`; NaN where the query has no answer string.
    """
    return r.answered.get("HasAnswer", np.full(len(r.indptr) - 1, np.nan))


def complete(r: Ranked, k: float) -> Floats:
    """Complete@k: 1 if all relevant passages are among the first k, else 0.

    `1[max_{d in R} rank(d) <= k]`; the definition is ours. In the joint pool: whether every translation of
    the answer is found. It needs k >= |R|, 11 on XQuAD-R.
    """
    return (r.last() <= k).astype(np.float64)
