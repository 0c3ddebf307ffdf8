"""Whether a changed model is worse (tier C): one-sided paired tests of settings and of query languages."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from xbench.catalogue import Measure
from xbench.gate.compare import FLIPS
from xbench.intervals import SEED, settings
from xbench.paired import Worse, holm, worse
from xbench.records import Cell
from xbench.stats import Sample
from xbench.task import SETTINGS

POWER = 0.8
# What a gate should see at least: a point; where values have no bound, this share of the baseline's.
WORTH, WORTH_RELATIVE = 0.01, 0.05
HITS = 10  # of random flips that p at its first limit is made of, at least

Status = Literal["fails", "passes", "cannot tell"]


class Rules(NamedTuple):
    """When a loss is a regression."""

    alpha: float = 0.01  # of a false alarm of all tests together
    margin: float = 0.002  # a loss up to this never fails; of measures from 0 to 1
    relative: float = 0.01  # the same for all other measures, times the baseline's value
    cluster: str = "paragraph"
    flips: int = FLIPS


class LossTest(NamedTuple):
    """A setting, or one query language of it."""

    measure: str
    setting: str
    language: str  # empty: all
    queries: int
    clusters: int
    baseline: float
    value: float
    loss: float  # how much worse than the baseline; negative: better
    margin: float
    p: float  # one-sided
    p_holm: float
    alpha: float  # of the family
    detectable: float | None  # smallest loss that fails with a power of 80 %, found first or alone
    worth: float  # what it should see
    wins: int
    losses: int
    error: float  # standard error of the loss

    @property
    def status(self) -> Status:
        """A significant loss above the margin fails; where p cannot get low enough, nothing can."""
        if self.p_holm <= self.alpha and self.loss > self.margin:
            return "fails"
        return "cannot tell" if self.detectable is None and self.wins + self.losses else "passes"

    @property
    def blind(self) -> bool:
        """Whether a loss that matters would most likely have passed."""
        return self.status != "fails" and self.wins + self.losses > 0 and (self.detectable or math.inf) > self.worth


def loss_tests(pairs: Mapping[Measure, Sequence[Sample]], cells: Sequence[Cell], rules: Rules) -> list[LossTest]:
    """One a measure and setting, and one for each query language of it where there are several.

    Two families, each with half of alpha by Holm (1979): all settings of all measures, and all languages of these.
    So a false alarm of any is no likelier than alpha, however they depend on each other.

    Args:
        pairs: measure -> the samples of baseline and candidate, with the same queries.
        cells: those of the samples, and maybe more.
        rules: margins, alpha, flips.
    """
    language = {cell.name: cell.query_language for cell in cells}
    groups: dict[Measure, dict[tuple[str, str], list[str]]] = {}
    for measure, (before, _) in pairs.items():
        mine = groups.setdefault(measure, {})
        there = settings(before)
        for setting in filter(there.__contains__, SETTINGS):
            names = there[setting]
            mine[setting, ""] = names
            asked = dict.fromkeys(language[name] for name in names)
            if len(asked) > 1:
                mine |= {(setting, a): [name for name in names if language[name] == a] for a in asked}
    single = [bool(a) for mine in groups.values() for _, a in mine]
    sizes = {True: sum(single), False: len(single) - sum(single)}
    alpha = rules.alpha / 2 if sizes[True] else rules.alpha
    found: list[LossTest] = []
    for measure, (before, after) in pairs.items():
        keys = list(groups[measure])
        most = max(sizes.values())
        rows = worse(
            before,
            after,
            {f"{setting} {a}": groups[measure][setting, a] for setting, a in keys},
            higher_is_better=not measure.lower_is_better,
            flips=max(rules.flips, math.ceil(HITS * most / alpha)),
            seed=SEED,
            power=POWER,
            alphas=[alpha / sizes[bool(a)] for _, a in keys],
        )
        found += [_test(measure, key, row, alpha, rules) for key, row in zip(keys, rows, strict=True)]
    for kind in (False, True):
        places = [i for i, one in enumerate(single) if one is kind]
        for i, p in zip(places, holm(np.array([found[i].p for i in places])), strict=True):
            found[i] = found[i]._replace(p_holm=float(p))
    return found


def _test(measure: Measure, key: tuple[str, str], row: Worse, alpha: float, rules: Rules) -> LossTest:
    setting, language = key
    scale = abs(row.first)
    margin, worth = (rules.margin, WORTH) if measure.bounded else (rules.relative * scale, WORTH_RELATIVE * scale)
    least = row.detectable
    if least is not None:
        # To be found, a loss must pass the test and, in the sample, the margin.
        from scipy import stats

        least = max(least, margin + float(stats.t.isf(1 - POWER, row.clusters - 1)) * row.error)
    loss = row.second - row.first if measure.lower_is_better else row.first - row.second
    return LossTest(
        measure=measure.name,
        setting=setting,
        language=language,
        queries=row.queries,
        clusters=row.clusters,
        baseline=row.first,
        value=row.second,
        loss=loss,
        margin=margin,
        p=row.p,
        p_holm=row.p,
        alpha=alpha,
        detectable=least,
        worth=worth,
        wins=row.wins,
        losses=row.losses,
        error=row.error,
    )
