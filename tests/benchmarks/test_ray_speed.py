"""One machine against a Ray cluster of two nodes on it: the same bytes, time as ratios, memory of a worker.

    pytest -s -m benchmark tests/benchmarks/test_ray_speed.py     (XBENCH_BENCH_MILLIONS=0.2,2)

Passages are made up, in MIRACL's format, in files of 500,000. `cheap` costs next to nothing, so that what is measured
is xbench, and Ray at its worst: there is next to nothing to win. `static` is the model that comes along. `waits` gives
5,000 vectors a second without a processor, as if a GPU made them.
The limit of two workers is a ratio of 2; of one worker on the cores of one process, 1.
"""

import filecmp
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import corpora
import pytest
from nodes import cluster

MILLIONS = [float(some) for some in os.environ.get("XBENCH_BENCH_MILLIONS", "0.2,2").split(",")]
FILE_ROWS = 500_000
# Small enough that a worker has a dozen of the smallest corpus, and nobody waits long for the last shard of another.
SHARD_ROWS = 8192


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    corpora.write_encoder(made / "cheap.py")
    corpora.write_encoder(made / "waits.py", delay=1 / 5000)
    for millions in MILLIONS:
        started, rows = time.perf_counter(), round(millions * 1e6)
        sizes = [min(FILE_ROWS, rows - low) for low in range(0, rows, FILE_ROWS)]
        corpora.make(made, f"made-{rows}", {"en": sizes}, queries=1000)
        print(f"\nmade {rows:,} passages in {time.perf_counter() - started:.0f} s")
    return made


def run(folder: Path, rows: int, model: str, name: str, *more: str) -> dict[str, Any]:
    """`xbench run` into a cache and a folder of results of its own; its timing and seconds in all."""
    command = [sys.executable, "-m", "xbench", "run", model, "-t", f"made-{rows}.toml", "--data", "data"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "-o", f"out-{name}", "--setting", "multi", *more],
        cwd=folder,
        env=os.environ | {"XBENCH_CACHE": str(folder / f"cache-{name}")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (timing,) = (folder / f"out-{name}").glob("*/*.timing.json")
    found: dict[str, Any] = json.loads(timing.read_text())
    stages = {stage: some["wall_s"] for stage, some in found["stages"].items()}
    return found | {"all_s": time.perf_counter() - started, "encode_s": stages["encode"], "rank_s": stages["rank"]}


def same(folder: Path, a: str, b: str) -> int:
    """Assert that two runs have left the same bytes; how many files were compared."""
    count = 0
    for kind in (f"cache-{a}/shards", f"out-{a}"):
        files = [p for p in (folder / kind).rglob("*") if p.is_file() and not p.name.endswith(".timing.json")]
        other = folder / kind.replace(f"-{a}", f"-{b}")
        assert len(files) == len([p for p in other.rglob("*") if p.is_file() and ".timing" not in p.name])
        for path in files:
            assert filecmp.cmp(path, other / path.relative_to(folder / kind), shallow=False), path
        count += len(files)
    return count


def show(name: str, one: dict[str, Any], two: dict[str, Any]) -> None:
    parts = [f"{what[:-2]} {one[what]:.1f} -> {two[what]:.1f} s ({one[what] / two[what]:.2f})" for what in KEYS]
    print(f"{name}: {', '.join(parts)}")


KEYS = ("encode_s", "rank_s", "all_s")


@pytest.mark.benchmark
@pytest.mark.timeout(7200)
def test_time_and_memory(folder: Path) -> None:
    peaks = []
    with cluster({"num_cpus": 1}) as nodes:
        for millions in MILLIONS:
            rows = round(millions * 1e6)
            small = ["--shard-rows", str(SHARD_ROWS)]
            alone = run(folder, rows, "py:cheap.py:Cheap", f"alone-{rows}", *small)
            both = run(folder, rows, "py:cheap.py:Cheap", f"both-{rows}", "--ray", nodes.address, *small)
            files = same(folder, f"alone-{rows}", f"both-{rows}")
            workers = both["workers"]
            show(f"cheap, {millions} million, one process -> 2 workers", alone, both)
            print(
                f"  {files} files with the same bytes; peak of a worker {workers['peak_rss_mb']} MB, of the driver "
                f"{both['peak_rss_mb']} MB, of one process {alone['peak_rss_mb']} MB"
            )
            peaks.append(workers["peak_rss_mb"])
            for name in (f"alone-{rows}", f"both-{rows}"):
                subprocess.run(["rm", "-rf", folder / f"cache-{name}"], check=True)
    assert peaks[-1] - peaks[0] < 40, f"the memory of a worker grows with the corpus: {peaks} MB"


@pytest.mark.benchmark
@pytest.mark.timeout(7200)
def test_overhead_and_scaling(folder: Path) -> None:
    """On the smallest corpus: one process that has one core, one worker with one, two workers with one each."""
    rows, small = round(MILLIONS[0] * 1e6), ["--shard-rows", str(SHARD_ROWS)]
    with cluster({"num_cpus": 1}) as nodes:
        for name in ("cheap", "waits", "static"):
            model = "static" if name == "static" else f"py:{name}.py:Cheap"
            os.environ["OMP_NUM_THREADS"] = "1"
            try:
                alone = run(folder, rows, model, f"{name}-alone", "--threads", "1", *small)
            finally:
                del os.environ["OMP_NUM_THREADS"]
            single = run(folder, rows, model, f"{name}-1", "--ray", nodes.address, "--workers", "1", *small)
            double = run(folder, rows, model, f"{name}-2", "--ray", nodes.address, "--workers", "2", *small)
            assert same(folder, f"{name}-alone", f"{name}-1") == same(folder, f"{name}-1", f"{name}-2")
            show(f"{name}, one process -> 1 worker", alone, single)
            show(f"{name}, 1 worker -> 2 workers", single, double)
            for each in ("alone", "1", "2"):
                subprocess.run(["rm", "-rf", folder / f"cache-{name}-{each}"], check=True)
