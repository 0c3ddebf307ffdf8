"""Language bias: each measure by its definition from lists written out; by hand, in closed form and in expectation."""

import math
import statistics
from fractions import Fraction

import numpy as np
import peer_measure
import pytest
import scipy.stats
from test_ranks import SEEDS, World, of, question, world

from xbench import bias
from xbench.catalogue import parse
from xbench.records import Ranked

NAN = math.nan
WITHOUT_CUT = ("RankDistance", "nRankDistance", "SameLanguageWrongFirst", "AlignmentViolation", "OtherLanguagesAP")
CUT = ("SameLanguageShare", "SameLanguageLift", "LanguageDivergence", "AWRF", "MRC", "Complete", "XtremeAP")


def precision(docs: list[str], relevant: set[str]) -> float:
    """AP, what is not in the list adding nothing; NaN without relevant passages."""
    at = [rank for rank, doc in enumerate(docs, 1) if doc in relevant]
    return float(sum(Fraction(n, rank) for n, rank in enumerate(at, 1)) / len(relevant)) if relevant else NAN


def divergence(p: list[Fraction], q: list[Fraction]) -> float:
    """Jensen-Shannon divergence in bits, each distribution against the mean of the two."""
    halves = [[a * math.log2(2 * a / (a + b)) for a, b in zip(x, y, strict=True) if a] for x, y in ((p, q), (q, p))]
    return (math.fsum(halves[0]) + math.fsum(halves[1])) / 2


def correlation(first: list[str], second: list[str]) -> float:
    """Spearman's over the union of two lists; what one of them lacks stands, tied, below its end."""
    union = sorted({*first, *second})
    places = [[(x.index(d) if d in x else len(x)) for d in union] for x in (first, second)]
    return 1.0 if first == second else scipy.stats.spearmanr(*places).statistic


def by_definition(w: World, query: str, k: int) -> dict[str, float]:
    """protocol.md, sections 2.7, 3 and 5, for one query, from its list."""
    docs, right, own = w.lists[query], set(w.relevant(query)), of(query)
    at = [docs.index(d) + 1 if d in docs else math.inf for d in right]
    distance = max(at) - min(at) if max(at) < math.inf else NAN
    share = [Fraction(len(w.passages[a]), len(w.pool)) for a in w.languages]
    first = docs[: min(k, len(w.pool))]
    full = len(first) == min(k, len(w.pool))
    weights = [1 / math.log2(1 + rank) for rank in range(1, len(first) + 1)]
    counts = [Fraction(sum(of(d) == a for d in first), max(len(first), 1)) for a in w.languages]
    exposure = [
        math.fsum(x for d, x in zip(first, weights, strict=True) if of(d) == a) / (math.fsum(weights) or 1)
        for a in w.languages
    ]
    others = [d for d in right if of(d) != own]
    wrong = [d for d in w.passages[own] if d not in right]
    pairs = [(d, e) for d in others for e in wrong]
    beaten = sum(e in docs and docs.index(e) < docs.index(d) for d, e in pairs if d in docs)
    elsewhere = [
        w.lists[q][: len(first)]
        for q in w.queries
        if question(q) == question(query) and q != query and w.relevant(q).keys() == right
    ]
    alike = [correlation(first, x) for x in elsewhere if full and len(x) == len(first)]
    hits = [rank for rank in at if rank <= k]
    sum_of_precisions = sum(Fraction(sum(x <= rank for x in hits), int(rank)) for rank in hits)
    return {
        "RankDistance": distance,
        "nRankDistance": (distance - (len(right) - 1)) / max(len(w.pool) - len(right), 1),
        "SameLanguageShare": float(counts[w.languages.index(own)]) if full else NAN,
        "SameLanguageLift": float(counts[w.languages.index(own)] / share[w.languages.index(own)]) if full else NAN,
        "SameLanguageWrongFirst": float(docs[0] in wrong) if docs else NAN,
        "AlignmentViolation": beaten / len(pairs) if pairs and {*others} <= {*docs} else NAN,
        "OtherLanguagesAP": precision([d for d in docs if of(d) != own], set(others)),
        "LanguageDivergence": divergence(counts, share) if full else NAN,
        "AWRF": 1 - divergence(exposure, share) if full else NAN,
        "MRC": statistics.fmean(alike) if alike else NAN,
        "Complete": float(right <= {*docs[:k]}),
        "XtremeAP": float(sum_of_precisions / min(len(right), k)),
    }


def cuts(w: World) -> tuple[int, ...]:
    return 1, 2, 3, 7, len(w.pool) - 1, len(w.pool), len(w.pool) + 5


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_measure_by_its_definition(seed: int, run: bool) -> None:
    w = world(seed, run=run)
    table = w.table(len(w.pool))
    for language in w.languages:
        ranked, queries = table.ranked(w.multi(language))
        for k in cuts(w) if queries else ():
            expected = [by_definition(w, query, k) for query in queries]
            for name in (*WITHOUT_CUT, *(f"{family}@{k}" for family in CUT)):
                wanted = [row[name.partition("@")[0]] for row in expected]
                found = parse(name)(ranked)
                np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12, err_msg=f"{name} {queries}")
                assert found.dtype == np.float64
        if queries and not run:
            distances = parse("RankDistanceMedian"), [by_definition(w, query, 1)["RankDistance"] for query in queries]
            assert distances[0].aggregate(distances[0](ranked)) == statistics.median(distances[1])


def peer(w: World, queries: list[str], k: int, level: int) -> list[float]:
    """The authors' value of one level, by their evaluator, since their provider does not run with ir-measures 0.4.3.

    It knows the levels that the qrels name. Relevant passages below k, which move nothing on level 0, are kept
    from it: it gives NaN where they tie with another of their level (0/0), whatever the weight of that.
    """
    mapping = {d: of(d) for d in w.pool}
    first = {q: w.lists[q][:k] for q in queries}
    qrels = {q: dict.fromkeys([*first[q], "none"], 0) for q in queries}
    for q in queries:
        qrels[q] |= {d: g for d, g in w.relevant(q).items() if d in first[q]}
    run = {q: {d: -float(rank) for rank, d in enumerate(w.lists[q])} for q in queries}
    measure = peer_measure.PEER(weights={level: 1.0}, lang_mapping=mapping) @ k
    evaluator = peer_measure.PEEREvaluator([measure], qrels, {0: [(k, measure)]}, {0: mapping})
    found = {m.query_id: m.value for m in evaluator.iter_calc(run)}
    return [found[q] for q in queries]


@pytest.mark.parametrize("seed", SEEDS)
def test_peer_is_that_of_its_authors(seed: int) -> None:
    w = world(seed)
    table = w.table(len(w.pool))
    for language in w.languages:
        ranked, queries = table.ranked(w.multi(language))
        for k in cuts(w) if queries else ():
            found = parse(f"PEER@{k}")(ranked)
            expected = peer(w, queries, k, 0)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
            for query, value in zip(queries, found, strict=True):
                # Kruskal and Wallis rank anew, so theirs is the same where no relevant passage is in between.
                first = w.lists[query][:k]
                wrong = [rank for rank, d in enumerate(first) if d not in w.relevant(query)]
                groups = [[rank for rank in wrong if of(first[rank]) == a] for a in w.languages]
                groups = [ranks for ranks in groups if ranks]
                if len(groups) > 1 and wrong == list(range(wrong[0], wrong[0] + len(wrong))):
                    assert value == pytest.approx(scipy.stats.kruskal(*groups).pvalue, rel=0, abs=1e-12)
                assert value == 1 or len(groups) > 1


@pytest.mark.parametrize(("languages", "value"), [(11, 0.4405), (4, 0.392), (3, 0.368), (2, 0.317)])
def test_peer_of_one_relevant_passage_a_language_says_nothing(languages: int, value: float) -> None:
    """Why ours is of grade 0: the statistic is G - 1 whatever the ranks, as on XQuAD-R and MLQA-R."""
    codes, rng = [f"l{i}" for i in range(languages)], np.random.default_rng(languages)
    w = World(codes, {a: [f"{a}:0.{i}.0" for i in range(5)] for a in codes})
    w.queries = [f"l0:{i}" for i in range(20)]
    w.qrels = {q: {f"{a}:0.0.0": 1 for a in codes} for q in w.queries}
    w.lists = {q: rng.permutation(w.pool).tolist() for q in w.queries}
    found = peer(w, w.queries, 5 * languages, 1)
    np.testing.assert_allclose(found, scipy.stats.chi2.sf(languages - 1, languages - 1), rtol=1e-12)
    assert found[0] == pytest.approx(value, abs=5e-4)
    ours = parse("PEER@10")(w.table(10).ranked(w.multi("l0"))[0])
    assert len(set(ours.tolist())) > 5


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_heat_maps_by_their_definitions(seed: int, run: bool) -> None:
    w = world(seed, run=run)
    table = w.table(1)
    for language in w.languages:
        ranked, queries = table.ranked(w.multi(language))
        for i, query in enumerate(queries):
            docs, right = w.lists[query], set(w.relevant(query))
            for j, b in enumerate(w.languages):
                target = {d for d in right if of(d) == b}
                at = [docs.index(d) + 1 if d in docs else math.inf for d in target]
                expected = [
                    (bias.translation_ranks, min(at, default=NAN)),
                    (bias.separate_pools, precision([d for d in docs if of(d) == b], target)),
                    (bias.one_target, precision([d for d in docs if d not in right - target], target)),
                ]
                for function, value in expected:
                    assert function(ranked)[i, j] == pytest.approx(value, rel=0, abs=1e-12, nan_ok=True), (query, b)


@pytest.mark.parametrize("seed", SEEDS)
def test_identities(seed: int) -> None:
    w = world(seed)
    table, pool = w.table(len(w.pool)), len(w.pool)
    names = [*WITHOUT_CUT, *(f"{family}@{k}" for family in (*CUT, "PEER") for k in (1, 4, pool))]
    for language in w.languages:
        ranked, queries = table.ranked(w.multi(language))
        joint = ranked.joint
        assert joint is not None
        if not queries:
            continue
        # The order of the languages in the task moves nothing.
        turned = World(w.languages[1:] + w.languages[:1], w.passages, [], w.qrels, w.lists)
        turned.queries = [q for a in turned.languages for q in w.queries if of(q) == a]
        other, _ = turned.table(pool).ranked(turned.multi(language))
        for name in names:
            np.testing.assert_allclose(parse(name)(other), parse(name)(ranked), rtol=0, atol=1e-12, err_msg=name)
        for function in (bias.translation_ranks, bias.separate_pools, bias.one_target):
            np.testing.assert_allclose(np.roll(function(other), 1, axis=1), function(ranked), rtol=0, atol=1e-12)
        # The shares of all languages are one.
        for k in (1, 3, pool):
            every = [ranked._replace(joint=joint._replace(own=b)) for b in range(len(w.languages))]
            np.testing.assert_allclose(sum(parse(f"SameLanguageShare@{k}")(r) for r in every), 1, rtol=1e-12)
        # The whole pool has the languages of the pool.
        for name, value in (("SameLanguageLift", 1), ("LanguageDivergence", 0), ("Complete", 1)):
            np.testing.assert_allclose(parse(f"{name}@{pool}")(ranked), value, rtol=0, atol=1e-12, err_msg=name)
        for name in names:
            low, high = (-1, 1) if name.startswith("MRC") else (0, pool if name[0] in "RS" else 1)
            found = parse(name)(ranked)
            assert ((found >= low - 1e-12) & (found <= high + 1e-12) | np.isnan(found)).all(), name


def parallel(order: str) -> Ranked:
    """Three languages of 4, 3 and 2 passages, the first of each relevant: by `meaning`, by `language`, or both."""
    w = World(["en", "de", "th"], {a: [f"{a}:{i}" for i in range(n)] for a, n in (("en", 4), ("de", 3), ("th", 2))})
    w.queries = [f"{a}:q" for a in w.languages]
    w.qrels = {q: {f"{a}:0": 1 for a in w.languages} for q in w.queries}
    for q in w.queries:
        meaning, language = [d[-1] for d in w.pool], [of(d) != of(q) for d in w.pool]
        keys = {"meaning": meaning, "language": language, "own last": [not x for x in language]}
        w.lists[q] = [d for _, d in sorted(zip(keys[order], w.pool, strict=True), key=lambda pair: pair[0])]
    return w.table(9).ranked(w.multi("en"))[0]


@pytest.mark.parametrize(
    ("measure", "meaning", "language", "last"),
    [
        ("AlignmentViolation", 0, 1, 0),
        ("RankDistance", 2, 7, 5),  # en:0 de:0 th:0 ...; en x 4, de x 3, th x 2; de x 3, th x 2, en x 4
        ("nRankDistance", 0, 5 / 6, 3 / 6),
        ("SameLanguageShare@4", 2 / 4, 1, 0),
        ("SameLanguageLift@4", 9 / 8, 9 / 4, 0),
        ("SameLanguageWrongFirst", 0, 0, 0),
        ("OtherLanguagesAP", 1, (1 + 2 / 4) / 2, (1 + 2 / 4) / 2),
        ("MRC@9", 1, NAN, NAN),
        ("Complete@3", 1, 0, 0),
        ("Complete@8", 1, 1, 1),
    ],
)
def test_by_meaning_or_by_language(measure: str, meaning: float, language: float, last: float) -> None:
    for order, value in (("meaning", meaning), ("language", language), ("own last", last)):
        if not math.isnan(value):
            assert parse(measure)(parallel(order))[0] == pytest.approx(value, rel=0, abs=1e-15), order


def test_maps_by_meaning_or_by_language() -> None:
    """With one relevant passage a language, one target is 1/rank; strong alignment means flat rows."""
    assert bias.one_target(parallel("meaning")).tolist() == [[1, 1, 1]]
    assert bias.one_target(parallel("language")).tolist() == [[1, 1 / 4, 1 / 6]]  # en:0; 3 of en; 3 of en and 2 of de
    assert bias.separate_pools(parallel("language")).tolist() == [[1, 1, 1]]
    assert bias.translation_ranks(parallel("language")).tolist() == [[1, 5, 8]]


def test_what_a_list_does_not_tell() -> None:
    """A measure of the first k needs them, and a measure of languages needs the joint pool."""
    w = world(0)
    with pytest.raises(ValueError, match="the first 3 passages are needed, 2 are known"):
        parse("SameLanguageShare@3")(w.table(2).ranked(w.multi(w.languages[0]))[0])
    with pytest.raises(ValueError, match="needs a multi cell"):
        parse("AlignmentViolation")(w.table(2).ranked(w.cells()[0])[0])


def both(ranks: list[int], pool: int) -> tuple[float, float]:
    """Rank distance and normalised rank distance of one query, from its sorted ranks."""
    r = Ranked(np.array([0, len(ranks)]), np.array(ranks, float), np.ones(len(ranks), np.int64), pool)
    return bias.rank_distance(r, np.inf)[0], bias.normalised_rank_distance(r, np.inf)[0]


def test_by_hand() -> None:
    assert both([4, 5, 6], 10) == (2, 0)  # together, wherever that is
    assert both([1, 2, 4], 10) == (3, 1 / 7)
    assert both([2, 5, 9], 10) == (7, 5 / 7)
    assert both([1, 5, 10], 10) == (9, 1)
    assert both([7], 10) == (0, 0)
    assert both([1, 2, 3], 3) == (2, 0)  # the whole pool is relevant
    assert both([1], 1) == (0, 0)


@pytest.mark.parametrize("others", [0, 1, 5, 1000, 13_003])
@pytest.mark.parametrize("relevant", [2, 7, 11])
def test_closed_forms(relevant: int, others: int) -> None:
    pool = relevant + others
    for top in (1, 1 + others):
        assert both(list(range(top, top + relevant)), pool) == (relevant - 1, 0)
    assert both([*range(1, relevant), pool], pool) == (pool - 1, 1 if others else 0)


@pytest.mark.parametrize(("pool", "relevant"), [(12, 3), (200, 2), (200, 11), (11, 11)])
def test_a_random_ranking_has_the_expected_distance(pool: int, relevant: int) -> None:
    """The range of R of N ranks drawn without replacement has mean (N + 1)(R - 1)/(R + 1)."""
    rng, n = np.random.default_rng(pool), 5000
    ranks = np.sort(rng.random((n, pool)).argsort(axis=1)[:, :relevant] + 1, axis=1)
    ranked = Ranked(np.arange(n + 1) * relevant, ranks.ravel().astype(float), np.ones(n * relevant, np.int64), pool)
    mean = (pool + 1) * (relevant - 1) / (relevant + 1)
    scaled = (mean - (relevant - 1)) / max(1, pool - relevant)
    for found, expected in ((parse("RankDistance")(ranked), mean), (parse("nRankDistance")(ranked), scaled)):
        assert abs(found.mean() - expected) <= 4 * found.std() / np.sqrt(n)
    assert ((found >= 0) & (found <= 1)).all()
