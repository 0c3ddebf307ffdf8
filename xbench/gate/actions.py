"""Verdicts for GitHub Actions: annotations by workflow commands, and text that is none.

The escapes are those of actions/toolkit, `packages/core/src/command.ts`.
"""

from collections.abc import Sequence

from xbench.gate.check import Verdict
from xbench.gate.report import blind, headline, sentence, why
from xbench.tables import Table, Value, shown

MOST = 8  # errors of one verdict: GitHub shows ten a step


def annotations(verdicts: Sequence[Verdict]) -> list[str]:
    """One command a line: a notice or an error a verdict, an error a failed test, a warning of what cannot be seen."""
    found = []
    for verdict in verdicts:
        title = f"xbench check {verdict.task}"
        found.append(_command("error" if verdict.failed else "notice", title, headline(verdict)))
        errors = [sentence(test) for test in verdict.tests if test.status == "fails"]
        errors += [f"{drift.cell}: {why(drift)[0]}" for drift in verdict.drifts if drift.unexplained]
        found += [_command("error", title, message) for message in errors[:MOST]]
        if note := blind(verdict.tests):
            found.append(_command("warning", title, note))
    return found


def inert(table: Table) -> Table:
    """A table whose texts are no workflow commands, at whatever place a line of them begins."""

    def text(value: Value) -> Value:
        return value.replace("::", ": :").replace("##[", "## [") if isinstance(value, str) else value

    rows = [[text(value) for value in row] for row in table.rows]
    return Table(str(text(table.title)), [str(text(column)) for column in table.columns], rows)


def _command(kind: str, title: str, message: str) -> str:
    def data(text: str) -> str:
        return shown(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    name = data(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={name}::{data(message)}"
