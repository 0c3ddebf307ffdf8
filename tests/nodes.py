"""A Ray cluster of several nodes on one machine, in a process of its own that starts, removes and ends them."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args=json.loads(sys.argv[1]))
nodes = [cluster.add_node(**json.loads(each)) for each in sys.argv[2:]]
print(json.dumps(cluster.address), flush=True)
for line in sys.stdin:
    what = json.loads(line)
    if isinstance(what, int):
        cluster.remove_node(nodes[what], allow_graceful=False)
    else:
        nodes.append(cluster.add_node(**what))
    print(json.dumps(len(nodes) - 1), flush=True)
cluster.shutdown()
"""


class Nodes:
    """The cluster at `address`."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self._process = process
        self.address: str = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the cluster ended"
        return json.loads(line)

    def _say(self, what: object) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def remove(self, node: int) -> None:
        """End the processes of a node, as when the power fails; the head, which has no number, stays."""
        self._say(node)

    def add(self, **resources: Any) -> int:
        """Start a node; returns its number."""
        number: int = self._say(resources)
        return number


@contextlib.contextmanager
def cluster(*nodes: dict[str, Any], head: int = 1, environment: dict[str, str] | None = None) -> Iterator[Nodes]:
    """A head with so many processors, and nodes beside it, such as {"num_cpus": 1}; all ended with the block."""
    first = {"num_cpus": head, "include_dashboard": False, "object_store_memory": 300 << 20}
    each = [json.dumps({"object_store_memory": 300 << 20} | node) for node in nodes]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(first), *each],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parent,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"} | (environment or {}),
    )
    try:
        yield Nodes(process)
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()
