"""`xbench train`."""

import shlex
from pathlib import Path
from typing import Any

import click

from xbench.cli.options import data_option, format_option, show_result, show_tables
from xbench.errors import UsageError
from xbench.sources import default_cache


@click.command("train")
@click.argument("config")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the run; the model is its `model`. [models/CONFIG]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Instead of the config's, such as sampling.mode=x-y or training.seed=1; a TOML value; may be repeated.",
)
@click.option(
    "-t",
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="Evaluate the model on it, and put the scores in its card; results lie in the run's folder; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Draw the batches and show what they are made of; train nothing.")
@click.option("--threads", type=click.IntRange(1), help="To compute with. [all cores; with --ray, a share of them]")
@click.option("--ray", "address", metavar="ADDRESS", help="Train on a Ray cluster: auto, HOST:PORT or local.")
@click.option("--workers", type=click.IntRange(1), help="With --ray: processes. [one for each GPU, else machine]")
@click.option(
    "--gpus-per-worker", "gpus", type=click.IntRange(0, 1), help="With --ray: GPUs of each. [1 where there are GPUs]"
)
@data_option
@format_option(json=False)
def command(
    config: str,
    output: Path | None,
    overrides: tuple[str, ...],
    tasks: tuple[str, ...],
    dry_run: bool,
    threads: int | None,
    address: str | None,
    workers: int | None,
    gpus: int | None,
    data: Path | None,
    format_: str | None,
) -> None:
    """Train a reference model by CONFIG, a TOML file or the name of a bundled one.

    An interrupted run goes on where it stopped when called again; a finished one is not done again. In several
    processes: `torchrun --nproc-per-node N -m xbench train CONFIG`, or `xbench train CONFIG --ray ADDRESS`.
    """
    given = [name for name, value in (("workers", workers), ("gpus-per-worker", gpus)) if value is not None]
    if given and address is None:
        raise UsageError(f"--{given[0]} is for a cluster: give --ray too")
    from xbench.train.config import read_config

    chosen = read_config(config, dict(_override(each) for each in overrides))
    cache = default_cache()
    if dry_run:
        from xbench.train.shares import dry_run as drawn

        show_tables(drawn(chosen, cache, data), format_)
        return
    from xbench.evaluate import Plan, evaluate
    from xbench.models import load
    from xbench.readers import source_paths
    from xbench.tasks import select
    from xbench.train.card import add_scores
    from xbench.train.distributed import join
    from xbench.train.loop import train

    folder = output or Path("models") / Path(config).stem
    words = ["xbench", "train", config, *(word for each in overrides for word in ("--set", each))]
    tested = select(list(tasks)) if tasks else []
    for task in tested:  # now, not after the training
        source_paths(task, data)
    said = shlex.join(words)
    if address is not None:
        from xbench.train.launch import launch

        model = launch(
            chosen,
            folder,
            address=address,
            cache=cache,
            data=data,
            workers=workers,
            gpus=gpus,
            threads=threads,
            command=said,
        )
    else:
        model = train(chosen, folder, cache=cache, data=data, threads=threads, command=said)
    if join().rank:
        return  # of several processes one evaluates
    if tested:
        loaded, results = load(str(model)), []
        for task in tested:
            plan = Plan(cache, data, threads=threads, command=shlex.join([*words, "-t", task.name]))
            results.append(evaluate(loaded, task, plan=plan))
            show_result(results[-1], task, folder / "results", format_)
        add_scores(folder, results)
    click.echo(model)


def _override(given: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as in TOML, or as text where it is no TOML."""
    import tomllib

    key, equals, value = given.partition("=")
    if not equals:
        raise UsageError(f"--set {given}: expected KEY=VALUE")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
