"""Search of one shard on a device of torch against NumPy, side by side in one run.

    make bench

prints the ratios; nothing is asserted about time, only that both find the same. The device is the GPU that torch sees,
otherwise the processor, by torch: that shows that the comparison runs, not what a GPU gives.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xbench.accelerator import describe, find
from xbench.ranking import Pool, passages_above
from xbench.records import Judged
from xbench.shards import ROWS
from xbench.top import first_passages

DIMENSION, QUERIES, RELEVANT, DEPTH, ROUNDS = 768, 2_000, 3, 100, 5


def clock(search: Callable[[str | None], Any], device: str | None) -> tuple[float, Any]:
    start = time.perf_counter()
    done = search(device)
    return time.perf_counter() - start, done


@pytest.mark.benchmark
def test_a_shard_on_a_device_and_by_numpy() -> None:
    rng = np.random.default_rng(0)
    queries, passages = (rng.standard_normal((n, DIMENSION), dtype=np.float32) for n in (QUERIES, ROWS))
    for matrix in (queries, passages):
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    rows = rng.choice(ROWS, QUERIES * RELEVANT, replace=False)
    passages[rows] += np.repeat(queries, RELEVANT, axis=0) / 5  # they come among the first, as those of a model do
    pool = Pool([passages], [f"{row:06}" for row in range(ROWS)])
    judged = Judged(np.arange(0, len(rows) + 1, RELEVANT), rows, np.ones(len(rows), np.int64))
    device = find() or "cpu"
    searches: dict[str, Callable[[str | None], Any]] = {
        "counts": lambda where: passages_above([queries], pool, judged, device=where),
        f"first {DEPTH}": lambda where: first_passages([queries], pool, DEPTH, device=where),
    }
    print(f"{QUERIES} queries, {ROWS} passages, d = {DIMENSION}: {describe(device)} against {describe(None)}")
    for name, search in searches.items():
        search(device)  # once, for what starts only once
        ratios = []
        for _ in range(ROUNDS):
            (numpy, expected), (torch, found) = (clock(search, where) for where in (None, device))
            assert found.tobytes() == expected.tobytes()
            ratios.append(torch / numpy)
            print(f"{name}: numpy {numpy:.2f} s, device {torch:.2f} s")
        print(f"{name}, device / numpy: median {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
