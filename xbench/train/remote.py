"""What Ray runs on other machines when it trains: functions that are sent whole, and not by the name of their module.

So they say what is wrong on a machine that has another xbench, or none; and so each imports what it needs by itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from xbench.train.distributed import PATIENCE

# Minutes to wait for machines, at the start and after a loss.
MINUTES = 10


class Group(NamedTuple):
    """The processes to start."""

    workers: int
    gpus: int
    """Of each: 0 or 1."""
    threads: int
    """Of each: processors that are kept for it."""


def fitting(group: Group, order: dict[str, Any], ear: Any) -> Callable[[], list[Exception]]:
    """What runs Ray Train. It takes Ctrl-C for itself in the process it runs in, which is why that is not this one."""
    check, work = refusing(order), working(order, ear)
    workers, gpus, threads = group
    patience, minutes = int(PATIENCE.total_seconds()), MINUTES

    def fit() -> list[Exception]:
        import importlib
        import os

        os.environ["RAY_TRAIN_V2_ENABLED"] = "1"  # older versions of Ray need to be told
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "60"
        try:
            check()
            train: Any = importlib.import_module("ray.train")  # its types are those of its first version
            torch: Any = importlib.import_module("ray.train.torch")
        except ImportError as error:
            return [ImportError(str(error))]
        needs = {"CPU": threads, **({"GPU": gpus} if gpus else {})}
        trainer = torch.TorchTrainer(
            work,
            torch_config=torch.TorchConfig(timeout_s=patience),
            scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker=needs),
            run_config=train.RunConfig(
                name="run",
                storage_path=order["scratch"],
                # Not its retries: it knows no errors that stay. To wait for machines is a failure here, once a minute.
                failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=minutes),
                # Without GPUs of its own a process must not see others'.
                worker_runtime_env={} if gpus else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},
            ),
        )
        try:
            trainer.fit()
        except train.WorkerGroupError as error:
            found = error.worker_failures
            ours = [found[rank] for rank in sorted(found) if not type(found[rank]).__module__.startswith("ray.")]
            # The death of a process says more than what the others saw of it.
            return [RuntimeError(str(each)) for each in found.values() if each not in ours] + ours
        except train.ControllerError as error:
            cause = error.controller_failure
            if type(cause).__name__ == "WorkerGroupStartupTimeoutError":
                return [TimeoutError(f"no room on the cluster for {workers} processes in {minutes} minutes")]
            return [RuntimeError(f"{type(cause).__name__}: {cause}")]
        return []

    return fit


def refusing(order: dict[str, Any]) -> Callable[[], None]:
    """What refuses a machine with other versions; runs without xbench."""
    versions = order["versions"]

    def check() -> None:
        import importlib.metadata
        import platform

        for name, expected in versions.items():
            try:
                found = importlib.metadata.version(name).partition("+")[0]
            except importlib.metadata.PackageNotFoundError:
                found = "none"
            if found != expected:
                raise ImportError(
                    f"{platform.node()}: found {name} {found}, expected {expected} as where the command runs; install "
                    "the same versions on all machines of the cluster"
                )

    return check


def working(order: dict[str, Any], ear: Any) -> Callable[[], None]:
    """What each process does."""
    check = refusing(order)

    def work() -> None:
        import logging
        import os
        import platform
        from pathlib import Path

        check()
        os.environ.update(order["environment"])
        from xbench.errors import StorageError
        from xbench.train.config import config_of
        from xbench.train.loop import train

        if not os.path.isdir(order["scratch"]):
            raise StorageError(
                f"{platform.node()} does not see {order['folder']}; choose a folder (-o) on storage that all machines "
                "of the cluster share"
            )
        if os.path.isdir(order["here"]):  # for a base that is a folder
            os.chdir(order["here"])

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                ear.hear.remote(record.levelno, record.getMessage())

        if os.environ["RANK"] == "0":
            logging.getLogger("xbench").addHandler(Handler())
            logging.getLogger("xbench").setLevel(logging.INFO)
        train(
            config_of(order["config"], Path(order["beside"])),
            Path(order["folder"]),
            cache=Path(order["cache"]),
            data=None if order["data"] is None else Path(order["data"]),
            threads=order["threads"],
            command=order["command"],
        )

    return work
