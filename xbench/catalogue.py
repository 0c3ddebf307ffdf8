"""The names of measures, in ir-measures' spelling, and how their values become one."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench import bias, measures
from xbench.errors import UsageError, unknown
from xbench.records import Ranked

Floats = NDArray[np.float64]


class _Family(NamedTuple):
    function: Callable[[Ranked, float], Floats]
    cutoff: str = "optional"  # or "required", "none", "one"
    multi_only: bool = False
    median: bool = False
    lower_is_better: bool = False
    of_answers: bool = False
    unbounded: bool = False


FAMILIES = {
    "AP": _Family(measures.average_precision),
    "RR": _Family(measures.reciprocal_rank),
    "nDCG": _Family(measures.ndcg),
    "R": _Family(measures.recall, "required"),
    "P": _Family(measures.precision, "required"),
    "Success": _Family(measures.success, "required"),
    "Rprec": _Family(measures.r_precision, "none"),
    "XtremeAP": _Family(measures.xtreme_average_precision, "required"),
    "Complete": _Family(measures.complete, "required"),
    "EM": _Family(measures.exact_match, "one", of_answers=True),
    "HasAnswer": _Family(measures.has_answer, "one", of_answers=True),
    "RankDistance": _Family(bias.rank_distance, "none", multi_only=True, lower_is_better=True, unbounded=True),
    "RankDistanceMedian": _Family(
        bias.rank_distance, "none", multi_only=True, median=True, lower_is_better=True, unbounded=True
    ),
    "nRankDistance": _Family(bias.normalised_rank_distance, "none", multi_only=True, lower_is_better=True),
    "SameLanguageShare": _Family(bias.same_language_share, "required", multi_only=True, lower_is_better=True),
    "SameLanguageLift": _Family(
        bias.same_language_lift, "required", multi_only=True, lower_is_better=True, unbounded=True
    ),
    "SameLanguageWrongFirst": _Family(bias.same_language_wrong_first, "none", multi_only=True, lower_is_better=True),
    "AlignmentViolation": _Family(bias.alignment_violation, "none", multi_only=True, lower_is_better=True),
    "OtherLanguagesAP": _Family(bias.other_languages_precision, "none", multi_only=True),
    "LanguageDivergence": _Family(bias.language_divergence, "required", multi_only=True, lower_is_better=True),
    "AWRF": _Family(bias.attention_weighted_rank_fairness, "required", multi_only=True),
    "PEER": _Family(bias.equal_expected_rank, "required", multi_only=True),
    "MRC": _Family(bias.ranking_consistency, "required", multi_only=True),
}
# ir-measures' own aliases, and the spellings papers use.
ALIASES = {"MAP": "AP", "mAP": "AP", "MRR": "RR", "Recall": "R", "NDCG": "nDCG", "Precision": "P", "RPrec": "Rprec"}
# What `xbench bias` prints, with its cut-off.
BIAS = (
    "RankDistance",
    "RankDistanceMedian",
    "nRankDistance",
    "SameLanguageShare@{k}",
    "SameLanguageLift@{k}",
    "SameLanguageWrongFirst",
    "AlignmentViolation",
    "AP",
    "OtherLanguagesAP",
    "Complete@{k}",
    "LanguageDivergence@{k}",
    "AWRF@{k}",
    "PEER@{k}",
    "MRC@{k}",
)


class Measure(NamedTuple):
    """A measure with its cut-off, if it has one; `name` is its one spelling.

    `foreign` is ir-measures' object for one that is no function of the ranks of the relevant
    passages here: it has values for runs only, computed by ir-measures.
    """

    name: str
    family: str
    k: float
    foreign: Any = None

    def __call__(self, ranked: Ranked) -> Floats:
        """float64 (n,): the value of each query; NaN where it has none."""
        return FAMILIES[self.family].function(ranked, self.k)

    @property
    def multi_only(self) -> bool:
        """Whether it is about translations or languages in one pool, so undefined in mono and cross cells."""
        return not self.foreign and FAMILIES[self.family].multi_only

    @property
    def of_answers(self) -> bool:
        """Whether it compares answer strings, for which the first passage of every pool must be known."""
        return not self.foreign and FAMILIES[self.family].of_answers

    @property
    def median(self) -> bool:
        """Whether its value is the median over queries instead of the mean."""
        return not self.foreign and FAMILIES[self.family].median

    @property
    def statistic(self) -> Literal["mean", "median"] | None:
        """What its value is of the values of the queries; None where ir-measures makes something else, a sum say."""
        if self.foreign and type(self.foreign.aggregator()).__name__ != "MeanAgg":
            return None
        return "median" if self.median else "mean"

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower value means a better model, as with a distance or a share of wrong passages."""
        return not self.foreign and FAMILIES[self.family].lower_is_better

    @property
    def bounded(self) -> bool:
        """Whether its values lie from 0 to 1, so that a point means the same everywhere; not known of ir-measures'."""
        return not self.foreign and not FAMILIES[self.family].unbounded

    @property
    def column(self) -> str:
        """Its column in the per-query file: a median shares that of its mean."""
        return self.family.removesuffix("Median") if self.median else self.name

    def aggregate(self, values: Floats) -> float:
        """The value of a cell: the mean over queries, exactly summed, or the median, or what ir-measures makes."""
        if self.foreign:
            aggregator = self.foreign.aggregator()
            for value in values:
                aggregator.add(value)
            return float(aggregator.result())
        return float(np.median(values)) if self.median else math.fsum(values) / len(values)


def parse(text: str) -> Measure:
    """The measure of a spelling such as `nDCG@10`, `AP`, `MRR@10` or, through ir-measures, `P(rel=2)@5`.

    Raises:
        UsageError: unknown, a missing or superfluous cut-off, or one that is not a positive number.
    """
    head, at, tail = text.strip().partition("@")
    family = ALIASES.get(head, head)
    if family not in FAMILIES:
        return _foreign(text.strip())
    wish = FAMILIES[family].cutoff
    if at and wish == "none":
        raise UsageError(f"measure {text!r}: {family} has no cut-off; write {family}")
    if not at and wish == "required":
        raise UsageError(f"measure {text!r}: {family} needs a cut-off; write {family}@10, say")
    if at and not re.fullmatch("0*[1-9][0-9]{0,17}", tail):
        raise UsageError(f"measure {text[:60]!r}: the cut-off {tail[:40]!r} is not a positive whole number below 10^18")
    if wish == "one" and (not at or int(tail) != 1):
        raise UsageError(f"measure {text[:60]!r}: {family} is of the first passage alone; write {family}@1")
    return Measure(f"{family}@{int(tail)}" if at else family, family, int(tail) if at else math.inf)


def parse_all(texts: Sequence[str]) -> list[Measure]:
    """Each measure once, in order; as `parse`."""
    return list(dict.fromkeys(parse(text) for text in texts))


def _foreign(text: str) -> Measure:
    """A measure of ir-measures that is not one of ours."""
    import ir_measures

    try:
        found = ir_measures.parse_measure(text)
        supported = ir_measures.DefaultPipeline.supports(found)  # type: ignore[no-untyped-call]
    except (NameError, SyntaxError, ValueError, TypeError, AssertionError, LookupError, AttributeError) as error:
        names = [f + {"required": "@k", "one": "@1"}.get(FAMILIES[f].cutoff, "") for f in FAMILIES]
        raise UsageError(f"{unknown('measure', text, names)}, and for runs those of ir-measures") from error
    if str(found).partition("@")[0] in FAMILIES:  # spelled in a roundabout way, `nDCG()@10`
        return parse(str(found))
    if not supported:
        raise UsageError(f"measure {text!r}: ir-measures knows it, but no installed package computes it")
    return Measure(str(found), "ir-measures", math.inf, found)
