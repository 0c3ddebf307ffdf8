"""The CI gate: what fails, what passes, what is refused, and what it writes for those who read it in CI."""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from xbench import cli, parquet
from xbench.catalogue import parse, parse_all
from xbench.evaluate import Plan, evaluate
from xbench.gate import compare_results
from xbench.gate.actions import annotations, inert
from xbench.gate.check import Verdict, check
from xbench.gate.drift import drifts
from xbench.gate.junit import junit
from xbench.gate.losses import LossTest, Rules, loss_tests
from xbench.gate.pairs import moved, names, tier
from xbench.gate.places import gaps
from xbench.gate.report import headline, tables
from xbench.models import load
from xbench.records import Cell
from xbench.results import Result, environment, read_result, write_result
from xbench.stats import Sample, sample
from xbench.storage import fingerprint
from xbench.tables import Table, render, shown
from xbench.tasks import load_task
from xbench.trec import write_run

Floats = NDArray[np.float64]
MEASURES = ["AP", "RankDistance", "RankDistanceMedian"]
CELLS = load_task("mini").cells()
HERE = environment()
ELSEWHERE = HERE | {"torch": "9.9.9"}
QUIET: dict[str, Any] = {"GITHUB_ACTIONS": "", "GITHUB_STEP_SUMMARY": ""}


@pytest.fixture(autouse=True)
def no_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Result]:
    """A good model and a bad one."""
    plan = Plan(tmp_path_factory.mktemp("cache"))
    one, other = (evaluate(load(name), load_task("mini"), MEASURES, plan=plan) for name in ("hash", "canary:random"))
    return one, other


def made(
    result: Result,
    change: Callable[[str, str, Floats], Floats] = lambda cell, column, values: values,
    *,
    where: Mapping[str, str] = HERE,
    identity: Mapping[str, object] | None = None,
    name: str | None = None,
) -> Result:
    """A result with other values of queries, which its cells agree with, from elsewhere or of another model."""
    cells = []
    for cell in result.cells:
        per_query = {c: change(cell.cell.name, c, v.copy()) for c, v in cell.per_query.items()}
        values = {m: parse(m).aggregate(per_query[parse(m).column]) for m in cell.values}
        cells.append(dataclasses.replace(cell, per_query=per_query, values=values))
    identity = dict(identity or result.model["identity"])
    key = fingerprint(identity)
    model = {"name": name or result.model["name"], "fingerprint": key, "slug": f"m-{key[:12]}", "identity": identity}
    return dataclasses.replace(result, cells=cells, model=model, environment=dict(where), ranks=None)


def at(cell: str, column: str, row: int, value: float) -> Callable[[str, str, Floats], Floats]:
    """Changes one value."""

    def change(where: str, what: str, values: Floats) -> Floats:
        if (where, what) == (cell, column):
            values[row] = value
        return values

    return change


def lower(by: float, setting: str = "", column: str = "AP") -> Callable[[str, str, Floats], Floats]:
    return lambda cell, what, values: values - by * (what == column and cell.startswith(setting))


def judged(first: Result, second: Result, measures: Sequence[str] = ("AP",), rules: Rules | None = None) -> Verdict:
    nowhere = Path("none"), Path("none")
    return check(nowhere, (first, second), parse_all(measures), CELLS, rules)


def by_name(found: Sequence[LossTest]) -> dict[tuple[str, str, str], LossTest]:
    return {(t.measure, t.setting, t.language): t for t in found}


# Which tier


def test_tiers(results: tuple[Result, Result]) -> None:
    hash_ = made(results[0])
    assert tier(hash_, hash_) == "A" and tier(hash_, made(hash_, where=ELSEWHERE)) == "B"
    place: dict[str, object] = {"versions": {"torch": "1"}, "device": "cpu", "processor": "AVX2", "batch_tokens": 1}
    model = {"kind": "hf", "files": {"a": "1"}, **place}
    other: dict[str, object] = {"versions": {"torch": "2"}, "device": "cuda", "processor": "x", "batch_tokens": 2}
    here = made(hash_, identity=model)
    assert tier(here, made(hash_, identity=model | other)) == "B"
    for change in ({"files": {"a": "2"}}, {"dtype": "bfloat16"}, {"kind": "py"}):
        assert tier(here, made(hash_, identity=model | change)) == "C"
    both = {"kind": "fuse", "parts": [model, {"kind": "bm25"}], "weights": [1, 1]}
    assert (
        tier(made(hash_, identity=both), made(hash_, identity=both | {"parts": [model | other, {"kind": "bm25"}]}))
        == "B"
    )
    assert tier(made(hash_, identity=both), made(hash_, identity=both | {"weights": [1, 2]})) == "C"
    said = moved(here, made(hash_, identity=model | other, where=ELSEWHERE))
    assert f"torch {model['versions']['torch']}, now 2" in said and "device cpu, now cuda" in said  # type: ignore[index]
    assert moved(hash_, made(hash_, where=ELSEWHERE)) == [f"torch {HERE['torch']}, now 9.9.9"]
    assert names([hash_, here]) == [f"hash ({r.model['fingerprint'][:12]})" for r in (hash_, here)]
    assert names([hash_, hash_, results[1]]) == ["hash", "hash", "canary:random"]


def test_the_environment_is_kept(results: tuple[Result, Result], tmp_path: Path) -> None:
    path = write_result(made(results[0], where=ELSEWHERE), tmp_path)
    assert read_result(path).environment == ELSEWHERE == json.loads(path.read_text())["environment"]
    assert results[0].environment == {} and results[0].to_json()["environment"] == HERE


# Tiers A and B


def test_the_same_bytes(results: tuple[Result, Result]) -> None:
    hash_ = made(results[0])
    same = judged(hash_, hash_)
    values = sum(len(c.query_ids) * len(c.per_query) for c in hash_.cells)
    assert not same.failed and len(same.drifts) == 132 and sum(d.values for d in same.drifts) == values
    assert (
        headline(same)
        == f"mini: hash passes against hash: same fingerprint, same environment, all {values} values the same"
    )
    value = next(c for c in hash_.cells if c.cell.name == "cross/ar-de").per_query["AP"][5]
    for new in (np.nextafter(value, 2), value + 0.1):
        found = judged(hash_, made(hash_, at("cross/ar-de", "AP", 5, new)))
        (drift,) = [d for d in found.drifts if d.moved]
        (one,) = drift.unexplained
        assert found.failed and (drift.cell, drift.largest) == ("cross/ar-de", new - value)
        query = next(c for c in hash_.cells if c.cell.name == "cross/ar-de").query_ids[5]
        assert one == (query, "AP", value, new, None)
        assert f"1 of {values} values are others in 1 cells: cross/ar-de" in headline(found)
        assert query in render(tables(found), "csv") and repr(float(new)) in render(tables(found), "csv")
    # Another measure than the one asked for, and queries in another order.
    assert judged(hash_, made(hash_, at("multi/en", "RankDistance", 0, 1e9))).failed
    turned = [
        dataclasses.replace(
            c, query_ids=c.query_ids[::-1], per_query={m: v[::-1].copy() for m, v in c.per_query.items()}
        )
        for c in hash_.cells
    ]
    assert not judged(hash_, dataclasses.replace(hash_, cells=turned)).failed


def test_what_has_no_value_stays_without(results: tuple[Result, Result]) -> None:
    """NaN of any bits is NaN; a number that comes or goes has moved, in tier B too."""
    cell = results[0].cells[0]
    values = cell.per_query["AP"].copy()
    values[:2] = math.nan, -math.nan
    holes = dataclasses.replace(cell, per_query={"AP": values})
    other = dataclasses.replace(cell, per_query={"AP": np.where(np.isnan(values), math.nan, values)})
    for exact in (True, False):
        assert not drifts([holes], [other], exact=exact)[0].moved
        assert len(drifts([holes], [cell], exact=exact)[0].moved) == 2
        assert len(drifts([cell], [holes], exact=exact)[0].moved) == 2


def test_another_environment(results: tuple[Result, Result]) -> None:
    hash_ = made(results[0])
    value = hash_.cells[0].per_query["AP"][3]
    for by, fails in ((0.0, False), (9e-7, False), (1.1e-6, True)):
        other = made(hash_, at("mono/ar", "AP", 3, value - by), where=ELSEWHERE)
        found = judged(hash_, other)
        assert (found.tier, found.failed) == ("B", fails)
        assert sum(d.within for d in found.drifts) == (by == 9e-7)
        assert sum(len(d.moved) for d in found.drifts) == fails
        assert found.drifts[0].largest == abs(value - by - value)
    assert f"(torch {HERE['torch']}, now 9.9.9), 1 of" in headline(found) and "unexplained in 1 cells" in headline(
        found
    )
    assert "not known" in render(tables(found), "md")


def test_ties_that_flip_do_not_explain_a_loss(results: tuple[Result, Result], tmp_path: Path) -> None:
    """Near ties of every query changed places, so that each moved value is explained; but all moved down."""
    hash_ = made(results[0])
    other = made(
        hash_, lambda cell, what, v: v * 0.3 if cell.startswith("mono") and what == "AP" else v, where=ELSEWHERE
    )
    lists = [[("ar:1", 0.5), ("ar:2", 0.4999995)], [("ar:2", 0.500001), ("ar:1", 0.5)]]
    paths = []
    for result, name, passages in zip((hash_, other), ("one", "other"), lists, strict=True):
        paths.append(write_result(result, tmp_path / name))
        for cell in (cell for cell in result.cells if cell.cell.setting == "mono"):
            run = paths[-1].parent / f"mini.{cell.cell.name.replace('/', '.')}.run.trec"
            write_run(run, [(query, passages) for query in cell.query_ids], hash_.model["slug"])
    found = check((paths[0], paths[1]), (read_result(paths[0]), read_result(paths[1])), parse_all(["AP"]), CELLS)
    assert found.tier == "B" and not any(drift.unexplained for drift in found.drifts) and found.failed
    assert "those explained; " in headline(found) and "find a loss above the margin: AP mono" in headline(found)


@pytest.mark.parametrize(
    ("score", "told"),
    [(0.500001, "yes"), (0.50002, "no"), (0.3, "not known")],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_flips_are_explained_by_runs(
    results: tuple[Result, Result],
    tmp_path: Path,
    score: float,
    told: str,
    suffix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second passage passes the first if its score is above .5; then AP moves."""
    hash_ = made(results[0])
    query = hash_.cells[0].query_ids[3]
    other = made(hash_, at("mono/ar", "AP", 3, 0.123), where=ELSEWHERE)
    paths = [write_result(r, tmp_path / name) for r, name in ((hash_, "one"), (other, "other"))]
    lists = [
        [("ar:1", 0.5), ("ar:2", 0.4999995), ("ar:3", 0.1)],
        sorted([("ar:2", score), ("ar:1", 0.5)], key=lambda p: -p[1]),
    ]
    lists[1].append(("ar:3", 0.1))
    for path, passages in zip(paths, lists, strict=True):
        write_run(path.parent / f"mini.mono.ar.run.trec{suffix}", [(query, passages)], hash_.model["slug"])
    assert cli._run(["check", str(paths[1]), "--baseline", str(paths[0])], False) == (told != "yes")
    shown_ = capsys.readouterr().out
    assert f"| {told} |" in shown_
    if told == "yes":
        assert "values within 1e-06, those explained" in shown_
    # Runs of some other system explain nothing.
    write_run(paths[0].parent / f"mini.mono.ar.run.trec{suffix}", [(query, lists[0])], "stranger")
    assert cli._run(["check", str(paths[1]), "--baseline", str(paths[0])], False) == 1
    assert "| not known |" in capsys.readouterr().out


def test_gaps_are_those_of_all_pairs(tmp_path: Path) -> None:
    """Against every pair of passages, with ties, cut lists and large scores."""
    rng = np.random.default_rng(0)
    paths = tmp_path / "one", tmp_path / "other"
    for trial in range(200):
        scale = 10.0 ** rng.integers(-1, 3)
        docs = [f"d{i}" for i in range(rng.integers(2, 12))]
        lists = []
        for _ in range(2):
            scores = np.round(rng.random(len(docs)), 1) * scale
            order = sorted(range(len(docs)), key=lambda i: (-scores[i], docs[i]))[: rng.integers(1, len(docs) + 1)]
            lists.append([(docs[i], float(scores[i])) for i in order])
        for path, passages in zip(paths, lists, strict=True):
            write_run(path, [("q1", passages), ("q2", [("d0", 1.0)])], "x")
        wanted: list[float] = []
        for mine, theirs in (lists, lists[::-1]):
            place, most = {d: i for i, (d, _) in enumerate(theirs)}, max(1.0, abs(mine[0][1]))
            for (a, x), (b, y) in itertools.combinations(mine, 2):
                if a in place and b in place and place[a] > place[b]:
                    wanted.append((x - y) / most)
            wanted += [(x - mine[-1][1]) / most for a, x in mine if a not in place]
        found = gaps(*paths, {"q1"})
        assert list(found) == (["q1"] if wanted else []), trial
        if wanted:
            assert found["q1"] == pytest.approx(max(wanted), abs=1e-15)


# Tier C


def test_a_worse_model_fails_and_a_better_one_passes(results: tuple[Result, Result]) -> None:
    good, bad = (made(r) for r in results)
    found = judged(good, bad)
    assert found.tier == "C" and found.failed and len(found.tests) == 3 * (1 + 11)
    assert [(t.setting, t.language) for t in found.tests[:2]] == [("mono", ""), ("mono", "ar")]
    rows = {row.name: row for row in compare_results(good, bad, parse_all(["AP"]))["AP"]}
    for test in found.tests:
        if not test.language:
            row = rows[test.setting]
            assert (test.p, test.baseline, test.value) == (row.p_worse, row.first, row.second)
            assert (test.loss, test.wins, test.losses, test.queries, test.clusters) == (
                -row.difference, row.wins, row.losses, row.queries, row.clusters,
            )  # fmt: skip
        else:
            cells = [c for c in bad.cells if (c.cell.setting, c.cell.query_language) == (test.setting, test.language)]
            assert test.value == pytest.approx(np.mean([c.values["AP"] for c in cells]))
    for family in (True, False):
        some = [t for t in found.tests if bool(t.language) is family]
        assert [t.p_holm for t in some] == pytest.approx(multipletests([t.p for t in some], method="holm")[1])
        assert {t.alpha for t in some} == {0.005}
    turned = judged(bad, good)
    assert not turned.failed and all(t.loss < 0 and t.p > 0.99 for t in turned.tests if not t.language)
    assert "0 of 36 tests find a loss above the margin" in headline(turned)
    assert "FAILS against" in headline(found) and "tests find a loss above the margin: AP mono, AP mono ar" in headline(
        found
    )


@pytest.mark.parametrize(
    ("measure", "by", "rules", "fails"),
    [
        ("AP", 0.0019, Rules(), False),
        ("AP", 0.0021, Rules(), True),
        ("AP", 0.0021, Rules(margin=0.003), False),
        ("AP", -0.01, Rules(margin=0), False),
        ("RankDistance", -0.009, Rules(), False),  # a share of the baseline's, and lower is better
        ("RankDistance", -0.011, Rules(), True),
        ("RankDistance", -0.009, Rules(relative=0.005), True),
        ("RankDistance", -0.011, Rules(relative=0.02, margin=0), False),
        ("RankDistance", 0.1, Rules(), False),
    ],
)
def test_margins(results: tuple[Result, Result], measure: str, by: float, rules: Rules, fails: bool) -> None:
    """Every query loses the same: certain, so only the margin decides."""
    good = made(results[0])
    scale = good.summary()["multi"][measure] if measure == "RankDistance" else 1.0
    other = made(good, lower(by * scale, column=measure), identity={"kind": "other"})
    found = judged(good, other, [measure], rules)
    pooled = by_name(found.tests)[measure, "multi", ""]
    assert (pooled.status == "fails") is fails and found.failed is fails
    assert pooled.p < 1e-4 or by * (-1 if measure == "RankDistance" else 1) < 0
    assert pooled.loss == pytest.approx(by * scale * (-1 if measure == "RankDistance" else 1))
    assert pooled.margin == pytest.approx(rules.relative * scale if measure == "RankDistance" else rules.margin)


def test_one_language_alone_fails(results: tuple[Result, Result]) -> None:
    good = made(results[0])
    found = judged(good, made(good, lower(0.02, "mono/th"), identity={"kind": "other"}))
    assert [(t.setting, t.language) for t in found.tests if t.status == "fails"] == [("mono", "th")]
    # The pooled loss is a real one too, but below the margin.
    assert by_name(found.tests)["AP", "mono", ""].loss == pytest.approx(0.02 / 11) and found.failed


def test_families_grow_with_measures(results: tuple[Result, Result]) -> None:
    found = judged(*(made(r) for r in results), ["AP", "RankDistance"])
    assert len(found.tests) == 3 * 12 + 12
    for family, size in ((False, 4), (True, 44)):
        some = [t for t in found.tests if bool(t.language) is family]
        assert len(some) == size
        assert [t.p_holm for t in some] == pytest.approx(multipletests([t.p for t in some], method="holm")[1])


def pair(clusters: int, shift: float = 0.0, languages: Sequence[str] = ("a", "b")) -> tuple[list[Sample], list[Cell]]:
    rng = np.random.default_rng(3)
    cells = [Cell("mono", a, (a,)) for a in languages]
    rows = [(c.name, f"{c.query_language}:q{i}", f"p{i}") for c in cells for i in range(clusters)]
    where, queries, drawn = zip(*rows, strict=True)
    gap = rng.normal(shift, 0.1, len(rows))
    return [sample(where, queries, drawn, v) for v in (np.full(len(rows), 0.5), 0.5 + gap)], cells


def test_the_smallest_loss_seen() -> None:
    """One-sided, at the first step of Holm's correction; and in the sample above the margin."""
    samples, cells = pair(50)
    for rules in (Rules(), Rules(alpha=0.1), Rules(margin=0.2)):
        for test in loss_tests({parse("AP"): samples}, cells, rules):
            first = test.alpha / (2 if test.language else 1)
            above = float(rules.margin + stats.t.ppf(0.8, 49) * test.error)
            assert test.detectable is not None and test.detectable >= above * (1 - 1e-12)
            if test.detectable > above:  # statsmodels' power, since its solver stops early
                effect = test.detectable / test.error / math.sqrt(50)
                power = TTestPower().power(effect, nobs=50, alpha=first, alternative="larger")
                assert power == pytest.approx(0.8, abs=1e-4)
            assert (test.detectable > above) is (rules.margin < 0.1)
            assert test.blind  # of .01, 50 queries see nothing
    gap = (samples[1].values - samples[0].values).reshape(2, 50)
    errors = [*(np.std(row, ddof=1) / math.sqrt(50) for row in gap), np.std(gap.mean(axis=0), ddof=1) / math.sqrt(50)]
    found = {t.language: t.error for t in loss_tests({parse("AP"): samples}, cells, Rules())}
    assert [found["a"], found["b"], found[""]] == pytest.approx(errors)


def test_one_language_has_no_family_of_its_own() -> None:
    samples, cells = pair(50, languages=("a",))
    (only,) = loss_tests({parse("AP"): samples}, cells, Rules(alpha=0.03))
    assert (only.language, only.alpha, only.p_holm) == ("", 0.03, only.p)


def test_too_few_clusters_cannot_tell() -> None:
    """Of 5 clusters p cannot be below 1/32: not a pass, and said so."""
    samples, cells = pair(5, -0.5)
    found = loss_tests({parse("AP"): samples}, cells, Rules())
    assert {t.status for t in found} == {"cannot tell"} and all(t.p == 1 / 32 for t in found)
    verdict = Verdict("mini", "one", "other", "C", tests=found)
    assert not verdict.failed
    assert ElementTree.fromstring(junit([verdict]))[0].get("skipped") == "3"
    warning = annotations([verdict])[-1]
    assert warning.startswith("::warning title=xbench check mini::too few queries") and "AP mono none" in warning
    assert "too few queries" in tables(verdict)[1].title
    for clusters, told in ((7, False), (8, True)):  # one-sided, p can be 2^-7 or 2^-8 = .0039
        few, cells = pair(clusters, languages=("a",))
        (test,) = loss_tests({parse("AP"): few}, cells, Rules(alpha=0.005))
        assert (test.detectable is not None) is told
    many, cells = pair(9, -0.5)
    assert {t.status for t in loss_tests({parse("AP"): many}, cells, Rules(alpha=0.02))} == {"fails"}  # 2 / 512


def test_a_large_family_gets_flips_enough() -> None:
    """p must be able to get below alpha over the number of tests."""
    samples, cells = pair(40, -0.5)
    found = loss_tests({parse("AP"): samples}, cells, Rules(alpha=1e-5, flips=100))
    assert {t.status for t in found} == {"fails"} and all(t.p <= 1e-5 / 20 for t in found)


# What is refused


def stored(folder: Path, *results: Result) -> list[str]:
    return [str(write_result(result, folder / str(i))) for i, result in enumerate(results)]


def run(arguments: Sequence[str]) -> int:
    return cli._run(["check", *arguments], False)


def test_exit_codes(results: tuple[Result, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = (made(r) for r in results)
    base, worse, again = stored(tmp_path, good, bad, good)
    folder = str(Path(base).parent)
    assert run([worse, "--baseline", base]) == 1 and run([base, "--baseline", worse]) == 0
    assert run([again, "--baseline", folder]) == 0 and run([again, worse, "--baseline", folder]) == 1
    assert run([worse, again, "--baseline", folder]) == 1
    capsys.readouterr()
    assert run([base, "--baseline", folder]) == 2 and "is its own baseline" in capsys.readouterr().err
    assert run([worse, "--baseline", str(tmp_path)]) == 3 and "expected the baseline of" in capsys.readouterr().err
    assert (
        run([worse, "--baseline", str(tmp_path / "none")]) == 3
        and run([str(tmp_path / "x.json"), "--baseline", base]) == 3
    )
    for measure in ("Sense", "RR", "RankDistanceMedian"):
        assert run([worse, "--baseline", base, "-m", measure]) == 2
    assert run([worse]) == 2 and run([worse, "--baseline", base, "--cell", "mono/xx"]) == 2
    assert run([worse, "--baseline", base, "--cluster", "x"]) == 2


def test_different_or_incomplete_is_never_a_pass(
    results: tuple[Result, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = made(results[0])

    def one(**changes: Any) -> Result:
        return dataclasses.replace(good, cells=[dataclasses.replace(good.cells[0], **changes), *good.cells[1:]])

    cell = good.cells[0]
    fewer = {m: v[1:] for m, v in cell.per_query.items()}
    values = {m: parse(m).aggregate(fewer[parse(m).column]) for m in cell.values}
    odd = [
        (dataclasses.replace(good, task=good.task | {"version": 2}), 3, "results of different tasks"),
        (dataclasses.replace(good, cells=good.cells[1:]), 10, "1 of 132 cells are missing: mono/ar"),
        (one(missing=3), 10, "has nothing for"),
        (one(passages=cell.passages + 1), 3, "expected the same pool"),
        (one(left_out=1), 3, "expected the same pool"),
        (one(query_ids=cell.query_ids[1:], per_query=fewer, values=values), 3, "1 queries are in one of the two"),
        (one(query_ids=["ar:x", *cell.query_ids[1:]]), 3, "2 queries are in one of the two results only"),
    ]  # fmt: skip
    paths = stored(tmp_path, good, *(result for result, _, _ in odd))
    for path, (_, code, words) in zip(paths[1:], odd, strict=True):
        for arguments in ([path, "--baseline", paths[0]], [paths[0], "--baseline", path]):
            junit_file = tmp_path / "junit.xml"
            junit_file.write_text("of an earlier run")
            assert run([*arguments, "--junit", str(junit_file)]) == code, words
            said = capsys.readouterr()
            assert re.search(words, said.err) and not said.out and not junit_file.exists()
    assert (
        run([paths[2], "--baseline", paths[0], "--cell", "multi/*"]) == 0
    )  # the cell that is missing is not asked for
    assert "all 11" in capsys.readouterr().out


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_none(results: tuple[Result, Result], tmp_path: Path, value: float) -> None:
    good = made(results[0])
    base, path = stored(tmp_path, good, good)
    table, about = parquet.read(Path(path).parent / "mini.queries.parquet", ["AP"])
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    columns["AP"][7] = value
    parquet.write(Path(path).parent / "mini.queries.parquet", columns, about)
    assert run([path, "--baseline", base]) == 7 and run([base, "--baseline", path]) == 7
    with pytest.raises(Exception, match="mono/ar") as refused:
        judged(good, dataclasses.replace(good, cells=[_hole(good, value), *good.cells[1:]]))
    assert getattr(refused.value, "exit_code", None) == 3


def _hole(result: Result, value: float) -> Any:
    per_query = {m: v.copy() for m, v in result.cells[0].per_query.items()}
    per_query["AP"][0] = value
    return dataclasses.replace(result.cells[0], per_query=per_query)


# What is written

HOSTILE = (
    "a<b>&\"'`|*_[x](javascript:1)]]>\x00\x1b[31m\u202e\u2028\ud800\ufffe\r\n::error title=x::y\n##[error]z %0A%25, "
    "=cmd|' /C calc'!A0 <script>alert(1)</script> $x$ \\input{/etc/passwd}"
)


def read_command(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as the runner reads it (actions/runner, ActionCommand.TryParseV2 and its escapes)."""
    assert line.startswith("::") and "\n" not in line and "\r" not in line
    head, _, data = line[2:].partition("::")
    kind, _, rest = head.partition(" ")
    pairs = [part.split("=", 1) for part in rest.split(",") if part]

    def plain(text: str, codes: Sequence[tuple[str, str]]) -> str:
        for code, char in [*codes, ("%25", "%")]:
            text = text.replace(code, char)
        return text

    lines = [("%0D", "\r"), ("%0A", "\n")]
    return kind, {k: plain(v, [*lines, ("%3A", ":"), ("%2C", ",")]) for k, v in pairs}, plain(data, lines)


def test_hostile_names(results: tuple[Result, Result]) -> None:
    good, bad = made(results[0], name=HOSTILE), made(results[1], name=HOSTILE + "2")
    changed = made(good, at("mono/ar", "AP", 3, 0.123))
    renamed = dataclasses.replace(changed, cells=[_named(changed), *changed.cells[1:]])
    start = dataclasses.replace(good, cells=[_named(good), *good.cells[1:]])
    for verdict in (judged(good, bad), judged(bad, good), judged(start, renamed)):
        verdict = dataclasses.replace(verdict, task=HOSTILE)
        root = ElementTree.fromstring(junit([verdict]).decode("utf-8"))
        assert [child.tag for child in root] == ["testsuite"]
        cases = root.findall("testsuite/testcase")
        assert len(cases) == (36 if verdict.tier == "C" else 132) == int(root[0].get("tests", 0))
        fails = sum(t.status == "fails" for t in verdict.tests) + sum(bool(d.unexplained) for d in verdict.drifts)
        assert (
            len(root.findall(".//failure")) == fails == int(root[0].get("failures", 0))
            and bool(fails) == verdict.failed
        )
        assert root[0].get("name") == shown(f"xbench check {HOSTILE}")
        assert root[0][-1].text == shown(headline(verdict))
        for line in annotations([verdict]):
            kind, properties, message = read_command(line)
            assert kind in ("error", "notice", "warning") and list(properties) == ["title"]
            assert properties["title"] == shown(f"xbench check {HOSTILE}")
            assert all(c.isprintable() for c in message) and line.count("::") >= 2
        assert read_command(annotations([verdict])[0])[2] == shown(headline(verdict))
        for format_ in ("md", "csv", "tex"):
            text = render([inert(table) for table in tables(verdict)], format_)
            assert "::" not in text and "##[" not in text
            assert all(c.isprintable() or c == "\n" for c in text)
        assert "<script>" not in render(tables(verdict), "md")
        lines = [line for line in render(tables(verdict), "tex").split("\n") if not line.startswith("%")]
        assert "\\input" not in "\n".join(lines)


def _named(result: Result) -> Any:
    cell = result.cells[0]
    return dataclasses.replace(cell, query_ids=[*cell.query_ids[:3], f"ar:{HOSTILE}", *cell.query_ids[4:]])


def test_inert_leaves_numbers_alone() -> None:
    table = Table("a::b ##[x]", ["::c"], [["::d", 1.5, None, 2]])
    assert inert(table) == Table("a: :b ## [x]", [": :c"], [[": :d", 1.5, None, 2]])


def test_what_ci_reads(
    results: tuple[Result, Result],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "xbench")
    base, worse = stored(tmp_path, *(made(r) for r in results))
    step = tmp_path / "step.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    arguments = [worse, "--baseline", base, "--junit", str(tmp_path / "j.xml"), "--summary", str(tmp_path / "s.md")]
    seen = []
    for _ in range(2):
        assert run(arguments) == 1
        seen.append((capsys.readouterr().out, (tmp_path / "j.xml").read_bytes(), (tmp_path / "s.md").read_bytes()))
    assert seen[0] == seen[1] and "::error" not in seen[0][0]
    assert step.read_text() == "before\n" + 2 * seen[0][2].decode() and seen[0][2].decode().startswith("**mini: ")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert run(arguments) == 1
    lines = [line for line in capsys.readouterr().out.split("\n") if line.startswith("::")]
    assert [read_command(line)[0] for line in lines] == ["error"] * 9
    assert run([*arguments, "--no-github"]) == 1 and "::error" not in capsys.readouterr().out
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert run([base, "--baseline", worse, "--github"]) == 0
    out = capsys.readouterr()
    assert "\n::notice title=xbench check mini::mini: hash passes against canary:random: 0 of 36" in out.out
    assert "too few queries: smaller losses" in caplog.text
    for format_ in ("md", "csv", "tex", "rich"):
        assert run([worse, "--baseline", base, "--format", format_]) == 1
        text = capsys.readouterr().out
        assert "FAILS against" in text and "the smallest true loss that fails with a power of 80" in text


def test_alpha_is_of_the_whole_command(
    results: tuple[Result, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (made(r) for r in results)
    base, worse, more = stored(tmp_path, good, bad, made(good, identity={"kind": "other"}))
    given = []

    def spy(paths: Any, pair: Any, measures: Any, cells: Any, rules: Rules) -> Verdict:
        given.append(rules)
        return check(paths, pair, measures, cells, rules)

    monkeypatch.setattr("xbench.gate.check.check", spy)
    options = ["--alpha", "0.04", "--margin", "0.5", "--relative-margin", "0.2", "--cluster", "question"]
    assert run([worse, more, "--baseline", base, *options]) == 1  # mono falls by more than half
    assert given == [Rules(0.02, 0.5, 0.2, "question")] * 2


@pytest.mark.parametrize("option", ["--alpha", "--margin", "--relative-margin"])
def test_no_loss_passes_by_an_option_that_is_no_number(
    results: tuple[Result, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """No loss is above NaN."""
    good, bad = stored(tmp_path, *(made(result) for result in results))
    assert run([bad, "--baseline", good, option, "nan"]) == 2
    assert "nan is not in the range" in capsys.readouterr().err


def test_the_examples_for_ci_are_whole() -> None:
    """What the page shows is YAML, and its commands are commands with options that exist."""
    page = (Path(__file__).parent.parent / "docs" / "check.md").read_text(encoding="utf-8")
    workflow, hooks = (yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M))
    (hook,) = hooks["repos"][0]["hooks"]
    assert hook["language"] == "system" and hook["pass_filenames"] is False
    lines = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step] + [hook["entry"]]
    commands = [c for line in lines for c in re.findall(r"xbench (\w+) ([^&']*)", line)]
    assert [name for name, _ in commands] == ["run", "check"] * 2
    for name, rest in commands:
        known = {option for p in cli.cli.get_command(None, name).params for option in p.opts}  # type: ignore[union-attr, arg-type]
        assert set(re.findall(r"(?<= )--?[a-z]+", " " + rest)) <= known
