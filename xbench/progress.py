"""Progress on standard error: a bar on a terminal, plain log lines elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

log = logging.getLogger("xbench")
# Seconds between two log lines where there is no terminal.
INTERVAL = 15.0


@contextlib.contextmanager
def track(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
    """Show how far `what` is; yields the function to call with each number of steps done.

    Args:
        what: shown in front, such as `encoding queries`.
        total: steps in all.
        unit: of a step, such as `texts`, or `bytes`.
    """
    done, started = 0, time.monotonic()
    last = started

    def rate() -> str:
        found = done / max(time.monotonic() - started, 1e-3)
        return f"{found:,.0f} a second" if found >= 10 else f"{found:.1f} a second"

    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        shown = TextColumn("{task.fields[rate]}")
        with Progress(*columns, shown, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"{what} ({unit})" if unit else what, total=total, rate="")

            def step(steps: int) -> None:
                nonlocal done
                done += steps
                bar.update(task, advance=steps, rate=rate())

            yield step
        return

    def advance(steps: int) -> None:
        nonlocal done, last
        done += steps
        if time.monotonic() - last >= INTERVAL:
            last = time.monotonic()
            left = (last - started) * (total - done) / max(done, 1)
            log.info("%s: %d of %d %s, %s, about %.0f s left", what, done, total, unit, rate(), left)

    yield advance
    log.info("%s: %d of %d %s in %.1f s", what, done, total, unit, time.monotonic() - started)
