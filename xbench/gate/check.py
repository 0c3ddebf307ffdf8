"""The CI gate: is a result as good as its baseline?"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xbench.catalogue import Measure
from xbench.errors import DataError
from xbench.gate.drift import Drift, drifts, explain
from xbench.gate.losses import LossTest, Rules, loss_tests
from xbench.gate.pairs import Tier, means, moved, names, only, same_queries, same_task, tier
from xbench.records import Cell
from xbench.results import Result


@dataclass(frozen=True)
class Verdict:
    """What came of a result and its baseline."""

    task: str
    baseline: str  # name of the model
    candidate: str
    tier: Tier
    drifts: list[Drift] = field(default_factory=list)  # one a cell; tiers A and B
    tests: list[LossTest] = field(default_factory=list)  # tier C; of tier B where values moved
    moved: list[str] = field(default_factory=list)  # what of the environments differs

    @property
    def failed(self) -> bool:
        """Whether it is a regression."""
        return any(drift.unexplained for drift in self.drifts) or any(test.status == "fails" for test in self.tests)


def baseline_of(path: Path, given: Path) -> Path:
    """The baseline of a result: the file given, or the file of the same name in the folder given.

    Raises:
        DataError: there is none.
    """
    found = given / path.name if given.is_dir() else given
    if not found.is_file():
        raise DataError(f"{found}: no such file; expected the baseline of {path}, a result of the same task")
    return found


def check(
    paths: tuple[Path, Path],
    results: tuple[Result, Result],
    measures: Sequence[Measure],
    cells: Sequence[Cell],
    rules: Rules | None = None,
) -> Verdict:
    """Whether the second of two results, the candidate, is a regression from the first, the baseline.

    In tier A (same fingerprint, same environment) every value must be the same number. In tier B (same model in
    another environment) every value must be within 1e-6, or the passages that changed places as good as equal in
    score, and then the tests of tier C must find no loss either. In tier C (another model) a paired test must
    find no loss above the margin: see `losses.loss_tests`.

    Args:
        paths: of the two files, beside which the runs may lie that explain a change in tier B.
        results: baseline and candidate.
        measures: means that both have; in tiers A and B all others that both have are looked at too.
        cells: which must be there.
        rules: of tier C.

    Raises:
        DataError: results of different tasks, with different pools or queries, or without a value of a query.
        IncompleteError: a cell is missing, or a run lacks queries.
        UsageError: a measure that is no mean or that one of the results has not; no value of it in these cells.
    """
    same_task(*results)
    baseline, candidate = (replace(result, cells=only(result, cells)) for result in results)
    said = (names(results)[0], names(results)[1])
    same_queries(baseline.cells, candidate.cells, said)
    rules = rules or Rules()
    pairs = means((baseline, candidate), measures, rules.cluster)
    task, which = str(baseline.task["name"]), tier(baseline, candidate)
    if which == "C":
        found = loss_tests({measure: pairs[measure.name] for measure in measures}, cells, rules)
        return Verdict(task, *said, which, tests=found)
    same = drifts(baseline.cells, candidate.cells, exact=which == "A")
    lost: list[LossTest] = []
    if which == "B":
        same = explain(same, (baseline, candidate), paths)
        if any(drift.moved for drift in same):
            # That near ties changed places explains a value that moved, not that they all moved down.
            lost = loss_tests({measure: pairs[measure.name] for measure in measures}, cells, rules)
    return Verdict(task, *said, which, drifts=same, tests=lost, moved=moved(baseline, candidate))
