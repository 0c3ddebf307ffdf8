"""The page of a board of 200 entries, 132 cells each and three measures: how long to build, how big, how quick.

    pytest -s -m benchmark tests/benchmarks/test_page_speed.py     (XBENCH_BENCH_ENTRIES=200)

Asked for: a build within 10 s of processor, less than 2 MB, and each act of a reader within 100 ms in Chromium, styles
and layout included. Held to that is the processor's time of the page's thread, which other work on the machine does not
change much; the wall's is printed beside it. Of five rounds, the median.
"""

import os
import statistics
import time
from pathlib import Path

import pytest
from conftest import chromium
from sheets import sheet

from xbench.leaderboard.page import page

pytestmark = pytest.mark.benchmark
ENTRIES = int(os.environ.get("XBENCH_BENCH_ENTRIES", "200"))
HEAD, FIRST = "document.querySelectorAll('#board thead button')[{}]", "document.querySelector('#board tbody button')"
BOX, PICK = "document.getElementById('filter')", "document.querySelector('dialog select')"
ACTS = {
    "sort by a value": f"{HEAD.format(3)}.click()",
    "sort by rank distance": f"{HEAD.format(6)}.click()",
    "sort by name": f"{HEAD.format(1)}.click()",
    "filter": f"{BOX}.value = 'model-01'; {BOX}.dispatchEvent(new Event('input'))",
    "show all": f"{BOX}.value = ''; {BOX}.dispatchEvent(new Event('input'))",
    "open a row": f"{FIRST}.click()",
    "other measure": f"{PICK}.selectedIndex ^= 1; {PICK}.dispatchEvent(new Event('change'))",
    "close": "document.querySelector('dialog header button').click()",
}


def test_a_big_board(tmp_path: Path) -> None:
    made = sheet(ENTRIES)
    page(sheet(2))  # imports
    wall, cpu = time.perf_counter(), time.process_time()
    text = page(made)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    size = len(text.encode())
    print(f"\n{ENTRIES} entries: built in {cpu:.2f} s of processor ({wall:.2f} s), {size / 1e6:.2f} MB")
    assert cpu < 10 and size < 2e6
    if (found := chromium()) is None:
        pytest.skip("NO BROWSER: set XBENCH_CHROMIUM, or apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="NO BROWSER: pip install playwright")
    (tmp_path / "board.html").write_text(text, encoding="utf-8")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        one = browser.new_page(viewport={"width": 1440, "height": 900})
        one.goto((tmp_path / "board.html").as_uri())
        loaded = one.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
        asked = one.context.new_cdp_session(one)
        asked.send("Performance.enable", {"timeDomain": "threadTicks"})

        def busy() -> float:
            """Seconds of processor that the page's thread has had."""
            return {m["name"]: m["value"] for m in asked.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

        cpus: dict[str, list[float]] = {what: [] for what in ACTS}
        walls: dict[str, list[float]] = {what: [] for what in ACTS}
        for _ in range(5):
            for what, act in ACTS.items():
                before = busy()
                # The last number asked for needs the layout to be done.
                code = f"() => {{ const t = performance.now(); {act}; document.body.getBoundingClientRect().height;"
                took = one.evaluate(f"{code} return performance.now() - t; }}")
                cpus[what].append(1000 * (busy() - before))
                walls[what].append(took)
        browser.close()
    cpu_ms, wall_ms = ({what: statistics.median(x) for what, x in some.items()} for some in (cpus, walls))
    print(f"loaded in {loaded:.0f} ms; processor (wall), the median of five:")
    print("\n".join(f"{what:22} {cpu_ms[what]:4.0f} ms ({wall_ms[what]:.0f} ms)" for what in ACTS))
    assert max(cpu_ms.values()) < 100
