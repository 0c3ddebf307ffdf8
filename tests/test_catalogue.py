"""Names of measures, and how per-query values become one."""

import math
import statistics
from fractions import Fraction

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xbench.catalogue import BIAS, FAMILIES, Measure, parse, parse_all
from xbench.errors import UsageError
from xbench.records import Ranked

NAMES = """AP=AP MAP=AP mAP@20=AP@20 RR=RR MRR=RR MRR@10=RR@10 R@7=R@7 Recall@100=R@100 P@1=P@1 Precision@5=P@5
NDCG=nDCG nDCG@010=nDCG@10 NDCG@10=nDCG@10 Rprec=Rprec RPrec=Rprec Success@1=Success@1 RankDistance=RankDistance
RankDistanceMedian=RankDistanceMedian nRankDistance=nRankDistance XtremeAP@20=XtremeAP@20 Complete@11=Complete@11
SameLanguageShare@10=SameLanguageShare@10 SameLanguageLift@10=SameLanguageLift@10 PEER@20=PEER@20 MRC@5=MRC@5
SameLanguageWrongFirst=SameLanguageWrongFirst AlignmentViolation=AlignmentViolation AWRF@10=AWRF@10
LanguageDivergence@10=LanguageDivergence@10 OtherLanguagesAP=OtherLanguagesAP nDCG()@10=nDCG@10
EM@1=EM@1 HasAnswer@1=HasAnswer@1"""
OURS = ("XtremeAP", "Complete", "EM", "HasAnswer")  # of any pool, but not in ir-measures


@pytest.mark.parametrize("pair", NAMES.split())
def test_names(pair: str) -> None:
    text, name = pair.split("=")
    head, _, tail = name.partition("@")
    measure = parse(f" {text} ")
    assert measure == Measure(name, head, int(tail) if tail else math.inf) == parse(measure.name)
    about_languages = head.startswith(
        ("Rank", "nRank", "Same", "Alignment", "Language", "Other", "AWRF", "PEER", "MRC")
    )
    assert measure.multi_only == about_languages
    assert measure.column == name.removesuffix("Median") and measure.statistic == (
        "median" if "Med" in name else "mean"
    )
    if not about_languages:
        assert measure(Ranked(np.zeros(1, np.int64), np.zeros(0), np.zeros(0, np.int64), 20)).shape == (0,)
    if not about_languages and head not in OURS and text not in ("mAP@20", "RPrec", "nDCG@010"):
        assert ir_measures.parse_measure(text) == ir_measures.parse_measure(name)


def test_what_only_ir_measures_has() -> None:
    for text, name in {"Bpref": "Bpref", "P(rel=2)@5": "P(rel=2)@5", "BPref": "Bpref", "ERR@20": "ERR@20"}.items():
        measure = parse(text)
        assert (measure.name, measure.statistic, measure.multi_only) == (name, "mean", False)
        assert measure.foreign == ir_measures.parse_measure(text)
        assert measure.aggregate(np.array([0.25, 0.5])) == 0.375
    assert parse("NumRet").statistic is None and parse("NumRet").aggregate(np.array([3.0, 4.0])) == 7
    with pytest.raises(UsageError, match="no installed package computes it"):
        parse("alpha_nDCG@10")


def test_the_bias_list_is_of_known_measures() -> None:
    assert [parse(name.format(k=7)).name for name in BIAS] == [name.format(k=7) for name in BIAS]
    assert all(parse(name.format(k=7)).multi_only for name in BIAS if name not in ("AP", "Complete@{k}"))


WRONG = {
    "unknown measure '.*'; did you mean 'nDCG'": ["nDGC@10", "ndcg@10"],
    "did you mean 'Success@k'": ["Succes@5"],
    "unknown measure '.*'; known: AP, AWRF@k, ": ["xyz", ""],
    "unknown measure '@10'": ["@10"],
    "R needs a cut-off; write R@10": ["R", "Recall"],
    "(P|Success) needs a cut-off": ["P", "Success"],
    "(Rprec|RankDistance) has no cut-off; write": ["Rprec@10", "RPrec@", "RankDistance@10", "nRankDistance@1"],
    "not a positive whole number": [f"P@{k}" for k in ("", "-1", "+1", "1.0", "1_0", "1@2", *"0x\uff11\u00b2")],
}


@pytest.mark.parametrize(("message", "text"), [(message, text) for message in WRONG for text in WRONG[message]])
def test_wrong_names(message: str, text: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)


@pytest.mark.parametrize("digits", [400, 5000])
def test_an_absurd_cutoff_is_refused(digits: int) -> None:
    with pytest.raises(UsageError, match="cut-off"):
        parse("P@1" + "0" * digits)


def test_each_measure_once() -> None:
    assert [m.name for m in parse_all(("MRR@10", "nDCG@10", "RR@10", "NDCG@010", "AP"))] == ["RR@10", "nDCG@10", "AP"]
    assert {pair.split("=")[1].partition("@")[0] for pair in NAMES.split()} == set(FAMILIES)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
@settings(deadline=None, max_examples=200)
def test_means_are_of_exact_sums_and_medians_medians(values: list[float]) -> None:
    for order in map(np.array, (values, sorted(values))):
        assert parse("AP").aggregate(order) == float(sum(map(Fraction, values))) / len(values)
        assert parse("RankDistanceMedian").aggregate(order) == pytest.approx(statistics.median(values))


def test_aggregates_by_hand() -> None:
    values = np.array([1e16, 1.0, -1e16, 5.0])
    assert (parse("RankDistance").aggregate(values), parse("RankDistanceMedian").aggregate(values)) == (1.5, 3)
    assert parse("AP").aggregate(np.array([0.1] * 10)) == 0.1  # added one by one, 0.09999999999999999
