"""All 132 cells of XQuAD-R against the one matrix product that they share, side by side.

    make bench

prints the ratio and the peak memory; nothing is asserted about time, only about memory.
The limit: 13,090 x 13,014 x 768 multiply-adds in float32, 2.6e11 FLOP.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xbench.readers import read
from xbench.tasks import load_task

DIMENSION = 768
ROUNDS = 5
PROGRAM = """
import json, re, sys, time
from pathlib import Path
import numpy as np
from xbench.evaluate import Plan, evaluate
from xbench.models import load
from xbench.tasks import load_task

folder, data, cache, rounds = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
task = load_task("xquad-r")
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def clock(function):
    wall, cpu = time.perf_counter(), time.process_time()
    done = function()
    return time.perf_counter() - wall, time.process_time() - cpu, done

def job():
    result = evaluate(load(f"vectors:{folder}"), task, plan=Plan(cache, data))
    assert len(result.cells) == 132
    return {name: stage["wall_s"] for name, stage in result.timing["stages"].items()}

stages = [clock(job)[2]]
after_job = peak()
stack = lambda role: np.concatenate([np.load(folder / f"{role}.{a}.npy") for a in task.languages])
queries, passages = stack("queries"), stack("passages")

def product():
    for low in range(0, len(queries), 1309):
        queries[low : low + 1309] @ passages.T

product()
rows = []
for _ in range(rounds):
    p = clock(product)
    j = clock(job)
    stages.append(j[2])
    rank = j[2]["rank"] + j[2]["score"]
    rows.append({"product_s": p[0], "product_cpu_s": p[1], "rank_and_score_s": rank, "job_s": j[0]})
print(json.dumps({"rows": rows, "stages": stages[-1], "peak_mb_of_the_job": after_job}))
"""


@pytest.mark.benchmark
def test_all_cells_against_one_product(data: Path, tmp_path: Path) -> None:
    collection = read(load_task("xquad-r"), data)
    rng = np.random.default_rng(0)
    for role in ("queries", "passages"):
        for language, rows in getattr(collection, role).items():
            vectors = rng.standard_normal((len(rows), DIMENSION), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            np.save(tmp_path / f"{role}.{language}.npy", vectors)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(data), str(tmp_path / "cache"), str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    found = json.loads(done.stdout)
    for row in found["rows"]:
        print({key: round(value, 2) for key, value in row.items()})
    for name, top in (("rank and score", "rank_and_score_s"), ("whole job, reading included", "job_s")):
        ratios = sorted(row[top] / row["product_s"] for row in found["rows"])
        print(f"{name} / product: median {ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print("stages", found["stages"], f"peak {found['peak_mb_of_the_job']:.0f} MB")
    assert found["peak_mb_of_the_job"] < 600
