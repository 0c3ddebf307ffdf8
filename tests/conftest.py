"""Shared fixtures: real data where it is at hand, a cache of one's own, no network."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
from checkpoints import copy, make_st, minilm, one_thread, sentence_transformers, st, xlmr  # noqa: F401

ROOT = Path(__file__).parent.parent


def real_data() -> Path | None:
    """The folder of real data: XBENCH_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("XBENCH_DATA") or ROOT.parent / "shared" / "data")
    return folder if (folder / "xquad-r" / "en.json").is_file() else None


def chromium() -> str | None:
    """The browser that pages are tried in: XBENCH_CHROMIUM, else one that the system has."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("XBENCH_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def data() -> Path:
    """Real XQuAD-R and MLQA-R; tests on them are skipped, loudly, where they are absent."""
    folder = real_data()
    if folder is None:
        pytest.skip("NO REAL DATA: set XBENCH_DATA to a folder with xquad-r/ and mlqa-r/")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has an empty cache, and finds data only where it says so."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XBENCH_CACHE", str(folder))
    monkeypatch.delenv("XBENCH_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it once more at the end, where it is read."""
    if real_data() is None:
        terminalreporter.write_line("NO REAL DATA was found: the tests on XQuAD-R and MLQA-R did not run", red=True)
    if chromium() is None or importlib.util.find_spec("playwright") is None:
        terminalreporter.write_line("NO BROWSER was found: the tests of pages in one did not run", red=True)
