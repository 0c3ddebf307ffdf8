"""Progress without a terminal is log lines; steps add up."""

import logging

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
        ("xbench", "encoding queries: 10 of 40 texts, 0.7 a second, about 45 s left"),
        ("xbench", "encoding queries: 20 of 40 texts, 0.3 a second, about 60 s left"),
        ("xbench", "encoding queries: 20 of 40 texts in 60.0 s"),
    ]
