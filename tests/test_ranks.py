"""Ranks of every cell from one table: against lists written out, pool by pool."""

import itertools
import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from xbench.ranks import RankTable, judge
from xbench.records import Cell, Collection, Judged, Passage, Query, Ranked

SEEDS = range(40)


@dataclass
class World:
    """Small pools, questions asked in some of the languages, and one list of passages for each query."""

    languages: list[str]
    passages: dict[str, list[str]]
    queries: list[str] = field(default_factory=list)
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)

    @property
    def pool(self) -> list[str]:
        return [doc for a in self.languages for doc in self.passages[a]]

    def relevant(self, query: str, pool: tuple[str, ...] | None = None) -> dict[str, int]:
        grades = self.qrels[query].items()
        return {doc: g for doc, g in grades if g > 0 and of(doc) in (pool or self.languages)}

    def multi(self, language: str) -> Cell:
        return Cell("multi", language, tuple(self.languages))

    def cells(self) -> list[Cell]:
        pairs = [Cell("mono" if a == b else "cross", a, (b,)) for a, b in itertools.product(self.languages, repeat=2)]
        return pairs + [self.multi(a) for a in self.languages]

    def above(self, query: str, doc: str) -> list[int]:
        """Passages of each language before one; -1 if it is not in the list."""
        before = self.lists[query]
        if doc not in before:
            return [-1] * len(self.languages)
        return [sum(of(d) == a for d in before[: before.index(doc)]) for a in self.languages]

    def table(self, depth: int) -> RankTable:
        number, pool = {a: i for i, a in enumerate(self.languages)}, self.pool
        entries = [(q, d, self.qrels[q][d]) for q in self.queries for d in pool if d in self.qrels[q]]
        top = [[pool.index(d) for d in self.lists[q][:depth]] for q in self.queries]
        return RankTable(
            tuple(self.languages),
            np.array([len(self.passages[a]) for a in self.languages]),
            self.queries,
            np.array([number[of(q)] for q in self.queries]),
            pool,
            np.array([number[of(d)] for d in pool]),
            Judged(
                np.cumsum([0] + [len(self.qrels[q]) for q in self.queries]),
                np.array([pool.index(d) for _, d, _ in entries], np.int64),
                np.array([g for _, _, g in entries], np.int64),
            ),
            np.array([self.above(q, d) for q, d, _ in entries], np.int32).reshape(len(entries), len(number)),
            np.array([row + [-1] * (depth - len(row)) for row in top], np.int32).reshape(len(top), depth),
        )


def of(name: str) -> str:
    """The language of an id."""
    return name.partition(":")[0]


def question(query: str) -> str:
    return query.partition(":")[2]


def world(seed: int, *, run: bool = False, languages: int | None = None) -> World:
    """2 to 5 languages of 1 to 6 passages; grades -1 to 3; a `run` gives lists of any length, empty ones too."""
    rng = random.Random(seed)
    codes = rng.sample(["de", "el", "en", "th", "zh"], languages or rng.randint(2, 5))
    w = World(codes, {a: [f"{a}:0.{i}.0" for i in range(rng.randint(1, 6))] for a in codes})
    for a, number in itertools.product(codes, range(4)):
        if rng.random() < 0.8:
            w.queries.append(f"{a}:q{number}")
    shared = [{d: rng.randint(-1, 3) for d in w.pool if rng.random() < 0.4} for _ in range(4)]
    for query in w.queries:
        grades = shared[int(query[-1])]
        w.qrels[query] = dict(list(grades.items())[1:]) if rng.random() < 0.1 else grades
        # The order of meaning, of language, or of chance.
        taste = [rng.random() * 2, rng.random() * 2]
        score = {d: taste[0] * grades.get(d, 0) + taste[1] * (of(d) == of(query)) + rng.random() for d in w.pool}
        w.lists[query] = sorted(w.pool, key=lambda d, s=score: -s[d])[: rng.randint(0, len(w.pool)) if run else None]
    return w


def content(table: RankTable, cell: Cell) -> dict[str, object]:
    """What a table says of a cell, in ids instead of numbers, query by query."""
    r, query_ids = table.ranked(cell)
    names = np.array([*table.doc_ids, ""])
    found: dict[str, object] = {"pool": r.pool, "queries": query_ids}
    for i, query in enumerate(query_ids):
        part = slice(r.indptr[i], r.indptr[i + 1])
        columns = [r.ranks[part].tolist(), r.grades[part].tolist()]
        if j := r.joint:
            columns += [j.language[part].tolist(), j.above[part].tolist()]
            lists = j.top[i], j.top_language[i], j.top_grade[i], j.asked[i]
            found[f"{query} top"] = [
                names[lists[0]].tolist(),
                *(x.tolist() for x in lists[1:3]),
                names[lists[3]].tolist(),
            ]
        assert columns[0] == sorted(columns[0])
        found[query] = sorted(zip(*columns, strict=True))  # what a run lacks has no order
    if r.joint:
        found["joint"] = r.joint.own, r.joint.sizes.tolist()
    return found


def slow(w: World, cell: Cell, depth: int) -> dict[str, object]:
    """`content` from the lists themselves."""
    queries = [q for q in w.queries if of(q) == cell.query_language and w.relevant(q, cell.passage_languages)]
    found: dict[str, object] = {
        "pool": sum(len(w.passages[b]) for b in cell.passage_languages),
        "queries": queries,
    }
    number = {a: i for i, a in enumerate(w.languages)} | {"": -1}
    multi = cell.setting == "multi"

    def top(query: str | None) -> list[str]:
        docs = w.lists[query][:depth] if query else []
        return docs + [""] * (depth - len(docs))

    def asked(query: str, b: str) -> str | None:
        other = f"{b}:{question(query)}"
        return other if other in w.queries and w.relevant(other).keys() == w.relevant(query).keys() else None

    for q in queries:
        pool = [d for d in w.lists[q] if of(d) in cell.passage_languages]
        found[q] = sorted(
            (1.0 + pool.index(d) if d in pool else np.inf, g, *([number[of(d)], w.above(q, d)] if multi else []))
            for d, g in w.relevant(q, cell.passage_languages).items()
        )
        if multi:
            grades = [0 if d == "" else w.relevant(q).get(d, 0) for d in top(q)]
            others = [top(asked(q, b)) for b in w.languages]
            found[f"{q} top"] = [top(q), [number[of(d)] for d in top(q)], grades, others]
    if multi:
        found["joint"] = number[cell.query_language], [len(w.passages[a]) for a in w.languages]
    return found


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_cell_as_from_the_lists(seed: int, run: bool) -> None:
    w = world(seed, run=run)
    for depth in (0, 1, 4, len(w.pool)):
        table = w.table(depth)
        for cell in w.cells():
            assert content(table, cell) == slow(w, cell, depth), cell


@pytest.mark.parametrize("seed", SEEDS)
def test_judge_has_every_judgement_in_order(seed: int) -> None:
    """Those below 1, which are not relevant by trec_eval's rule, too: it is the cells that leave them out."""
    w, expected = world(seed), world(seed).table(0)
    texts = {a: [Passage(d, "") for d in docs] for a, docs in w.passages.items()}
    asked = {a: [Query(q, "") for q in w.queries if of(q) == a] for a in w.languages}
    shuffled = {q: dict(sorted(grades.items(), reverse=True)) for q, grades in w.qrels.items()}
    table = judge(Collection(asked, texts, shuffled, {}), w.languages)
    for found, wanted in zip(table, expected, strict=True):
        if isinstance(found, Judged):
            assert [x.tolist() for x in found] == [x.tolist() for x in wanted]
        elif found is not table.above:
            assert np.array_equal(found, wanted)
    assert (table.above == -1).all() and table.above.shape == expected.above.shape  # nothing is ranked yet
    assert all(np.isinf(table.ranked(cell)[0].ranks).all() for cell in w.cells())


def test_the_same_question_in_other_languages() -> None:
    """Equal but for the language of the id, and the same relevant passages; grades may differ."""
    w = World(["en", "de", "th"], {"en": ["en:0", "en:1"], "de": ["de:0"], "th": ["th:0"]})
    w.qrels = {
        "en:a": {"en:0": 1, "de:0": 1},
        "en:b": {"en:0": 1},  # another question about the same passages as de:b, but not the same set
        "en:c": {"en:1": 1},  # nobody else asks it
        "de:a": {"de:0": 3, "en:0": 2, "th:0": 0},
        "de:b": {"en:0": 1, "de:0": 1},
        "th:a": {"en:0": 1, "de:0": 1},
        "th:b": {"en:0": 1},
    }
    w.queries = list(w.qrels)
    w.lists = {q: w.pool[i % 4 :] + w.pool[: i % 4] for i, q in enumerate(w.queries)}
    table = w.table(2)
    joint = table.ranked(w.multi("en"))[0].joint
    assert joint is not None
    first = {q: [w.pool.index(d) for d in w.lists[q][:2]] for q in w.queries}
    none = [-1, -1]
    assert joint.asked.tolist() == [
        [first["en:a"], first["de:a"], first["th:a"]],
        [first["en:b"], none, first["th:b"]],
        [first["en:c"], none, none],
    ]


def test_sums_over_queries() -> None:
    """The record's own arithmetic, on queries of 2, 1 and 3 relevant passages."""
    r = Ranked(np.array([0, 2, 3, 6]), np.array([1, 5, 2, 3, 4, np.inf]), np.ones(6, np.int64), 9)
    assert r.query.tolist() == [0, 0, 1, 2, 2, 2] and r.place.tolist() == [1, 2, 1, 1, 2, 3]
    assert r.relevant.tolist() == [2, 1, 3] and r.within(3).tolist() == [1, 1, 1]
    assert r.first().tolist() == [1, 2, 3] and r.last().tolist() == [5, 2, np.inf]
    nothing = Ranked(np.array([0]), np.zeros(0), np.zeros(0, np.int64), 9)
    assert nothing.sum(np.zeros(0)).tolist() == nothing.within(3).tolist() == nothing.first().tolist() == []
