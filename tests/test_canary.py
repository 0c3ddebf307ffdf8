"""Canaries: models whose values are known. Expected values come from closed forms or from slow code here."""

import dataclasses
import hashlib
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from xbench.errors import UsageError
from xbench.evaluate import Plan, evaluate
from xbench.index import Index, search
from xbench.models import Given, Options, Role, load
from xbench.ranking import Pool
from xbench.readers import read
from xbench.readers.part import Part
from xbench.records import Collection, Passage, Query
from xbench.results import Result
from xbench.tasks import load_task

MEASURES = ["AP", "RR", "nDCG@10", "R@10", "P@10", "Success@1", "RankDistance", "nRankDistance"]
NAMES = ["constant", "random", "oracle", "inverted", "duplicate"]
# The ranks of the relevant passages in a pool, from all relevant passages of the query and those in the pool.
Rule = Callable[[Sequence[str], Sequence[str]], Sequence[int]]
MINI = read(load_task("mini"))


def run(name: str, task: str, cache: Path, data: Path | None = None) -> Result:
    return evaluate(load(f"canary:{name}"), load_task(task), MEASURES, plan=Plan(cache, data, offline=True))


# --- expected values: definitions, in fractions where they are rational -----------------------------------------


@cache
def values(ranks: tuple[int, ...], n: int) -> dict[str, float]:
    """All measures of a query whose relevant passages have these ranks (ascending) among n."""
    count, spread, top = len(ranks), ranks[-1] - ranks[0], sum(rank <= 10 for rank in ranks)
    ideal = sum(1 / math.log2(1 + i) for i in range(1, min(count, 10) + 1))
    return {
        "AP": float(sum(Fraction(i, rank) for i, rank in enumerate(ranks, 1)) / count),
        "RR": 1 / ranks[0],
        "nDCG@10": sum(1 / math.log2(1 + rank) for rank in ranks if rank <= 10) / ideal,
        "R@10": top / count,
        "P@10": top / 10,
        "Success@1": float(ranks[0] == 1),
        "RankDistance": float(spread),
        "nRankDistance": (spread - (count - 1)) / max(n - count, 1),
    }


def descending(doc_ids: Sequence[str]) -> list[str]:
    """The order of ties: doc_ids descending, as bytes of UTF-8."""
    return sorted(doc_ids, key=lambda d: d.encode("utf-8"), reverse=True)


def constant(collection: Collection, pool: list[str]) -> Rule:
    place = {d: rank for rank, d in enumerate(descending(pool), 1)}
    return lambda _, inside: sorted(place[d] for d in inside)


def oracle(collection: Collection, pool: list[str]) -> Rule:
    return lambda _, inside: range(1, len(inside) + 1)


def inverted(collection: Collection, pool: list[str]) -> Rule:
    return lambda _, inside: range(len(pool) - len(inside) + 1, len(pool) + 1)


def duplicate(collection: Collection, pool: list[str]) -> Rule:
    """The passages with the text of a relevant one lead the pool; those with one text tie.

    How the texts stand to each other matters only where a passage that is not relevant has one of them.
    """
    text_of = {p.doc_id: p.text for rows in collection.passages.values() for p in rows}
    with_text = defaultdict(list)
    for d in pool:
        with_text[text_of[d]].append(d)

    def ranks(relevant: Sequence[str], inside: Sequence[str]) -> Sequence[int]:
        texts = {text_of[d] for d in relevant}
        leading = [d for text in texts for d in with_text[text]]
        if len(leading) == len(inside):
            return range(1, len(inside) + 1)
        codes = {t: int.from_bytes(hashlib.shake_256(f"1\0text\0{t}".encode()).digest(128), "big") for t in texts}
        score = {t: sum(1024 - 2 * (codes[t] ^ code).bit_count() for code in codes.values()) for t in texts}
        leading = sorted(descending(leading), key=lambda d: -score[text_of[d]])
        return sorted(1 + leading.index(d) for d in inside)

    return ranks


RULES = {"constant": constant, "oracle": oracle, "inverted": inverted, "duplicate": duplicate}


def check(result: Result, collection: Collection, rule: Callable[[Collection, list[str]], Rule]) -> int:
    """Every value of every cell and query is the expected one; returns how many were compared."""
    compared = 0
    for cell in result.cells:
        pool = [p.doc_id for language in cell.cell.passage_languages for p in collection.passages[language]]
        in_pool, ranks_of = set(pool), rule(collection, pool)
        expected = {}
        for query in collection.queries[cell.cell.query_language]:
            relevant = list(collection.qrels[query.query_id])
            inside = [d for d in relevant if d in in_pool]
            if inside:
                expected[query.query_id] = values(tuple(ranks_of(relevant, inside)), len(pool))
        assert cell.query_ids == list(expected) and cell.passages == len(pool)
        names = MEASURES if cell.cell.setting == "multi" else MEASURES[:-2]
        assert list(cell.values) == list(cell.per_query) == names
        for name in names:
            column = [row[name] for row in expected.values()]
            assert np.abs(cell.per_query[name] - column).max() <= 1e-12, (cell.cell.name, name)
            assert abs(cell.values[name] - math.fsum(column) / len(column)) <= 1e-12, (cell.cell.name, name)
            compared += 1 + len(column)
    return compared


# --- every canary on every task ----------------------------------------------------------------------------------

SLOW = {("inverted", "xquad-r"), ("duplicate", "mlqa-r")}  # the others leave little for these two to find
REAL = [
    pytest.param(name, task, marks=[pytest.mark.slow] if (name, task) in SLOW else [])
    for task in ("xquad-r", "mlqa-r")
    for name in RULES
]


def closed_forms(name: str, result: Result, collection: Collection) -> None:
    """The values of whole cells, from formulas alone."""
    sizes = {language: len(rows) for language, rows in collection.passages.items()}
    for cell in result.cells:
        found, n = cell.values, sum(sizes[b] for b in cell.cell.passage_languages)
        multi = cell.cell.setting == "multi"
        counts = [len(collection.qrels[q]) if multi else 1 for q in cell.query_ids]
        mean = lambda f, counts=counts: math.fsum(map(f, counts)) / len(counts)  # noqa: E731
        if name == "oracle":
            assert found["AP"] == found["RR"] == found["nDCG@10"] == found["Success@1"] == 1
        if name == "inverted":
            assert found["Success@1"] == found["P@10"] == found["nDCG@10"] == 0
            assert abs(found["RR"] - mean(lambda r, n=n: 1 / (n - r + 1))) <= 1e-12
            ap = mean(lambda r, n=n: sum(Fraction(i, n - r + i) for i in range(1, r + 1)) / r)
            assert abs(found["AP"] - ap) <= 1e-12
        if name in ("oracle", "inverted") and multi:
            assert abs(found["RankDistance"] - mean(lambda r: r - 1)) <= 1e-12 and found["nRankDistance"] == 0
        if name == "constant":  # for all queries the same ranking: no RR of 1 for all
            assert found["RR"] < 0.2


@pytest.mark.parametrize("name", RULES)
def test_mini(name: str, own_cache: Path) -> None:
    result = run(name, "mini", own_cache)
    assert check(result, MINI, RULES[name]) == 48 * (121 * 6 + 11 * 8) + 121 * 6 + 11 * 8
    closed_forms(name, result, MINI)


@pytest.mark.parametrize(("name", "task"), REAL)
def test_real_data(name: str, task: str, data: Path, own_cache: Path) -> None:
    collection = read(load_task(task), data)
    result = run(name, task, own_cache, data)
    check(result, collection, RULES[name])
    closed_forms(name, result, collection)


@pytest.mark.parametrize(
    ("task", "texts", "passages", "relevant", "ahead"), [("xquad-r", 9, 23, 1, 11), ("mlqa-r", 22, 60, 15, 0)]
)
def test_real_data_has_duplicates(task: str, texts: int, passages: int, relevant: int, ahead: int, data: Path) -> None:
    """What `duplicate` can show there: texts of several passages, and queries that another passage leads."""
    collection = read(load_task(task), data)
    rows = [p for language in collection.passages.values() for p in language]
    text_of, count = {p.doc_id: p.text for p in rows}, Counter(p.text for p in rows)
    assert sum(n > 1 for n in count.values()) == texts
    assert sum(n for n in count.values() if n > 1) == passages
    assert sum(count[text_of[d]] > 1 for d in {d for grades in collection.qrels.values() for d in grades}) == relevant
    # In mono and cross pools, rank = 1 + the passages with the same text and a greater doc_id.
    found = 0
    for grades in collection.qrels.values():
        for d in grades:
            found += (
                any(
                    p.text == text_of[d] and p.doc_id.encode() > d.encode()
                    for p in collection.passages[d.split(":")[0]]
                )
                if count[text_of[d]] > 1
                else 0
            )
    assert found == ahead


# --- random rankings ---------------------------------------------------------------------------------------------


def expectation(r: int, n: int) -> dict[str, float]:
    """Of each measure, for r relevant passages at random ranks among n; for r = 1, E[AP] = E[RR] = H(n)/n."""
    harmonic = math.fsum(1 / i for i in range(1, n + 1))
    discounts = [1 / math.log2(1 + i) for i in range(1, min(n, 10) + 1)]
    spread = (n + 1) * (r - 1) / (r + 1)
    chance, reciprocal = r / n, []  # that the first one has rank 1, then 2, ...
    for first in range(1, n - r + 2):
        reciprocal.append(chance / first)
        chance *= (n - first - r + 1) / max(n - first, 1)
    return {
        "AP": (harmonic + (r - 1) / max(n - 1, 1) * (n - harmonic)) / n,
        "RR": math.fsum(reciprocal),
        "nDCG@10": r / n * sum(discounts) / sum(discounts[:r]),
        "R@10": min(10, n) / n,
        "P@10": min(10, n) / 10 * r / n,
        "Success@1": r / n,
        "RankDistance": spread,
        "nRankDistance": (spread - (r - 1)) / max(n - r, 1),
    }


@pytest.mark.parametrize(("n", "r"), [(n, r) for n in (1, 2, 5, 11, 13) for r in (1, 2, 3, 4, 11) if r <= n])
def test_expectations_by_enumeration(n: int, r: int) -> None:
    """The formulas against every possible set of ranks."""
    every = [values(ranks, n) for ranks in itertools.combinations(range(1, n + 1), r)]
    for name, expected in expectation(r, n).items():
        assert abs(math.fsum(row[name] for row in every) / len(every) - expected) <= 1e-12, name


@cache
def moments(r: int, n: int) -> dict[str, tuple[float, float]]:
    """Mean, by formula, and variance of each measure, over all ranks for r = 1, else over 2,000 random rankings."""
    dice = random.Random(n)
    drawn = (
        [(i,) for i in range(1, n + 1)] if r == 1 else [sorted(dice.sample(range(1, n + 1), r)) for _ in range(2000)]
    )
    rows = [values(tuple(ranks), n) for ranks in drawn]
    means = expectation(r, n)
    return {
        name: (mean, math.fsum((row[name] - mean) ** 2 for row in rows) / len(rows)) for name, mean in means.items()
    }


def clusters(collection: Collection) -> dict[str, str]:
    """query_id -> a name of its cluster: queries linked by relevant passages that they share."""
    parent: dict[str, str] = {}

    def root(x: str) -> str:
        while parent.setdefault(x, x) != x:
            x = parent[x]
        return x

    for query_id, grades in collection.qrels.items():
        for d in grades:
            parent[root(f"doc {d}")] = root(query_id)
    return {query_id: root(query_id) for query_id in collection.qrels}


def deviations(result: Result, collection: Collection) -> dict[tuple[str, str], float]:
    """(setting, measure) -> how many sigma the summary is from its expectation under random rankings.

    Two queries are independent given the passages, and two passages given the query, so only queries that
    share a relevant passage have values that hang together: their sum counts as one observation. Other
    pairs compete for the same ranks, which can only lower the variance. Expectations are known, so the squared
    sums of the clusters estimate the variance without bias; the variance of independent rankings is a floor
    under it, for measures that are almost always 0. On mini, with 150 other seeds, the 20 values had standard
    deviations of 0.82 to 0.99 and none was beyond 3.2; it has 48 clusters, so none can be beyond 7.
    """
    of, found = clusters(collection), {}
    for setting in ("mono", "cross", "multi"):
        cells = [cell for cell in result.cells if cell.cell.setting == setting]
        for name in cells[0].values:
            expected, floor, sums = 0.0, 0.0, defaultdict(float)
            for cell in cells:
                weight = 1 / len(cells) / len(cell.query_ids)
                for query_id, value in zip(cell.query_ids, cell.per_query[name], strict=True):
                    count = len(collection.qrels[query_id]) if setting == "multi" else 1
                    mean, variance = moments(count, cell.passages)[name]
                    sums[of[query_id]] += weight * (value - mean)
                    expected += weight * mean
                    floor += weight**2 * variance
            total = result.summary()[setting][name] - expected
            assert math.isclose(total, math.fsum(sums.values()), rel_tol=1e-9, abs_tol=1e-9 * expected)
            found[setting, name] = total / math.sqrt(max(floor, math.fsum(x * x for x in sums.values())))
    return found


def check_random(result: Result, collection: Collection) -> None:
    found = deviations(result, collection)
    assert len(found) == 6 + 6 + 8
    assert {key: z for key, z in found.items() if not abs(z) < 4} == {}


def test_random_on_mini(own_cache: Path) -> None:
    check_random(run("random", "mini", own_cache), MINI)


@pytest.mark.parametrize("task", ["xquad-r", "mlqa-r"])
def test_random_on_real_data(task: str, data: Path, own_cache: Path) -> None:
    check_random(run("random", task, own_cache, data), read(load_task(task), data))


# --- collections by hand, other orders of the files, other scores ------------------------------------------------


def by_hand(rows: Sequence[tuple[str, str]], qrels: dict[str, dict[str, int]]) -> Collection:
    """A collection in de and en; passages are (doc_id, text), queries are those of the qrels."""
    return MINI._replace(
        queries={a: [Query(q, f"question {q}") for q in qrels if q.startswith(a)] for a in ("de", "en")},
        passages={a: [Passage(*row) for row in rows if row[0].startswith(a)] for a in ("de", "en")},
        qrels=qrels,
    )


# Ids in which code points, UTF-16 units and numbers would be ordered differently; equal texts within and
# across languages; a query without a relevant passage.
HAND = by_hand(
    [
        ("de:10", "same"),
        ("de:9", "same"),
        ("de:\uff5e", "same"),
        ("de:\U0001f600", "other"),
        ("de:Z", "same"),
        ("en:a", "same"),
        ("en:\u00e4", "lone"),
        ("en:b", "pair"),
        ("en:B", "pair"),
        ("en:c", "Same"),
    ],
    {
        "de:1": {"de:9": 1, "en:a": 1},
        "de:2": {"de:\uff5e": 1, "en:B": 1},
        "de:3": {"de:\U0001f600": 1, "en:\u00e4": 1},
        "en:1": {"de:10": 1, "en:b": 1},
        "en:2": {"en:B": 1},
        "en:3": {"de:Z": 1, "en:c": 1},
        "en:none": {},
    },
)


def run_on(collection: Collection, model: str | Given, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Evaluate on a collection that no file holds, under the name and settings of mini."""
    languages = tuple(collection.passages)
    task = dataclasses.replace(
        load_task("mini"), languages=languages, query_languages=languages, passage_languages=languages
    )
    monkeypatch.setattr("xbench.evaluate.parts", lambda task, *_, **__: [Part(task.cells(), collection, {})])
    return evaluate(load(f"canary:{model}") if isinstance(model, str) else model, task, MEASURES, plan=Plan(cache))


@pytest.mark.parametrize("name", RULES)
def test_by_hand(name: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_on(HAND, name, own_cache, monkeypatch)
    assert check(result, HAND, RULES[name]) > 100
    assert {cell.cell.name: cell.left_out for cell in result.cells} == {
        "mono/de": 0,
        "mono/en": 1,
        "cross/de-en": 0,
        "cross/en-de": 2,
        "multi/de": 0,
        "multi/en": 1,
    }


def test_duplicates_by_hand(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks written down: equal texts stay apart, and the greater doc_id comes first."""
    cells = {cell.cell.name: cell for cell in run_on(HAND, "duplicate", own_cache, monkeypatch).cells}
    # "same" in German: U+FF5E before Z before 9 before 10.
    assert list(cells["mono/de"].per_query["RR"]) == [1 / 3, 1, 1]
    assert list(cells["cross/en-de"].per_query["RR"]) == [1 / 4, 1 / 2]
    assert list(cells["mono/en"].per_query["RR"]) == [1, 1 / 2, 1]
    # The query of de:9 and en:a has one text, of five passages: en:a is first, de:9 fourth.
    assert cells["multi/de"].per_query["AP"][0] == (1 + 2 / 4) / 2
    assert cells["multi/de"].per_query["RankDistance"][0] == 3


def shuffled(collection: Collection, seed: int) -> Collection:
    """The same collection, with the rows of every file in another order."""
    dice = random.Random(seed)
    queries, passages = (
        {a: dice.sample(rows, len(rows)) for a, rows in part.items()}
        for part in (collection.queries, collection.passages)
    )
    return collection._replace(queries=queries, passages=passages)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_rows_moves_nothing(name: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [run_on(c, name, own_cache, monkeypatch) for c in (MINI, shuffled(MINI, 1))]
    rows = [
        {
            (cell.cell, query_id, measure): value
            for cell in result.cells
            for measure, column in cell.per_query.items()
            for query_id, value in zip(cell.query_ids, column, strict=True)
        }
        for result in results
    ]
    assert len(rows[0]) == 48 * (121 * 6 + 11 * 8)
    assert rows[0] == rows[1] and results[0].summary() == results[1].summary()


class Scaled:
    """A canary times 1/3: float32 then rounds its products, and ties are found on another path."""

    def __init__(self, name: str):
        self.inner = load(f"canary:{name}")
        self.name, self.identity = f"scaled {name}", {"scaled": name}

    def vectors(self, role: Role, language: str, collection: Collection) -> NDArray[np.float32]:
        assert isinstance(self.inner, Given)
        return self.inner.vectors(role, language, collection) / np.float32(3)


@pytest.mark.parametrize("name", RULES)
def test_scores_that_round(name: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for collection in (HAND, MINI):
        check(run_on(collection, Scaled(name), own_cache, monkeypatch), collection, RULES[name])


def test_searches_follow_the_tie_rule_too(own_cache: Path) -> None:
    """Exported rankings come from a search of their own; it must order ties alike."""
    collection, model = shuffled(MINI, 2), load("canary:constant")
    assert isinstance(model, Given)
    for languages in (["th"], ["th", "de", "en"]):
        doc_ids = [collection.ids("passages", a) for a in languages]
        indexes = [
            Index.build(model.vectors("passages", a, collection), ids, own_cache / a)
            for a, ids in zip(languages, doc_ids, strict=True)
        ]
        flat = [d for ids in doc_ids for d in ids]
        pool = Pool([index.vectors for index in indexes], flat)
        found = search(indexes, pool, model.vectors("queries", "en", collection), 10)
        assert [[flat[row] for row, _ in first] for first in found] == [descending(flat)[:10]] * 48


# --- the canaries notice ------------------------------------------------------------------------------------------


def test_ties_for_ascending_ids_are_noticed(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xbench.ranking import tie_order

    monkeypatch.setattr("xbench.ranking.tie_order", lambda ids: len(ids) - 1 - tie_order(ids))
    for collection, name in ((HAND, "constant"), (HAND, "duplicate"), (MINI, "constant")):
        with pytest.raises(AssertionError):
            check(run_on(collection, name, own_cache, monkeypatch), collection, RULES[name])


def test_a_stable_sort_is_noticed(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relevant passages first in the file, ties by place in it: a constant scorer got RR 1 (mteb#5092)."""
    rows = [(f"{a}:{i}", f"text {i}") for a in ("de", "en") for i in range(9)]
    collection = by_hand(rows, {"de:1": {"de:0": 1, "en:0": 1}, "en:1": {"de:0": 1, "en:0": 1}})
    result = run_on(collection, "constant", own_cache, monkeypatch)
    check(result, collection, constant)
    assert {cell.values["RR"] for cell in result.cells} == {1 / 9}
    with monkeypatch.context() as broken:
        broken.setattr("xbench.ranking.tie_order", lambda ids: np.arange(len(ids))[::-1].copy())
        result = run_on(collection, "constant", own_cache, broken)
        assert {cell.values["RR"] for cell in result.cells} == {1}
        with pytest.raises(AssertionError):
            check(result, collection, constant)


def test_merged_duplicates_are_noticed(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal vectors as one passage: nothing stands before a duplicate any more."""
    from xbench import evaluate as module

    def merged(queries, pool, judged, **options):
        above = original(queries, pool, judged, **options)
        return np.where(above < 4, 0, above).astype(np.int32)

    original = module.passages_above
    monkeypatch.setattr(module, "passages_above", merged)
    with pytest.raises(AssertionError):
        check(run_on(HAND, "duplicate", own_cache, monkeypatch), HAND, duplicate)


class Nudged(Scaled):
    """Random vectors with a hint of the oracle: what a leak of the qrels would do."""

    def vectors(self, role: Role, language: str, collection: Collection) -> NDArray[np.float32]:
        knowing = load("canary:oracle")
        assert isinstance(self.inner, Given) and isinstance(knowing, Given)
        hint = np.float32(0.04) * knowing.vectors(role, language, collection)
        return np.concatenate([self.inner.vectors(role, language, collection), hint], axis=1)


def test_a_bias_towards_relevant_passages_is_noticed(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_on(MINI, Nudged("random"), own_cache, monkeypatch)
    assert result.summary()["multi"]["AP"] < 0.06  # 0.02 at random
    with pytest.raises(AssertionError):
        check_random(result, MINI)


# --- the vectors --------------------------------------------------------------------------------------------------

# The first 16 digits of the SHA-256 of the bytes (little endian) of queries and passages of mini, English.
GOLDEN = {
    "constant": (1, "c90489868a1a64a7", "679862c37f11c4e2"),
    "random": (64, "74904088ff542349", "b9024bf82e3e0a5a"),
    "oracle": (1024, "00a1477ad5768eaa", "6ca016531b1a15bc"),
    "inverted": (1024, "099bd3f97f6842e1", "6ca016531b1a15bc"),
    "duplicate": (1024, "d7c2a28d729c0366", "5c564096d8d929c5"),
}


@pytest.mark.parametrize("name", NAMES)
def test_vectors(name: str) -> None:
    """The same bits everywhere; whatever the order of the rows."""
    model = load(f"canary:{name}")
    assert isinstance(model, Given)
    dimension, *digests = GOLDEN[name]
    for role in ("queries", "passages"):
        found = model.vectors(role, "en", MINI)
        assert found.dtype == np.float32 and found.flags.c_contiguous and found.flags.writeable
        assert found.shape == (len(MINI.ids(role, "en")), dimension)
        assert np.isfinite(found).all() and found.any(axis=1).all()
        assert hashlib.sha256(found.astype("<f4").tobytes()).hexdigest()[:16] == digests.pop(0), role
        other = shuffled(MINI, 3)
        of = dict(zip(MINI.ids(role, "en"), found, strict=True))
        again = dict(zip(other.ids(role, "en"), model.vectors(role, "en", other), strict=True))
        assert all(np.array_equal(of[id_], again[id_]) for id_ in of)


def test_codes_are_written_out_once_more() -> None:
    """A few vectors of the oracle and of `random` from their definition, bit by bit."""
    models = {name: load(f"canary:{name}") for name in NAMES}
    assert all(isinstance(model, Given) for model in models.values())

    def code(key: str) -> list[int]:
        drawn = int.from_bytes(hashlib.shake_256(f"1\0{key}".encode()).digest(128), "big")
        return [1 if bit == "1" else -1 for bit in f"{drawn:01024b}"]

    both = [x + y for x, y in zip(code("passage\0de:9"), code("passage\0en:a"), strict=True)]
    assert models["oracle"].vectors("passages", "de", HAND)[1].tolist() == code("passage\0de:9")
    assert models["oracle"].vectors("queries", "de", HAND)[0].tolist() == both
    assert models["inverted"].vectors("queries", "de", HAND)[0].tolist() == [-x for x in both]
    assert models["oracle"].vectors("queries", "en", HAND)[3].tolist() == code("query\0en:none")
    # One text for two relevant passages: it counts once.
    assert models["duplicate"].vectors("queries", "de", HAND)[0].tolist() == code("text\0same")
    drawn = hashlib.shake_256(b"1\0passages\0de:9").digest(128)
    expected = [(drawn[i] + 256 * drawn[i + 1] - 32767.5) / 32768 for i in range(0, 128, 2)]
    assert models["random"].vectors("passages", "de", HAND)[1].tolist() == expected


def test_equal_texts_have_different_random_vectors() -> None:
    model = load("canary:random")
    assert isinstance(model, Given)
    vectors = model.vectors("passages", "de", HAND)
    assert len({row.tobytes() for row in vectors}) == len(vectors) == 5
    clash = HAND._replace(queries={"de": [Query("de:9", "same")]}, qrels={"de:9": {}})
    assert not np.array_equal(model.vectors("queries", "de", clash)[0], vectors[1])  # the same id in another role


def test_only_grades_above_zero_are_relevant() -> None:
    graded = by_hand([("de:1", "a"), ("en:1", "b")], {"de:q": {"de:1": 2, "en:1": 0}})
    model = load("canary:oracle")
    assert isinstance(model, Given)
    assert np.array_equal(model.vectors("queries", "de", graded), model.vectors("passages", "de", graded))
    assert model.vectors("queries", "en", graded).shape == (0, 1024)


def test_identity_and_spelling() -> None:
    identities = [load(f"canary:{name}").identity for name in NAMES]
    assert identities[2] == {"kind": "canary", "canary": "oracle", "seed": 1, "dimension": 1024}
    assert len({str(identity) for identity in identities}) == 5
    assert load("canary:oracle").name == "canary:oracle"
    for spelling, words in (
        ("canary:oracel", ["unknown canary 'oracel'", "did you mean 'oracle'", "constant, duplicate, inverted"]),
        ("canary:", ["unknown canary ''", "oracle"]),
        ("canary", ["unknown model 'canary'", "canary:NAME"]),
    ):
        with pytest.raises(UsageError) as caught:
            load(spelling)
        assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(UsageError, match="'canary' takes no --pooling"):
        load("canary:oracle", Options(pooling="cls"))
