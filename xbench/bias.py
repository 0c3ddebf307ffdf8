"""Language bias: how far the language of a passage, rather than its meaning, decides its rank.

Functions of the ranks of the relevant passages in the joint pool, of how many passages of each
language stand above them, and of the languages of the first k. Each gives one float64 per query;
NaN where it is not defined. Weak alignment (a right passage before the wrong ones of other languages)
and strong alignment (every right passage before every wrong one, whatever their languages) are LAReQA's
words (arXiv 2004.05484); where no other source is named, the formula is ours.
"""

import numpy as np
from numpy.typing import NDArray

from xbench.measures import average_precision
from xbench.records import Joint, Ranked

Floats = NDArray[np.float64]


def rank_distance(r: Ranked, k: float) -> Floats:
    """RankDistance: largest minus smallest rank of the relevant passages, in the joint pool.

    0 for a query with one relevant passage; at best |R| - 1, when the translations stand together.
    Lower is better. arXiv 2408.10536, section 4.1 and its footnote 6 (after Huang et al.,
    arXiv 2305.09025). Dominated by the single worst-ranked translation, and it grows with the pool.
    NaN where a run lacks one of them.
    """
    last = r.last()
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        distance: Floats = last - r.first()
    distance[~np.isfinite(last)] = np.nan
    return distance


def normalised_rank_distance(r: Ranked, k: float) -> Floats:
    """nRankDistance: from 0 (the translations stand together) to 1 (at the top and at the bottom).

    `(RD - (|R| - 1)) / (N - |R|)`, N passages in the pool, so that pools of different sizes can be
    compared; 0 where the whole pool is relevant.
    """
    room: Floats = np.maximum(r.pool - r.relevant, 1.0)
    return (rank_distance(r, k) - (r.relevant - 1)) / room


def same_language_share(r: Ranked, k: float) -> Floats:
    """SameLanguageShare@k: share of the first k passages that are in the query's language.

    `SLS@k = (1/k) |{r <= k : lang(d_r) = lang(q)}|`; k is the pool's size where that is smaller.
    """
    top, _ = _first(r, k)
    return _where_full(top, (top == _joint(r).own).mean(axis=1))


def same_language_lift(r: Ranked, k: float) -> Floats:
    """SameLanguageLift@k: SLS@k over the share of the query's language in the pool; 1 is without bias."""
    j = _joint(r)
    return same_language_share(r, k) * float(j.sizes.sum() / j.sizes[j.own])


def same_language_wrong_first(r: Ranked, k: float) -> Floats:
    """SameLanguageWrongFirst: 1 if the first passage is irrelevant and in the query's language, else 0.

    LAReQA's failure of weak alignment: a wrong passage in the own language beats all right ones.
    """
    top, grade = _first(r, 1)
    return _where_full(top, ((top == _joint(r).own) & (grade == 0)).mean(axis=1))


def alignment_violation(r: Ranked, k: float) -> Floats:
    """AlignmentViolation: how often a wrong passage in the query's language beats a right one in another.

    `|{(d+, d-) : rank(d-) < rank(d+)}| / |{(d+, d-)}|` over the pairs of a relevant d+ not in the query's
    language and an irrelevant d- in it: violations of LAReQA's strong alignment. NaN without such
    pairs, and where a run lacks such a d+.
    """
    j = _joint(r)
    own = j.language == j.own
    before = np.cumsum(own) - own  # relevant passages of the own language above, of this query and earlier ones
    wrong = j.above[:, j.own] - (before - before[r.indptr[:-1]][r.query])
    others = r.sum((~own).astype(np.float64))
    pairs = others * (j.sizes[j.own] - r.sum(own.astype(np.float64)))
    above = r.sum(np.where(own, 0.0, np.where(np.isfinite(r.ranks), wrong, np.nan)))
    return above / np.where(pairs > 0, pairs, np.nan)


def language_divergence(r: Ranked, k: float) -> Floats:
    """LanguageDivergence@k: Jensen-Shannon divergence, in bits, of the languages of the first k from the pool's.

    `JSD((1/k) counts, p)` with p the share of each language in the pool: 0 where the first k have the
    languages of the pool, at most 1. A perfect model has not 0, since the translations of an answer
    are spread evenly and the pool is not (Thai has two thirds of the others' passages in XQuAD-R).
    """
    top, _ = _first(r, k)
    return _where_full(top, _divergence(_by_language(top, np.ones(top.shape[1]), r), r))


def attention_weighted_rank_fairness(r: Ranked, k: float) -> Floats:
    """AWRF@k: 1 - JSD(exposure by language, share of each language in the pool), in [0, 1]; 1 is fair.

    Exposure `E_l = sum_{r <= k, lang(d_r) = l} w_r / sum_{r <= k} w_r` with `w_r = 1/log2(1 + r)`: the form of
    TREC's Fair Ranking track (attention-weighted rank fairness), without its factor nDCG.
    """
    top, _ = _first(r, k)
    weights = 1 / np.log2(2.0 + np.arange(top.shape[1]))
    return _where_full(top, 1 - _divergence(_by_language(top, weights, r), r))


def equal_expected_rank(r: Ranked, k: float) -> Floats:
    """PEER@k of the irrelevant passages among the first k: probability of equal expected rank of the languages.

    `P(chi2_{G-1} > H)`, `H = (N-1) sum_l n_l (mean_l - mean)^2 / sum_i (rank_i - mean)^2` over the N irrelevant
    passages among the first k, in G languages (Kruskal and Wallis); 1 with fewer than two languages.
    Higher is fairer. Yang, Jaenich, Mayfield, Lawrie, SIGIR 2024 (arXiv 2405.00978), with all weight on
    grade 0. Of the relevant passages it tells nothing on XQuAD-R and MLQA-R: with one in each
    language H = G - 1 whatever the ranks (.4405 for each of XQuAD-R's queries).
    """
    from scipy.stats import chi2

    top, grade = _first(r, k)
    ranks = np.arange(1.0, top.shape[1] + 1)
    wrong = ((grade == 0) & (top >= 0)).astype(np.float64)
    n = wrong.sum(axis=1)
    mean = wrong @ ranks / np.maximum(n, 1)
    spread = (wrong * (ranks - mean[:, None]) ** 2).sum(axis=1)
    languages = len(_joint(r).sizes)
    members = [wrong * (top == language) for language in range(languages)]
    sizes = np.stack([member.sum(axis=1) for member in members], axis=1)
    means = np.stack([member @ ranks for member in members], axis=1) / np.maximum(sizes, 1)
    between = (sizes * (means - mean[:, None]) ** 2).sum(axis=1)
    groups = (sizes > 0).sum(axis=1)
    h = (n - 1) * between / np.where(groups > 1, spread, 1)
    return _where_full(top, np.where(groups > 1, chi2.sf(h, np.maximum(groups - 1, 1)), 1.0))


def other_languages_precision(r: Ranked, k: float) -> Floats:
    """OtherLanguagesAP: AP in the pool without the passages of the query's language.

    Compared with AP in the full pool: what wrong passages of the own language cost. NaN where all
    relevant passages are in the query's language.
    """
    j = _joint(r)
    keep = j.language != j.own
    others = np.delete(j.above, j.own, axis=1).sum(axis=1)
    return _restricted(r, keep, np.where(j.above[:, 0] < 0, np.inf, 1 + others))


def ranking_consistency(r: Ranked, k: float) -> Floats:
    """MRC@k: how alike the first k passages are when the same question is asked in other languages.

    For a question i and languages a, b: `RC_i(a, b)` = Spearman's correlation of the two lists over the union
    of their first k, what one list lacks standing tied below its k; `RC_i(a)` = its mean over the other
    languages b that hold the question; 1 where the language of the query moves nothing. The formula as
    quoted in arXiv 2509.06195 (MRL 2024); how that cuts lists at k could not be verified. NaN where no
    other language holds the question; a language for which a run gave fewer than k passages is not counted.
    """
    j, depth = _joint(r), int(min(k, r.pool))
    mine, _ = _first(r, k)
    total, count = np.zeros(len(mine)), np.zeros(len(mine))
    for b in range(len(j.sizes)):
        held = np.flatnonzero(_full(j.asked[:, b, :depth])) if b != j.own else np.zeros(0, np.int64)
        step = max(1, (1 << 22) // depth**2)  # queries at a time: each pair of lists is compared place by place
        for low in range(0, len(held), step):
            some = held[low : low + step]
            total[some] += _spearman(j.top[some, :depth], j.asked[some, b, :depth])
        count[held] += 1
    return _where_full(mine, total / np.where(count > 0, count, np.nan))


def translation_ranks(r: Ranked) -> Floats:
    """(n, languages): the rank in the joint pool of the best relevant passage of each language; NaN without one.

    `min_{d in R, lang(d) = b} rank(d)`, the rank of the translation; `H_rank[a, b]` is its median over the
    queries of language a.
    """
    found = np.full((len(r.indptr) - 1, len(_joint(r).sizes)), np.nan)
    np.fmin.at(found, (r.query, _joint(r).language), r.ranks)
    return found


def separate_pools(r: Ranked) -> Floats:
    """(n, languages): AP in the pool of each language alone; NaN where nothing there is relevant.

    Its mean is `H_sep[a, b]`, the heat map: mono on the diagonal, cross off it.
    """
    j = _joint(r)
    own = np.take_along_axis(j.above, j.language[:, None], axis=1)[:, 0]
    ranks = np.where(own < 0, np.inf, 1.0 + own)
    return np.stack(
        [_restricted(r, j.language == b, ranks) for b in range(len(j.sizes))],
        axis=1,
    )


def one_target(r: Ranked) -> Floats:
    """(n, languages): AP of the relevant passages of each language in the joint pool without the other relevant ones.

    `H_one[a, b]` is its mean over the queries of language a ("one target" in LAReQA); with one relevant
    passage a language it is the mean of 1/rank. Strong alignment means flat rows; the diagonal is AP of the
    answers in the query's language. NaN where nothing in b is relevant.
    """
    j = _joint(r)
    columns = []
    for b in range(len(j.sizes)):
        target = j.language == b
        before = np.cumsum(~target) - ~target
        removed = before - before[r.indptr[:-1]][r.query]  # other relevant passages above, in this query
        columns.append(_restricted(r, target, r.ranks - removed))
    return np.stack(columns, axis=1)


def _spearman(first: NDArray[np.int64], second: NDArray[np.int64]) -> Floats:
    """(n,) Spearman's correlation of lists (n, k) over the union of their entries."""
    k = first.shape[1]
    places = np.arange(1.0, k + 1)
    same = (first[:, :, None] == second[:, None, :]).astype(np.float64)
    common = same.sum(axis=(1, 2))
    union = 2 * k - common
    tied = (k + 1 + union) / 2  # the mean of the places k + 1 ... union
    missing = k - common
    # Pearson's correlation of the two columns of places; both have the same sum and the same squares.
    products = np.einsum("nij,i,j->n", same, places, places)
    products += tied * ((1 - same.sum(axis=2)) @ places + (1 - same.sum(axis=1)) @ places)
    centre = union * ((union + 1) / 2) ** 2
    squares = (places**2).sum() + missing * tied**2
    return np.where(squares > centre, (products - centre) / np.where(squares > centre, squares - centre, 1), 1.0)


def _joint(r: Ranked) -> Joint:
    if r.joint is None:
        raise ValueError("a measure of language bias needs a multi cell")
    return r.joint


def _first(r: Ranked, k: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n, k): language and grade of the first k passages; k is at most the size of the pool."""
    j, depth = _joint(r), int(min(k, r.pool))
    if j.top_language.shape[1] < depth:
        raise ValueError(f"the first {depth} passages are needed, {j.top_language.shape[1]} are known")
    return j.top_language[:, :depth], j.top_grade[:, :depth]


def _full(top: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether a query has k passages; a run may give fewer."""
    return np.asarray((top >= 0).all(axis=1))


def _where_full(top: NDArray[np.int64], values: Floats) -> Floats:
    return np.where(_full(top), values, np.nan)


def _by_language(top: NDArray[np.int64], weights: Floats, r: Ranked) -> Floats:
    """(n, languages): sum of the weights (k,) of the places that each language has."""
    return np.stack([(top == language) @ weights for language in range(len(_joint(r).sizes))], axis=1)


def _divergence(weights: Floats, r: Ranked) -> Floats:
    """(n,) Jensen-Shannon divergence in bits of weights (n, languages) from the pool's shares."""
    from scipy.special import rel_entr

    target = _joint(r).sizes / _joint(r).sizes.sum()
    share = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    middle = (share + target) / 2
    total = rel_entr(share, middle).sum(axis=1) + rel_entr(target, middle).sum(axis=1)
    return np.asarray(np.maximum(total, 0) / np.log(4))  # half the sum, in bits; rounding may go below 0


def _restricted(r: Ranked, keep: NDArray[np.bool_], ranks: Floats) -> Floats:
    """(n,) AP of the entries in `keep` at other ranks; NaN for a query without one."""
    counts = np.bincount(r.query[keep], minlength=len(r.indptr) - 1)
    some = counts > 0
    indptr = np.concatenate([[0], np.cumsum(counts[some])]).astype(np.int64)
    found = np.full(len(counts), np.nan)
    found[some] = average_precision(Ranked(indptr, ranks[keep], r.grades[keep], r.pool), np.inf)
    return found
