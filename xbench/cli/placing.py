"""Where a model runs: in this process, or on the workers of a cluster."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from xbench.cli.options import Command, Number

if TYPE_CHECKING:
    from xbench.folders import Folder
    from xbench.models import Options
    from xbench.workers import Workers


def ray_options(function: Command) -> Command:
    """`--ray`, `--workers`, `--gpus-per-worker`, `--shards`."""
    for option in (
        click.option(
            "--ray",
            metavar="ADDRESS",
            help="Encode and search on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT; or local, this machine's own.",
        ),
        click.option("--workers", type=click.IntRange(1), help="How many at once. [what the cluster has room for]"),
        click.option(
            "--gpus-per-worker",
            type=Number(0),
            metavar="G",
            help="0.5: two workers share one, so that one tokenizes while the other computes. [1 where there are GPUs]",
        ),
        click.option(
            "--shards",
            metavar="DIR_OR_URL",
            help="Where vectors too many to hold are kept: a folder that all workers see, or s3://, gs://, hf://, as "
            "fsspec has it. [in the cache]",
        ),
    ):
        function = option(function)
    return function


def dry_run_option(function: Command) -> Command:
    """`--dry-run`."""
    return click.option(
        "--dry-run",
        is_flag=True,
        help="Show shards, bytes, memory and hours, from a measured sample; encode nothing.",
    )(function)


@contextlib.contextmanager
def placed(
    model: str, options: "Options", ray: str | None, workers: int | None, gpus_per_worker: float | None
) -> Iterator[tuple[Any, "Workers | None"]]:
    """The model, and who works with it: None is this process.

    Raises:
        XbenchError: an option without --ray; and as `cluster.connected`, `cluster.RayWorkers` and `distant.ask`.
    """
    from xbench.errors import UsageError
    from xbench.models import load

    if ray is None:
        for name, value in (("workers", workers), ("gpus-per-worker", gpus_per_worker)):
            if value is not None:
                raise UsageError(f"--{name} is for a cluster: give --ray too")
        yield load(model, options), None
        return
    from xbench.cluster import RayWorkers, connected
    from xbench.distant import Spec, ask

    with connected(ray) as library:
        found = RayWorkers(library, workers, gpus_per_worker)
        yield ask(Spec(model, options, os.getcwd()), found), found


def shards_folder(where: str | None) -> "Folder | None":
    """The folder of `--shards`; None is the cache's."""
    from xbench.folders import open_folder

    return None if where is None else open_folder(where)
