"""The door to Ray: what a worker is given, what is not waited for for ever, and what an error leaves behind."""

import json
import os
import subprocess
import sys
import time
from typing import Any

import nodes
import pytest

from xbench.cluster import RETRIES, room

# One connection after the other; a name and what came of it, a line each.
PROGRAM = """
import json, logging, os, sys, time, types
from xbench import cluster, errors
from xbench.cluster import RayWorkers, connected

log = logging.getLogger("xbench")
log.setLevel(logging.INFO)


def tell(name, value):
    print(json.dumps([name, value]), flush=True)


def caught(act):
    try:
        return ["fine", act()]
    except errors.XbenchError as error:
        return [type(error).__name__, str(error)]


def sees(shared, item):
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def sleep(shared, seconds):
    time.sleep(seconds)
    return seconds


def fails():
    with connected(sys.argv[2]) as ray:
        found = RayWorkers(ray, 2, 0).map(sleep, None, [0, 20, 20])  # named: closed after the connection
        for _ in found:
            raise errors.ModelOutputError("of another width")


def starve():
    with connected(sys.argv[2]) as ray:
        return list(RayWorkers(ray).map(sleep, None, [3]))


def wait(ray):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log.addHandler(handler)
    cluster.LOOK, cluster.PATIENCE = 0.2, 3
    some = RayWorkers(ray, 1, 0)
    assert list(some.map(sleep, None, [1.5, 1.5])) == [1.5, 1.5]
    return [line for line in lines if "no worker is done yet" in line]


if sys.argv[1] == "starve":
    tell("starve", caught(starve))
else:
    tell("error", caught(fails))
    import ray

    tell("connected", ray.is_initialized())
    with connected(sys.argv[2]) as ray:
        for gpus in (None, 0, 0.1, 0.2, 1, 1.5, 3):
            tell(f"sees {gpus}", caught(lambda: list(RayWorkers(ray, None, gpus).map(sees, None, [0]))))
        for gpus in (0.1, 0.2, 0.3):
            tell(f"size {gpus}", RayWorkers(ray, None, gpus).size)
        coming = RayWorkers(ray, 4, 3)
        tell("coming", [coming.size, coming.gpus, coming.processors])
        tell("wait", wait(ray))
        ghost = sys.modules["ghost"] = types.ModuleType("ghost")  # as xbench where a node has none
        exec("def f(shared, item): return 1", ghost.__dict__)
        tell("ghost", caught(lambda: list(RayWorkers(ray).map(ghost.f, None, [0]))))
"""


def told(what: str, address: str, **environment: str) -> tuple[dict[str, Any], str]:
    """What the program has found, and its standard error."""
    command = [sys.executable, "-c", PROGRAM, what, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.split("\n") if line), done.stderr


@pytest.mark.slow
def test_what_a_worker_gets() -> None:
    with nodes.cluster({"num_cpus": 12, "num_gpus": 1}) as cluster:
        found, error = told("room", cluster.address)
    # An error amid results: no other cluster is looked for, and nothing is said of a generator.
    assert found["error"] == ["ModelOutputError", "of another width"] and found["connected"] is False
    assert "Traceback" not in error and "Connecting to" not in error
    for gpus in (None, 0.1, 0.2, 1):
        assert found[f"sees {gpus}"] == ["fine", ["0"]]
    assert found["sees 0"] == ["fine", [""]], "a worker without a GPU sees none"
    for gpus, reason in ((1.5, "a worker has a part of one GPU, or a whole number"), (3, "no node of the cluster has")):
        name, message = found[f"sees {gpus}"]
        assert name == "UsageError" and message.startswith(f"--gpus-per-worker {gpus}: {reason}")
    assert [found[f"size {gpus}"] for gpus in (0.1, 0.2, 0.3)] == [10, 5, 3]
    assert found["coming"] == [4, 3, 12]  # with a number of workers, nodes are waited for
    assert len(found["wait"]) == 1
    name, message = found["ghost"]
    assert name == "UsageError" and "No module named 'ghost'" in message and "\n" not in message


@pytest.mark.slow
def test_what_has_no_memory_ends() -> None:
    """Ray would try for ever what its monitor of memory kills; here it kills all."""
    own = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "100"}
    started = time.monotonic()
    with nodes.cluster({"num_cpus": 1}, environment=own) as cluster:
        found, _ = told("starve", cluster.address, RAY_task_oom_retry_delay_base_ms="10")
    name, message = found["starve"]
    assert name == "IncompleteError" and f"lost {RETRIES + 1} times" in message and "memory" in message
    assert time.monotonic() - started < 80


def test_parts_of_gpusroom() -> None:
    for gpus, expected in ((0.1, 20), (0.2, 10), (0.3, 6), (0.7, 2), (1, 2), (2, 1)):
        assert room([{"CPU": 99.0, "GPU": 2.0}], 1, gpus) == expected, gpus
