"""The trainer in processes that Ray Train starts, on the machines of a cluster: same config, same weights as elsewhere.

    xbench train CONFIG --ray ADDRESS

This process asks Ray for one task on its own machine; that task runs Ray Train, which starts the processes and joins
them by torch.distributed; each of them calls `loop.train`: see `remote`. Ray Train's own checkpoints are not used: the
loop goes on from those of the run.
"""

import importlib.metadata
import os
import tempfile
from pathlib import Path
from typing import Any

from xbench.cluster import connected, nodes_of, room
from xbench.errors import IncompleteError, UsageError, XbenchError
from xbench.progress import log
from xbench.storage import storage
from xbench.train import checkpoints
from xbench.train.config import Config
from xbench.train.record import record
from xbench.train.remote import MINUTES, Group, fitting

# Losses of processes after which to give up, unless a checkpoint was written in between.
RETRIES = 3
# What moves a number, or the protocol between the processes.
PACKAGES = ("xbench", "torch", "sentence-transformers", "transformers", "tokenizers", "numpy")
# Folders that the user's environment names, and switches; secrets are not sent.
FOLDERS = ("XBENCH_DATA", "HF_HOME", "HF_HUB_CACHE")
SWITCHES = ("HF_HUB_OFFLINE",)


def launch(
    config: Config,
    folder: Path,
    *,
    address: str,
    cache: Path,
    data: Path | None = None,
    workers: int | None = None,
    gpus: int | None = None,
    threads: int | None = None,
    command: str = "",
) -> Path:
    """Train a model as `loop.train` does, in processes of a Ray cluster.

    Where a process or machine is lost, all start again from the last checkpoint, with the same weights in the end.

    Args:
        config: what to train.
        folder: of the run; all machines of the cluster, and this one, must see it.
        address: of the cluster, as `cluster.connected`.
        cache: as `loop.train`; need not be one for all machines.
        data: as `loop.train`; all machines must see it.
        workers: processes; by default one for each GPU, or one for each machine where there are none.
        gpus: of each process, 0 or 1; by default 1 where the cluster has GPUs.
        threads: of each process; by default its share of the processors of the smallest machine.
        command: for the record.

    Returns:
        The folder of the model.

    Raises:
        UsageError: no such cluster, or it is too small; a machine with other versions than here.
        StorageError: a machine does not see the folder.
        IncompleteError: no room on the cluster for minutes, or processes were lost again and again.
        XbenchError: what `loop.train` raises in a process.
    """
    if "WORLD_SIZE" in os.environ:
        raise UsageError("--ray starts the processes itself; leave torchrun away, or --ray")
    folder = folder.absolute()
    if record(config, folder) is not None:
        log.info("%s: finished before", folder)
        return folder / "model"
    with connected(address) as ray:
        group = _group(ray, address, workers, gpus, threads)
        with storage(folder, "write"):
            folder.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix=".ray-", dir=folder, ignore_cleanup_errors=True)
        with scratch:
            order = {
                "config": config.about,
                "beside": str(config.folder.absolute() / "config.toml"),
                "folder": str(folder),
                "scratch": scratch.name,
                "here": os.getcwd(),
                "cache": str(cache.absolute()),
                "data": None if data is None else str(data.absolute()),
                "threads": group.threads,
                "command": command,
                "environment": _environment() | {"XBENCH_CACHE": str(cache.absolute())},
                "versions": {name: _public(importlib.metadata.version(name)) for name in PACKAGES},
            }
            _persist(ray, group, order, folder)
    return folder / "model"


def _group(ray: Any, address: str, workers: int | None, gpus: int | None, threads: int | None) -> Group:
    """What is not given, by what the cluster has.

    Raises:
        UsageError: it has too little, and will have no more.
    """
    nodes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes_of(ray)]
    if gpus is None:
        gpus = int(any(its for _, its in nodes))
    usable = [(cpus, its) for cpus, its in nodes if cpus and its >= gpus]
    workers = workers or sum(its if gpus else 1 for _, its in usable)
    if not workers:
        what = "a GPU" if gpus else "a processor"
        raise UsageError(f"--ray {address}: no machine there has {what}; say --workers to wait for some")
    if threads is None:
        each = -(-workers // max(1, len(usable)))
        threads = max(1, min((cpus // each for cpus, _ in usable), default=1))
    group = Group(workers, gpus, threads)
    if address == "local" and _room(ray, group) < workers:
        raise UsageError(f"--ray local: {_lack(ray, group)}; lower --workers or --threads")
    return group


def _room(ray: Any, group: Group) -> int:
    """For how many processes there is."""
    return room(nodes_of(ray), group.threads, group.gpus)


def _lack(ray: Any, group: Group) -> str:
    each = f"{group.threads} processors" + (" and a GPU" if group.gpus else "")
    return f"there is room for {_room(ray, group)} of {group.workers} processes of {each} each"


def _environment() -> dict[str, str]:
    """The user's, with paths that mean the same in another working directory."""
    folders = {name: str(Path(os.environ[name]).expanduser().absolute()) for name in FOLDERS if os.environ.get(name)}
    return folders | {name: os.environ[name] for name in SWITCHES if name in os.environ}


def _public(version: str) -> str:
    """Without what it was built for: `2.13.0+cpu` computes what `2.13.0` does."""
    return version.partition("+")[0]


def _persist(ray: Any, group: Group, order: dict[str, Any], folder: Path) -> None:
    """Train until it is done, starting again after each loss of a process."""
    ear = _ear(ray)
    losses, stand = 0, checkpoints.newest(folder)
    while True:
        if _room(ray, group) < group.workers:
            log.warning("%s; waiting for machines, %d minutes at most", _lack(ray, group), MINUTES)
        failures = _attempt(ray, group, order, ear)
        if not failures:
            return
        if error := _judge(failures):
            raise error
        before, stand = stand, checkpoints.newest(folder)
        losses = losses + 1 if stand == before else 1
        reason = " ".join(str(failures[0]).split())[:200]
        if losses > RETRIES:
            raise IncompleteError(
                f"{folder}: processes were lost {losses} times after step {stand}, without a new checkpoint; the last "
                f"time: {reason}; the same command goes on from there"
            )
        log.warning("lost a process (%s); all start again after step %d", reason, stand)


def _judge(failures: list[Exception]) -> Exception | None:
    """The error that another attempt would not cure; None of a loss, which is a RuntimeError.

    That is also what torch raises in a process whose connections are closed, since another was lost.
    """
    for error in failures:
        if isinstance(error, XbenchError):
            return error
        if isinstance(error, ImportError):
            return UsageError(str(error))
        if isinstance(error, TimeoutError):
            return IncompleteError(f"{error}; what is done is kept, and the same command goes on from there")
    return None if any(isinstance(error, RuntimeError) for error in failures) else failures[0]


def _ear(ray: Any) -> Any:
    """An actor on this machine that keeps what process 0 says until it is fetched."""

    class Ear:
        def __init__(self) -> None:
            self.lines: list[tuple[int, str]] = []

        def hear(self, level: int, line: str) -> None:
            self.lines.append((level, line))

        def fetch(self) -> list[tuple[int, str]]:
            lines, self.lines = self.lines, []
            return lines

    return ray.remote(Ear).options(num_cpus=0, scheduling_strategy=_here(ray)).remote()


def _here(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _attempt(ray: Any, group: Group, order: dict[str, Any], ear: Any) -> list[Exception]:
    """Train once; the errors of the processes that failed, none where all is done: see `_judge`."""
    task = ray.remote(fitting(group, order, ear)).options(num_cpus=0, max_retries=0, scheduling_strategy=_here(ray))
    running, found = [task.remote()], []
    while running:
        found, running = ray.wait(running, timeout=0.5)
        for level, line in ray.get(ear.fetch.remote()):
            log.log(level, "%s", line)
    errors = ray.exceptions
    try:
        failures: list[Exception] = ray.get(found[0])
    except errors.RayTaskError as error:
        raise error.cause from error
    except errors.RayError as error:
        return [RuntimeError(str(error))]
    return failures
