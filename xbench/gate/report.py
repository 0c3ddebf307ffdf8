"""A verdict as tables: their titles say in a sentence what came of it."""

from collections.abc import Sequence

from xbench.gate.check import Verdict
from xbench.gate.drift import GAP, NEAR, Drift, Moved
from xbench.gate.losses import POWER, LossTest
from xbench.tables import Table, Value, render, shown

LISTED = 20  # queries that have moved
SAID = {True: "FAILS", False: "passes"}


def tables(verdict: Verdict) -> list[Table]:
    """What was compared, what failed and, of tests, what could have been seen."""
    found = [] if verdict.tier == "C" else _drifts(verdict)
    return [*found, _tests(verdict), _sight(verdict)] if verdict.tests else found


def headline(verdict: Verdict) -> str:
    """One sentence; names in it are as strangers wrote them."""
    said = f"{verdict.task}: {verdict.candidate} {SAID[verdict.failed]} against {verdict.baseline}"
    failing = [test for test in verdict.tests if test.status == "fails"]
    lost = f"{len(failing)} of {len(verdict.tests)} tests find a loss above the margin"
    lost += f": {', '.join(map(label, failing[:5]))}" if failing else ""
    if verdict.tier == "C":
        return f"{said}: {lost}"
    cells = [drift for drift in verdict.drifts if drift.unexplained]
    values = sum(drift.values for drift in verdict.drifts)
    bad = sum(len(drift.unexplained) for drift in cells)
    if verdict.tier == "A":
        what = f"all {values} values the same" if not bad else f"{bad} of {values} values are others in {_cells(cells)}"
        return f"{said}: same fingerprint, same environment, {what}"
    explained = sum(len(drift.moved) for drift in verdict.drifts) - bad
    where = f"same model in another environment ({', '.join(verdict.moved)})"
    what = f"{bad} of {values} values moved by more than {NEAR:g} unexplained in {_cells(cells)}"
    if not bad:
        what = (
            f"all {values} values within {NEAR:g}" if not explained else f"all but {explained} values within {NEAR:g}"
        )
        what += ", those explained" if explained else ""
    what += f"; {lost}" if failing else ""
    return f"{said}: {where}, {what}"


def label(test: LossTest) -> str:
    """`AP mono`, or `AP mono en` for one query language."""
    return " ".join(part for part in (test.measure, test.setting, test.language) if part)


def sentence(test: LossTest) -> str:
    """What a test found."""
    way = "worse" if test.loss > 0 else "better"
    change = f"{shown(test.baseline)} to {shown(test.value)}, {shown(abs(test.loss))} {way if test.loss else 'away'}"
    return (
        f"{label(test)}: {change} (margin {shown(test.margin)}, p {test.p_holm:.2g} of {test.alpha:g}); "
        f"the smallest loss that it could have seen is {shown(test.detectable)}"
    )


def why(drift: Drift) -> list[str]:
    """A line for each value that moved unexplained, the first LISTED."""
    lines = [f"{one.measure} of {one.query_id}: {one.baseline!r} to {one.value!r}" for one in drift.unexplained]
    more = len(lines) - LISTED
    return lines[:LISTED] + ([f"and {more} more"] if more > 0 else [])


def blind(tests: Sequence[LossTest]) -> str:
    """What would most likely have passed though it matters; empty if nothing."""
    pooled = [test for test in tests if test.blind and not test.language]
    if not pooled:
        return ""
    seen = ", ".join(
        f"{label(test)} {'none' if test.detectable is None else shown(test.detectable)} ({shown(test.worth)} matters)"
        for test in pooled
    )
    return f"too few queries: smaller losses would most likely have passed; the smallest seen: {seen}"


def markdown(verdicts: Sequence[Verdict]) -> str:
    """The summary of a CI job."""
    return render([table for verdict in verdicts for table in tables(verdict)], "md") + "\n"


def _tests(verdict: Verdict) -> Table:
    columns = ["test", "queries", "baseline", "value", "loss", "margin", "p", "p Holm", "detectable", "status"]
    rows: list[list[Value]] = []
    for t in verdict.tests:
        values = [t.baseline, t.value, t.loss, t.margin, t.p, t.p_holm, t.detectable]
        rows.append([label(t), t.queries, *values, t.status])
    return Table(headline(verdict), columns, rows)


def _sight(verdict: Verdict) -> Table:
    """The smallest losses, one row a measure and setting."""
    rows: list[list[Value]] = []
    for test in verdict.tests:
        if not test.language:
            key = test.measure, test.setting
            single = [t.detectable for t in verdict.tests if t.language and (t.measure, t.setting) == key]
            seen = [one for one in single if one is not None]
            most = max(seen) if seen and len(seen) == len(single) else None
            rows.append([label(test), test.clusters, test.detectable, min(seen, default=None), most])
    note = blind(verdict.tests)
    title = f"{verdict.task}: the smallest true loss that fails with a power of {POWER:.0%}"
    columns = ["test", "clusters", "all languages", "one language: from", "to"]
    return Table(f"{title}; {note}" if note else title, columns, rows)


def _drifts(verdict: Verdict) -> list[Table]:
    changed = [drift for drift in verdict.drifts if drift.moved or drift.within]
    columns = ["cell", "queries", "values", f"moved within {NEAR:g}", "beyond", "explained", "largest difference"]
    rows: list[list[Value]] = []
    for d in changed:
        far = len(d.moved)
        rows.append([d.cell, d.queries, d.values, d.within, far, far - len(d.unexplained), d.largest])
    if not rows:
        every = verdict.drifts
        rows.append([f"all {len(every)}", sum(d.queries for d in every), sum(d.values for d in every), 0, 0, 0, 0.0])
    found = [Table(headline(verdict), columns, rows)]
    moved = [(drift.cell, one) for drift in changed for one in drift.moved]
    if moved:
        lines = [_moved(cell, one) for cell, one in sorted(moved, key=lambda pair: pair[1].explained)[:LISTED]]
        title = f"{verdict.task}: the first {len(lines)} of {len(moved)} values that moved; gaps are of score"
        columns = ["cell", "query", "measure", "baseline", "value", "gap", "explained"]
        found.append(Table(f"{title}, explained below {GAP:g}" if verdict.tier == "B" else title, columns, lines))
    return found


def _moved(cell: str, one: Moved) -> list[Value]:
    told = "yes" if one.explained else "no" if one.gap is not None else "not known"
    return [cell, one.query_id, one.measure, repr(one.baseline), repr(one.value), _gap(one.gap), told]


def _gap(gap: float | None) -> Value:
    return None if gap is None else f"{gap:.2g}"


def _cells(cells: Sequence[Drift]) -> str:
    names = ", ".join(drift.cell for drift in cells[:5])
    return f"{len(cells)} cells: {names}"
