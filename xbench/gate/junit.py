"""Verdicts as JUnit XML, one test case a test."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from xbench.gate.check import Verdict
from xbench.gate.losses import Status
from xbench.gate.report import headline, label, sentence, why
from xbench.tables import shown


class _Case(NamedTuple):
    name: str
    status: Status
    message: str
    details: str


def junit(verdicts: Sequence[Verdict]) -> bytes:
    """UTF-8; nothing in it differs between two runs. What a test cannot tell is skipped.

    The form is that of Jenkins' xunit plugin: testsuites, testsuite, testcase, failure, skipped.
    """
    root = Element("testsuites", name="xbench check")
    for verdict in verdicts:
        cases = _cases(verdict)
        suite = SubElement(
            root,
            "testsuite",
            name=shown(f"xbench check {verdict.task}"),
            tests=str(len(cases)),
            failures=str(sum(case.status == "fails" for case in cases)),
            errors="0",
            skipped=str(sum(case.status == "cannot tell" for case in cases)),
        )
        for case in cases:
            found = SubElement(suite, "testcase", classname=shown(f"xbench.check.{verdict.task}"), name=case.name)
            if case.status == "fails":
                SubElement(found, "failure", message=case.message, type="regression").text = case.details
            elif case.status == "cannot tell":
                SubElement(found, "skipped", message=case.message)
            else:
                SubElement(found, "system-out").text = case.message
        SubElement(suite, "system-out").text = shown(headline(verdict))
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _cases(verdict: Verdict) -> list[_Case]:
    """`shown` leaves no character that XML forbids."""
    tests = [_Case(shown(label(t)), t.status, shown(sentence(t)), shown(sentence(t))) for t in verdict.tests]
    for drift in verdict.drifts:
        bad = drift.unexplained
        told = f"{len(bad)} of {drift.values} values moved" + (" unexplained" if verdict.tier == "B" else "")
        details = "\n".join(shown(line) for line in why(drift))
        tests.append(_Case(shown(drift.cell), "fails" if bad else "passes", told, details))
    return tests
