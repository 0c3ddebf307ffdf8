"""What a study finds: values, tests of variants against the baseline, and claims, each with what is uncertain of it.

Two things are uncertain. Trained again with another seed, a model is another; this is what intervals over seeds are
of: Student's t of the seeds' values. Tested on other questions of the same kind it would score otherwise; this is what
intervals over queries and the randomisation test are of: those of `intervals` and `paired`, on the values of each
query averaged over the seeds. Neither covers the other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from xbench.catalogue import parse_all
from xbench.errors import DataError
from xbench.gate import compare_results
from xbench.intervals import LEVEL, with_intervals
from xbench.paired import Comparison, holm
from xbench.results import Result
from xbench.storage import fingerprint
from xbench.task import SETTINGS
from xbench.train.study import Claim, Study
from xbench.train.trials import Trial

Ends = tuple[float, float]
# Below it, a corrected p is significant.
ALPHA = 0.05
# A grouping of our own, for plots by language.
EACH = "each language"


class Value(NamedTuple):
    """What the models of a variant score: a macro mean, and the mean of it over seeds."""

    model: str
    task: str
    where: str
    """A setting, or a group of languages."""
    measure: str
    variant: str
    value: float
    seeds: list[float]
    over_seeds: Ends | None
    """Of the mean over all seeds that there could be; None for one seed."""
    over_queries: Ends | None
    """Of the mean over all queries that there could be."""


class Test(NamedTuple):
    """Two variants; differences are second - first, of means over seeds."""

    model: str
    task: str
    where: str
    measure: str
    first: str
    second: str
    difference: float
    over_seeds: Ends | None
    over_queries: Ends
    p: float
    """Of the randomisation test over queries, two-sided."""
    p_holm: float
    """Corrected over its family."""
    agree: int
    """Seeds of which the difference has the sign of the mean difference."""
    seeds: int


class Verdict(NamedTuple):
    """A claim, put to the test of one model and task."""

    claim: Claim
    test: Test
    """Of `claim.better` (second) and `claim.than` (first)."""
    verdict: Literal["confirmed", "not confirmed", "contradicted"]


class Outcome(NamedTuple):
    """All that a study finds."""

    values: list[Value]
    tests: list[Test]
    """Of every variant and the baseline. Families: the settings of one measure, over all models, tasks and variants;
    likewise the groups of languages."""
    verdicts: list[Verdict]
    """Their tests are one family."""
    means: dict[tuple[str, str, str], Result]
    """(model, task, variant): the values of each query averaged over seeds, with intervals; languages are grouped one
    by one."""


def outcome(study: Study, trials: Mapping[str, Mapping[str, Sequence[Trial]]]) -> Outcome:
    """What comes of the trials: model -> variant -> those of its seeds, which are the same for all variants.

    Raises:
        DataError: a claim about a group of languages that no task has.
    """
    measures = parse_all(study.measures)
    values: list[Value] = []
    tests: list[Test] = []
    claimed: list[tuple[Claim, Test]] = []
    means: dict[tuple[str, str, str], Result] = {}
    of_seeds = {
        (model, task): {v: [macro_means(trial.results[task]) for trial in some] for v, some in variants.items()}
        for model, variants in trials.items()
        for task in next(iter(variants.values()))[0].results
    }
    for claim in study.claims:
        if not any(claim.measure in seeds[claim.than][0].get(claim.setting, {}) for seeds in of_seeds.values()):
            raise DataError(f"study {study.name}: claim {claim.text!r}: no task has {claim.measure} of {claim.setting}")
    for (model, task), seeds in of_seeds.items():
        results = {variant: [trial.results[task] for trial in some] for variant, some in trials[model].items()}
        averages = {variant: average(some, study.measures, variant) for variant, some in results.items()}
        for variant, mean in averages.items():
            of_each = {a: [a] for a in dict.fromkeys(cell.cell.query_language for cell in mean.cells)}
            shown = with_intervals(replace(mean, groupings={**mean.groupings, EACH: of_each}))
            means[model, task, variant] = shown
            values += _values(model, task, variant, seeds[variant], shown, study.measures)
        with_baseline = [(study.baseline, variant) for variant in results if variant != study.baseline]
        for pair in dict.fromkeys([*with_baseline, *((claim.than, claim.better) for claim in study.claims)]):
            first, second = pair
            rows = compare_results(averages[first], averages[second], measures)
            mine = [
                _test(model, task, measure, row, pair, (seeds[first], seeds[second]))
                for measure, some in rows.items()
                for row in some
                if measure in seeds[first][0].get(row.name, {})  # settings and groups, not cells
            ]
            tests += mine if pair in with_baseline else []
            for claim in study.claims:
                asked = claim.than, claim.better, claim.setting, claim.measure
                claimed += [(claim, test) for test in mine if asked == (*pair, test.where, test.measure)]
    judged = _corrected([test for _, test in claimed], ["claims"] * len(claimed))
    verdicts = [Verdict(claim, test, _verdict(test)) for (claim, _), test in zip(claimed, judged, strict=True)]
    verdicts.sort(key=lambda verdict: study.claims.index(verdict.claim))
    families = [f"{test.measure} of {'settings' if test.where in SETTINGS else 'groups'}" for test in tests]
    return Outcome(values, _corrected(tests, families), verdicts, means)


def average(results: Sequence[Result], measures: Sequence[str], name: str) -> Result:
    """The values of each query, averaged over results of one task; without measures that are not asked for.

    Raises:
        DataError: results with different queries.
    """
    cells = []
    for same in zip(*(result.cells for result in results), strict=True):
        if any((cell.cell, cell.query_ids) != (same[0].cell, same[0].query_ids) for cell in same):
            raise DataError(
                f"{name}: results of {results[0].task['name']} with different queries in {same[0].cell.name}"
            )
        kept = [measure for measure in parse_all(measures) if measure.name in same[0].values]
        per_query = {m.column: np.mean([cell.per_query[m.column] for cell in same], axis=0) for m in kept}
        values = {m.name: m.aggregate(per_query[m.column]) for m in kept}
        cells.append(replace(same[0], per_query=per_query, values=values))
    keys = [result.model["fingerprint"] for result in results]
    model = {"name": name, "fingerprint": fingerprint({"mean": keys}), "slug": name, "identity": {"mean": keys}}
    return replace(results[0], model=model, cells=cells, ranks=None)


def macro_means(result: Result) -> dict[str, dict[str, float]]:
    """Setting or group of languages -> measure -> macro mean."""
    grouped = {
        f"{name}: {where}: {group}": one["values"]
        for name, grouping in result.groups().items()
        for where, some in grouping.items()
        if where != "languages"
        for group, one in some.items()
    }
    return result.summary() | grouped


def t_interval(values: Sequence[float]) -> Ends | None:
    """Student's t interval of the mean of independent values; None for fewer than two."""
    from scipy import stats

    if len(values) < 2:
        return None
    n, mean = len(values), math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return mean - reach, mean + reach


Means = Sequence[Mapping[str, Mapping[str, float]]]  # of each seed, as `macro_means`


def _values(model: str, task: str, variant: str, seeds: Means, mean: Result, measures: Sequence[str]) -> list[Value]:
    found = []
    for measure in measures:
        for where in [where for where, values in seeds[0].items() if measure in values]:
            each = [values[where][measure] for values in seeds]
            ends = mean.intervals.get(where, {}).get(measure)
            over_queries = (ends[0], ends[1]) if ends else None
            value = math.fsum(each) / len(each)
            found.append(Value(model, task, where, measure, variant, value, each, t_interval(each), over_queries))
    return found


def _test(
    model: str, task: str, measure: str, row: Comparison, names: tuple[str, str], seeds: tuple[Means, Means]
) -> Test:
    first, second = seeds
    gaps = [b[row.name][measure] - a[row.name][measure] for a, b in zip(first, second, strict=True)]
    agree = sum(gap * row.difference > 0 for gap in gaps)
    ends = row.interval.low, row.interval.high
    key = model, task, row.name, measure, *names
    return Test(*key, row.difference, t_interval(gaps), ends, row.p, row.p, agree, len(gaps))


def _corrected(tests: Sequence[Test], families: Sequence[str]) -> list[Test]:
    """With p corrected by Holm in each family."""
    found = list(tests)
    for family in dict.fromkeys(families):
        places = [i for i, name in enumerate(families) if name == family]
        for i, p in zip(places, holm(np.array([tests[i].p for i in places])).tolist(), strict=True):
            found[i] = tests[i]._replace(p_holm=p)
    return found


def _verdict(test: Test) -> Literal["confirmed", "not confirmed", "contradicted"]:
    if not test.p_holm < ALPHA or test.agree < test.seeds:  # else it would be of these models, not of how they are made
        return "not confirmed"
    (measure,) = parse_all([test.measure])
    return "confirmed" if (test.difference < 0) == measure.lower_is_better else "contradicted"
