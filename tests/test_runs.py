"""Runs: against pytrec_eval and ir-measures under ties, in fractions, under changes that must change nothing."""

import itertools
import logging
import math
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from xbench import runs
from xbench.catalogue import parse
from xbench.errors import UsageError
from xbench.ranks import RankTable, judge
from xbench.records import Cell, Collection, Passage, Query
from xbench.results import CellResult
from xbench.runs import score_run
from xbench.trec import RankedList

Qrels = Mapping[str, Mapping[str, int]]
Run = Mapping[str, Mapping[str, float]]
CUTS = (1, 2, 3, 5, 10, 100)
TREC = {"AP": "map", "RR": "recip_rank", "nDCG": "ndcg", "Rprec": "Rprec"}
TREC_CUT = {"AP": "map_cut", "nDCG": "ndcg_cut", "P": "P", "R": "recall", "Success": "success"}
NAMES = {**TREC, **{f"{a}@{k}": f"{b}_{k}" for (a, b), k in itertools.product(TREC_CUT.items(), CUTS)}}
BOTH = ["AP", "RR", "nDCG@10", "R@5", "R@10", "P@1", "P@5", "P@10", "Success@1", "Success@3", "Rprec"]
ONE = Cell("mono", "x", ("x",))
# In UTF-8, é < 中 < ﬀ < 😀; in UTF-16, 😀 < ﬀ.
DOCS = [f"{head}{i}" for i in range(4) for head in ("d", "D", "é", "中", "ﬀ", "😀", "9", "10")]
# Ties, and no error in float32: neighbours there, powers of two, both zeros.
SCORES = [0.0, -0.0, 1.0, 1 + 2.0**-23, 1 - 2.0**-24, -1.0, 3.0, 2.0**-149, 2.0**100, -(2.0**-30), 16777215.0]


def table_of(qrels: Qrels, docs: Sequence[str] = DOCS) -> RankTable:
    queries = {"x": [Query(query_id, "") for query_id in qrels]}
    return judge(Collection(queries, {"x": [Passage(d, "") for d in docs]}, qrels, {}), ["x"])


def write(path: Path, run: Run) -> Path:
    """A run file with the lines as they come, and no rank that says anything."""
    path.write_text("".join(f"{q} Q0 {d} 0 {s!r} t\n" for q, row in run.items() for d, s in row.items()))
    return path


def scored(path: Path, qrels: Qrels, names: Sequence[str], docs: Sequence[str] = DOCS) -> CellResult:
    measures = [parse(name) for name in names]
    return score_run(path, [ONE], table_of(qrels, docs), measures, depth=1, ignore_ranks=True)[1][0]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "x.run"


def drawn(seed: int, queries: int) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Queries with 1 to 5 distinct scores, grades 0 to 3, passages judged and not retrieved and the reverse."""
    rng = np.random.default_rng(seed)
    some = np.array(SCORES)[rng.random((queries, len(SCORES))).argsort(axis=1)]
    chosen = rng.integers(0, rng.integers(1, 6, queries)[:, None], (queries, len(DOCS)))
    scores = np.take_along_axis(some, chosen, axis=1)
    # Each query retrieves and judges shares of its own, from nearly nothing to nearly all.
    retrieved = rng.random((queries, len(DOCS))) < rng.random((queries, 1))
    judged = rng.random((queries, len(DOCS))) < rng.random((queries, 1)) * 0.7
    grades = rng.integers(0, 4, (queries, len(DOCS)))
    order = rng.permutation(len(DOCS))
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for i in range(queries):
        qrels[f"{i}"] = {DOCS[j]: int(grades[i, j]) for j in order if judged[i, j]} or {"d0": 1}
        run[f"{i}"] = {DOCS[j]: float(scores[i, j]) for j in order if retrieved[i, j]} or {"d1": 0.0}
    return qrels, run


@pytest.mark.parametrize("seed", range(10))
def test_pytrec_eval_and_ir_measures_agree(seed: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,500 queries in all have a relevant passage; the first 10,200 go through a file."""
    qrels, run = drawn(seed, 10_200)
    assert all(len(set(row.values())) <= 5 for row in run.values())
    place = {d: i for i, d in enumerate(DOCS)}
    if seed:
        lists = (
            RankedList(i, np.array([place[d] for d in row]), np.array(list(row.values())))
            for i, row in enumerate(run.values())
        )
        monkeypatch.setattr(runs, "read_run", lambda *_, **__: lists)
    found = scored(file if seed else write(file, run), qrels, list(NAMES))
    with_relevant = [q for q, row in qrels.items() if any(row.values())]
    assert (found.query_ids, found.left_out, found.missing) == (with_relevant, len(qrels) - len(with_relevant), 0)
    cuts = ",".join(map(str, CUTS))
    wanted = {*TREC.values(), *(f"{theirs}.{cuts}" for theirs in TREC_CUT.values())}
    expected = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)
    for ours, theirs in NAMES.items():
        column = [expected[q][theirs] for q in found.query_ids]
        assert np.abs(found.per_query[ours] - column).max() <= 1e-12, ours
        assert abs(found.values[ours] - math.fsum(column) / len(column)) <= 1e-12, ours
    row_of = {q: i for i, q in enumerate(found.query_ids)}
    columns = {name: np.full(len(row_of), np.nan) for name in BOTH}
    for query_id, measure, value in ir_measures.iter_calc(map(ir_measures.parse_measure, BOTH), qrels, run):
        if query_id in row_of:
            columns[str(measure)][row_of[query_id]] = value
    for name, column in columns.items():
        assert np.abs(found.per_query[name] - column).max() <= 1e-12, name


def by_rule(row: Mapping[str, float]) -> list[str]:
    """Score descending, then the bytes of the id descending."""
    return sorted(row, key=lambda d: (row[d], d.encode()), reverse=True)


def test_fractions_agree(file: Path) -> None:
    """On 4,000 queries: a value is off by no more than the rounding of its quotients and sums."""
    qrels, run = drawn(99, 4000)
    found = scored(write(file, run), qrels, ["AP", "AP@5", "RR", "RR@2", "P@5", "R@5", "Rprec"])
    for i, q in enumerate(found.query_ids):
        relevant = {d for d, grade in qrels[q].items() if grade}
        ranks = [rank for rank, d in enumerate(by_rule(run[q]), 1) if d in relevant]
        for name, k in (("AP", math.inf), ("AP@5", 5)):
            terms = [Fraction(n, rank) for n, rank in enumerate(ranks, 1) if rank <= k]
            exact = sum(terms, Fraction()) / len(relevant)
            assert abs(Fraction(found.per_query[name][i]) - exact) <= exact * (len(terms) + 2) / 2**53
        counts = {k: sum(rank <= k for rank in ranks) for k in (5, len(relevant))}
        exact = {
            "RR": Fraction(1, ranks[0]) if ranks else 0,
            "RR@2": Fraction(1, ranks[0]) if ranks[:1] in ([1], [2]) else 0,
            "P@5": Fraction(counts[5], 5),
            "R@5": Fraction(counts[5], len(relevant)),
            "Rprec": Fraction(counts[len(relevant)], len(relevant)),
        }
        assert {name: found.per_query[name][i] for name in exact} == {name: float(x) for name, x in exact.items()}


# --- where others differ: each time the ranking rule says who is right ------------------------------------------


def theirs(name: str, qrels: Qrels, run: Run) -> float:
    return float(ir_measures.calc_aggregate([ir_measures.parse_measure(name)], qrels, run).popitem()[1])


def test_rr_at_k_of_ir_measures_orders_ties_upwards(file: Path) -> None:
    """Its RR@10 comes from MS MARCO's script, its RR from trec_eval: one ranking cannot give both (issue 18 there)."""
    run = {"q": {f"d{i}": 1.0 for i in range(10)}}
    qrels = {"q": {"d0": 1}}
    assert by_rule(run["q"])[-1] == "d0"
    assert (theirs("RR", qrels, run), theirs("RR@10", qrels, run)) == (0.1, 1.0)
    found = scored(write(file, run), qrels, ["RR", "RR@10", "RR@9"], [f"d{i}" for i in range(10)])
    assert found.values == {"RR": 0.1, "RR@10": 0.1, "RR@9": 0.0}


def test_pytrec_eval_keeps_float32(file: Path) -> None:
    """0.9 and 0.9000000001 tie there, and the lower id loses; they do not tie here."""
    run, qrels = {"q": {"d1": 0.9000000001, "d2": 0.9}}, {"q": {"d1": 1}}
    assert by_rule(run["q"]) == ["d1", "d2"] and np.float32(0.9000000001) == np.float32(0.9)
    assert pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(run)["q"]["recip_rank"] == 0.5
    assert scored(write(file, run), qrels, ["RR"], ["d1", "d2"]).values == {"RR": 1.0}
    ranks = {"q": {"d1": -1.0, "d2": -2.0}}  # what `--scores rank` is for
    assert pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(ranks)["q"]["recip_rank"] == 1.0


def test_a_query_that_the_run_lacks_counts_0(file: Path) -> None:
    """A mean over the queries that pytrec_eval returns leaves it out; trec_eval -c, ir-measures and xbench do not."""
    qrels, run = {q: {"d1": 1} for q in "abc"}, {"a": {"d1": 1.0}}
    found = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)
    assert np.mean([row["map"] for row in found.values()]) == 1
    ours = scored(write(file, run), qrels, ["AP", "RR", "P@1", "Success@1", "nDCG"], ["d1"])
    assert ours.missing == 2 and ours.query_ids == ["a", "b", "c"]
    assert all(value == 1 / 3 == theirs(name, qrels, run) for name, value in ours.values.items())


@pytest.mark.parametrize("order", list(itertools.permutations(["d1", "é1", "😀1"])))
def test_the_order_of_tied_lines_means_nothing(order: Sequence[str], file: Path) -> None:
    """A stable sort by score would keep the file's order."""
    found = scored(write(file, {"q": dict.fromkeys(order, 1.0)}), {"q": {"d1": 1}}, ["RR"])
    assert found.values == {"RR": 1 / 3}


# --- properties --------------------------------------------------------------------------------------------------

SIX = ["d1", "D1", "é1", "中1", "ﬀ1", "😀1"]
lists_of = st.dictionaries(st.sampled_from(SIX), st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1)
qrels_of = st.dictionaries(st.sampled_from(SIX), st.integers(1, 3), min_size=1)
QUERY = given(lists_of, qrels_of, st.randoms(use_true_random=False))
NINE = ["AP", "RR", "nDCG", "nDCG@2", "P@2", "R@2", "Success@2", "Rprec", "AP@2"]


def values(file: Path, row: Mapping[str, float], grades: Mapping[str, int], names=NINE, docs=SIX) -> dict[str, float]:
    return scored(write(file, {"q": row}), {"q": grades}, names, docs).values


@QUERY
@settings(deadline=None, max_examples=100)
def test_what_must_not_change_a_value(file: Path, row, grades, rng: random.Random) -> None:
    expected = values(file, row, grades)
    lines = list(row.items())
    rng.shuffle(lines)
    assert values(file, dict(lines), grades) == expected
    assert values(file, {d: 3 * s**3 - 7 for d, s in row.items()}, grades) == expected  # a strictly increasing map
    neighbours = {0.0: 1 - 2.0**-53, 0.5: 1.0, 1.0: 1 + 2.0**-52, 2.0: 1 + 2.0**-51}
    assert values(file, {d: neighbours[s] for d, s in row.items()}, grades) == expected
    names = dict(zip(SIX, ["b", "a", "bb", "cé", "c中", "d"], strict=True))  # in the order of bytes, D before d
    renamed = {names[d]: s for d, s in row.items()}, {names[d]: g for d, g in grades.items()}
    assert values(file, *renamed, docs=list(names.values())) == expected
    for below in (-1.0, -1e300):
        assert values(file, row | {"unjudged": below}, grades, docs=[*SIX, "unjudged"]) == expected


@QUERY
@settings(deadline=None, max_examples=100)
def test_what_must_not_lower_a_value(file: Path, row, grades, rng: random.Random) -> None:
    order = by_rule(row)
    before = values(file, dict(zip(order, range(9, 0, -1), strict=False)), grades)
    assert before == values(file, row, grades)
    i, j = sorted(rng.choices(range(len(order)), k=2))
    if grades.get(order[j], 0) > grades.get(order[i], 0):
        order[i], order[j] = order[j], order[i]
    after = values(file, dict(zip(order, range(9, 0, -1), strict=False)), grades)
    assert all(after[name] >= before[name] - 1e-15 for name in NINE)


@QUERY
@settings(deadline=None, max_examples=100)
def test_identities(file: Path, row, grades, rng: random.Random) -> None:
    for k in (1, 2, 3):
        cut = {d: row[d] for d in by_rule(row)[:k]}
        names = [f"{family}@{k}" for family in ("AP", "RR", "nDCG", "P", "R", "Success")]
        assert values(file, cut, grades, names) == values(file, row, grades, names)
        both = values(file, cut, grades, ["AP", "RR"])
        assert list(both.values()) == list(values(file, row, grades, [f"AP@{k}", f"RR@{k}"]).values())
    one = values(file, row, grades, ["RR@1", "P@1", "Success@1"])
    assert one["RR@1"] == one["P@1"] == one["Success@1"]
    perfect = {d: float(g) for d, g in grades.items()}
    names = [*(name for name in NINE if "@" not in name), f"P@{len(grades)}", f"R@{len(grades)}", "nDCG@1", "nDCG@2"]
    assert set(values(file, perfect, grades, names).values()) == {1}


# --- cells of several languages, measures of others --------------------------------------------------------------

CELLS = [
    Cell("mono", "a", ("a",)),
    Cell("cross", "a", ("b",)),
    Cell("multi", "a", ("a", "b")),
    Cell("mono", "b", ("b",)),
]
# With and without a cut-off, by four programs; the gain of two of them is 2^grade - 1.
FOREIGN = [
    "Bpref",
    "P(rel=2)@5",
    "ERR@20",
    "IPrec@0.1",
    "SetF",
    "infAP",
    "Judged@10",
    "nDCG(dcg='exp-log2')@10",
    "NumRet",
]


def two_languages(seed: int) -> tuple[RankTable, Qrels, Run]:
    """60 questions in two languages over 20 passages each; 14 queries have no line, others few."""
    rng = random.Random(seed)
    docs = {a: [f"{a}:{d}" for d in DOCS[:20]] for a in "ab"}
    query_ids = {a: [f"{a}:{i}" for i in range(30)] for a in "ab"}
    every = docs["a"] + docs["b"]
    qrels = {
        q: {d: rng.randint(1, 4) for d in rng.sample(every, rng.randint(0, 8))} for a in "ab" for q in query_ids[a]
    }
    some = {q: rng.sample(every, rng.choice([1, 2, 5, 40])) for q in rng.sample(list(qrels), 46)}
    run = {q: {d: rng.choice([0.25, 0.5, 1.0]) for d in row} for q, row in some.items()}
    queries = {a: [Query(q, "") for q in query_ids[a]] for a in "ab"}
    passages = {a: [Passage(d, "") for d in docs[a]] for a in "ab"}
    return judge(Collection(queries, passages, qrels, {}), "ab"), qrels, run


def restricted(cell: Cell, qrels: Qrels, run: Run) -> tuple[list[str], Qrels, Run]:
    """What a cell has of them: the queries, which are numbered then, and minus the rank in the pool."""
    asked = [q for q in qrels if q[0] == cell.query_language]
    inside = {q: {d: g for d, g in qrels[q].items() if d[0] in cell.passage_languages} for q in asked}
    asked = [q for q in asked if inside[q]]
    orders = {q: [d for d in by_rule(run.get(q, {})) if d[0] in cell.passage_languages] for q in asked}
    ranks = {q: {d: -float(rank) for rank, d in enumerate(order, 1)} for q, order in orders.items() if order}
    number = {q: str(i) for i, q in enumerate(asked, 1)}
    return asked, {number[q]: inside[q] for q in asked}, {number[q]: row for q, row in ranks.items()}


@pytest.mark.parametrize(("seed", "batch"), [(0, 1 << 20), (1, 1), (2, 100)])
def test_cells_and_measures_of_others(seed: int, batch: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "BATCH", batch)
    table, qrels, run = two_languages(seed)
    names = ["AP", "RR", "nDCG@10", "R@10", "P@5", *FOREIGN]
    measures = [parse(name) for name in names]
    depth, sizes, calc = 7 + seed, [], ir_measures.iter_calc
    monkeypatch.setattr(ir_measures, "iter_calc", lambda m, q, r: sizes.append(len(r)) or calc(m, q, r))
    found_table, found = score_run(write(file, run), CELLS, table, measures, depth=depth, ignore_ranks=True)
    monkeypatch.undo()
    # Every query once, in as many parts as there is need for.
    assert sum(sizes) == sum(len(restricted(cell, qrels, run)[2]) for cell in CELLS)
    assert len(sizes) == len(CELLS) if batch > 1000 else len(sizes) > len(CELLS)
    for i, q in enumerate(table.query_ids):
        top = [table.doc_ids.index(d) for d in by_rule(run.get(q, {}))][:depth]
        assert found_table.top[i].tolist() == top + [-1] * (depth - len(top))
    for cell, ours in zip(CELLS, found, strict=True):
        asked, their_qrels, their_run = restricted(cell, qrels, run)
        assert (ours.query_ids, ours.left_out, ours.missing) == (asked, 30 - len(asked), len(asked) - len(their_run))
        assert ours.missing and ours.left_out and list(ours.values) == names and list(ours.per_query) == names
        objects = {ir_measures.parse_measure(name): name for name in names}
        for query_id, measure, value in ir_measures.iter_calc(list(objects), their_qrels, their_run):
            assert abs(ours.per_query[objects[measure]][int(query_id) - 1] - value) <= 1e-12, (cell.name, measure)
        for measure, value in ir_measures.calc_aggregate(list(objects), their_qrels, their_run).items():
            assert abs(ours.values[objects[measure]] - value) <= 1e-12, (cell.name, measure)
        for i, q in enumerate(their_qrels):
            order = sorted(their_run.get(q, {}), key=their_run.get(q, {}).get, reverse=True)[:20]
            gains = [(2 ** their_qrels[q].get(d, 0) - 1) / 2**4 for d in order]
            stop = [math.prod(1 - gain for gain in gains[:r]) for r in range(len(gains))]
            err = sum(gain * go / r for r, (gain, go) in enumerate(zip(gains, stop, strict=True), 1))
            assert abs(ours.per_query["ERR@20"][i] - err) <= 5.1e-6  # gdeval prints five decimals
        assert ours.values["NumRet"] == sum(map(len, their_run.values()))


def test_lines_of_no_cell_are_counted(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    table, _, run = two_languages(0)
    caplog.set_level(logging.INFO, "xbench")
    for chosen in ([CELLS[0]], [CELLS[1], CELLS[3]], CELLS[2:], []):
        caplog.clear()
        score_run(write(file, run), chosen, table, [parse("AP")], depth=1, ignore_ranks=True)
        pairs = {(cell.query_language, a) for cell in chosen for a in cell.passage_languages}
        lines = [(q[0], d[0]) for q, row in run.items() for d in row]
        outside = sum(line not in pairs for line in lines)
        assert outside and f"{outside} of {len(lines)} lines are of no cell" in caplog.text
    caplog.clear()
    inside = {q: {d: s for d, s in row.items() if d[0] == "b" or q[0] == "a"} for q, row in run.items()}
    score_run(write(file, inside), CELLS, table, [parse("AP")], depth=1, ignore_ranks=True)
    assert "of no cell" not in caplog.text


def test_what_ir_measures_cannot_compute(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, _, run = two_languages(0)
    monkeypatch.setenv("PATH", "")  # without Perl there is no ERR
    with pytest.raises(UsageError, match="ir-measures cannot compute Bpref, ERR@20: "):
        score_run(write(file, run), CELLS, table, [parse("Bpref"), parse("ERR@20")], depth=1, ignore_ranks=True)
