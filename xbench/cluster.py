"""The door to Ray: a cluster that is there already, or one of this machine alone, and its workers.

Work is Ray's plain tasks, stateless and each for one shard: Ray runs a task again where its worker or node is lost,
while actors would have to be replaced by us.
"""

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from xbench.errors import IncompleteError, UsageError, XbenchError
from xbench.memory import hoard_nothing, peak_mb, shared_mb
from xbench.progress import log

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
# How often one item is tried again after its worker or node was lost.
RETRIES = 5
# Processors of a worker without a GPU, where its number is not given.
PROCESSORS = 4
# Seconds between two looks at how large the cluster is, and looks without a result after which that is said.
LOOK, PATIENCE = 10.0, 6


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; disconnected when the block ends. Inside of another block nothing is done.

    Args:
        address: `auto` (the cluster that this machine is part of), `HOST:PORT`, `ray://HOST:PORT`, or `local` (a
            cluster of this machine's processors alone, which ends with the block).

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends nothing anywhere
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # it would try for ever what has too little memory
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--ray needs Ray ({error}); pip install 'xbench[distributed]'") from error
    if ray.is_initialized():
        yield ray
        return
    _reach(address)
    output: Any = _Output(sys.stdout)
    with contextlib.redirect_stdout(output):
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False)
        except (ValueError, RuntimeError, OSError) as error:
            raise _nobody(address, error) from error
        log.info("connected to Ray %s: %d nodes", ray.__version__, len(nodes_of(ray)))
        try:
            yield ray
        finally:
            with contextlib.redirect_stdout(sys.stderr):  # what Ray has kept back
                ray.shutdown()


class _Output:
    """Standard output for this thread alone: where a worker is lost, a thread of Ray's prints that to it, amid results.

    What other threads print goes to standard error.
    """

    def __init__(self, own: Any):
        self._own, self._thread = own, threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own if threading.get_ident() == self._thread else sys.stderr, name)


def _reach(address: str) -> None:
    """Ray itself tries for minutes where nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise _nobody(address, error) from error


def _nobody(address: str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200]
    return UsageError(
        f"--ray {address}: no Ray cluster there ({reason}); start one with `ray start --head`, or give --ray local; "
        "if it asks for a token, set RAY_AUTH_MODE=token"
    )


def nodes_of(ray: Any) -> list[dict[str, float]]:
    """The resources of every node that is alive, such as {"CPU": 8.0, "GPU": 1.0}."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room(nodes: list[dict[str, float]], processors: int, gpus: float) -> int:
    """For how many workers of this size the nodes have room."""
    return sum(
        # Not //: of 1 by 0.1 that is 9.
        min(int(node.get("CPU", 0.0) // processors), int(node.get("GPU", 0.0) / gpus + 1e-6) if gpus else 1 << 30)
        for node in nodes
    )


class RayWorkers:
    """Workers of the cluster that is `connected`; see `workers.Workers`."""

    def __init__(self, ray: Any, workers: int | None = None, gpus: float | None = None):
        """Find out what a worker gets.

        Args:
            ray: as `connected` gives it.
            workers: how many; by default as many as the cluster has room for, with each look.
            gpus: of a worker, such as 0.5; by default 1 where there are GPUs, else 0.

        Raises:
            UsageError: no node has so many GPUs, and without a number of workers none is waited for; or more than
                one, and not a whole number, which Ray does not know.
        """
        self._ray, self._workers = ray, workers
        nodes = nodes_of(ray)
        most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
        self.gpus = (1.0 if most else 0.0) if gpus is None else gpus
        if self.gpus > 1 and self.gpus % 1:
            raise UsageError(f"--gpus-per-worker {self.gpus:g}: a worker has a part of one GPU, or a whole number")
        if self.gpus > most and not workers:
            raise UsageError(f"--gpus-per-worker {self.gpus:g}: no node of the cluster has more than {most:g}")
        self.processors = self._share(nodes)
        self._seen: dict[str, dict[int, int]] = {}  # node -> process -> MB
        self._looked = -LOOK
        now = self._room()
        if workers and workers > now:
            log.info("the cluster has room for %d of %d workers now; the others start when nodes join", now, workers)
        gpu = f", {self.gpus:g} GPUs" if self.gpus else ""
        log.info("%d workers of %d processors%s each", workers or now, self.processors, gpu)

    def _share(self, nodes: list[dict[str, float]]) -> int:
        """Processors of each worker."""
        some = [node for node in nodes if node.get("GPU", 0.0) >= self.gpus and node.get("CPU", 0.0) >= 1]
        if not some and self.gpus and self._workers:  # of nodes that are still to come
            return max(1, int(PROCESSORS * self.gpus))
        if not some:
            raise UsageError("no node of the cluster has a processor to spare; start nodes with `ray start --num-cpus`")
        if self._workers:
            sizes = range(1, 1 + int(max(node["CPU"] for node in some)))
            fitting = [n for n in sizes if room(some, n, self.gpus) >= self._workers]
            return max(fitting, default=1)
        most = int(max(node["CPU"] for node in some))
        if self.gpus:
            return max(1, int(min(node["CPU"] * self.gpus / node["GPU"] for node in some)))
        return min(most, PROCESSORS)

    def _room(self) -> int:
        return room(nodes_of(self._ray), self.processors, self.gpus)

    @property
    def size(self) -> int:
        """How many work at once; nodes come and go."""
        if self._workers:
            return self._workers
        if time.monotonic() - self._looked > LOOK:
            self._looked, self._most = time.monotonic(), max(1, self._room())
        return self._most

    def map(self, function: Callable[[S, T], R], shared: S, items: Iterable[T]) -> Iterator[R]:
        """As `Workers` has it."""
        ray = self._ray
        # Ray hides no GPU from a worker that has none: all would take the first one.
        hidden = {} if self.gpus else {"runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}}
        task = ray.remote(
            **(hidden if any(node.get("GPU") for node in nodes_of(self._ray)) else {}),
            num_cpus=self.processors,
            num_gpus=self.gpus,
            max_retries=RETRIES,
            max_calls=0,  # a process keeps its model: with GPUs Ray would else end it after each task
            scheduling_strategy="SPREAD",
        )(_work)
        common = ray.put((function, shared))
        waiting = iter(items)
        running: list[Any] = []
        over = object()
        looks = 0  # without a result so far
        try:
            while True:
                while len(running) < self.size and (item := next(waiting, over)) is not over:
                    running.append(task.remote(common, item))
                if not running:
                    return
                ready, running = ray.wait(running, num_returns=1, timeout=LOOK)
                looks = -1 if ready or looks < 0 else looks + 1
                if looks == PATIENCE:
                    log.info("no worker is done yet; `ray status` says whether the cluster has room for them")
                for done in ready:
                    yield self._result(done)
        finally:
            # A generator may be closed after `connected`: Ray would then look for another cluster to ask.
            for left in running if ray.is_initialized() else ():
                ray.cancel(left, force=True)

    def _result(self, done: Any) -> Any:
        errors = self._ray.exceptions
        try:
            value, (node, process, peak) = self._ray.get(done)
        except errors.RayTaskError as error:
            if isinstance(error.cause, XbenchError):
                raise error.cause from error
            if isinstance(error.cause, errors.RaySystemError) or "failed to import" in str(error.cause):
                reason = str(error).rstrip().rpartition("\n")[2]
                raise UsageError(
                    f"a worker cannot load xbench ({reason}); install the same versions on all nodes"
                ) from error
            raise
        except errors.RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise IncompleteError(
                f"some work was lost {RETRIES + 1} times with its worker, perhaps out of memory: "
                f"{type(error).__name__}: {reason}; with fewer --workers or --shard-rows, the same command goes on"
            ) from error
        self._seen.setdefault(node, {})[process] = peak
        return value

    def report(self) -> dict[str, Any]:
        """How many worked on how many nodes, what each was given, and the largest resident memory, in MB.

        Without the object store, which the processes of a node share.
        """
        peaks = [peak for some in self._seen.values() for peak in some.values()]
        return {
            "workers": {
                "processes": len(peaks),
                "nodes": len(self._seen),
                "processors": self.processors,
                "gpus": self.gpus,
                "peak_rss_mb": max(peaks, default=0),
            }
        }


def _work(common: tuple[Callable[[S, T], R], S], item: T) -> tuple[R, tuple[str, int, int]]:
    """On a worker."""
    hoard_nothing()
    function, shared = common
    value = function(shared, item)
    import ray

    return value, (ray.get_runtime_context().get_node_id(), os.getpid(), (peak_mb() or 0) - shared_mb())
