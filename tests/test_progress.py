"""Progress without a terminal is log lines, on a terminal a bar; steps add up."""

import io
import logging
import sys

import pytest

from xbench import progress
from xbench.progress import track


def test_log_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "xbench")
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with track("encoding queries", 40, "texts") as advance:
        for seconds in (14.0, 1.0, 14.0, 31.0):
            clock[0] += seconds
            advance(5)
    with pytest.raises(ValueError), track("an end not reached", 10) as advance:
        advance(3)
        raise ValueError
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("xbench", "encoding queries: 10 of 40 texts, about 45 s left"),
        ("xbench", "encoding queries: 20 of 40 texts, about 60 s left"),
        ("xbench", "encoding queries: 20 of 40 texts in 60.0 s"),
    ]


def test_a_bar_on_a_terminal(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "xbench")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with track("fetching ar.json", 10, "bytes") as advance:
        advance(4)
        advance(6)
    assert "fetching ar.json (bytes)" in terminal.getvalue() and "10/10" in terminal.getvalue()
    assert caplog.records == []
