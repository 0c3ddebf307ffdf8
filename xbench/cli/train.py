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
@click.option("--threads", type=click.IntRange(1), help="To compute with. [all cores]")
@data_option
@format_option(json=False)
def command(
    config: str,
    output: Path | None,
    overrides: tuple[str, ...],
    tasks: tuple[str, ...],
    dry_run: bool,
    threads: int | None,
    data: Path | None,
    format_: str | None,
) -> None:
    """Train a reference model by CONFIG, a TOML file or the name of a bundled one.

    An interrupted run goes on where it stopped when called again; a finished one is not done again. In several
    processes: `torchrun --nproc-per-node N -m xbench train CONFIG`.
    """
    from xbench.train.config import read_config

    chosen = read_config(config, dict(_override(each) for each in overrides))
    cache = default_cache()
    if dry_run:
        show_tables(_shares(chosen, cache, data), format_)
        return
    from xbench.evaluate import Plan, evaluate
    from xbench.models import load
    from xbench.tasks import select
    from xbench.train.card import add_scores
    from xbench.train.distributed import join
    from xbench.train.loop import train

    folder = output or Path("models") / Path(config).stem
    words = ["xbench", "train", config, *(word for each in overrides for word in ("--set", each))]
    tested = select(list(tasks)) if tasks else []
    model = train(chosen, folder, cache=cache, data=data, threads=threads, command=shlex.join(words))
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


# Batches drawn to see what they are made of, at most.
DRAWN = 1_000


def _shares(config: Any, cache: Path, data: Path | None) -> list[Any]:
    from xbench.tables import Table, Value
    from xbench.train.prepare import find_files, read_table
    from xbench.train.sampling import Sampler
    from xbench.train.shares import shares

    table = read_table(config, find_files(config.data, config.folder, data), cache, data)
    t = config.training
    sampler = Sampler(table, table.training, config.sampling, t.batch_size, t.seed)
    batches = [sampler.batch(step) for step in range(min(t.steps, DRAWN))]
    found = shares(sampler, table, batches)
    left = [[reason, n] for reason, n in table.about["left_out"].items()]
    training, held_out = int(table.training.sum()), int(table.held_out.sum())
    pairs: list[list[Value]] = [
        ["for training", training],
        ["that batches draw from", sampler.drawn_from],
        ["held out", held_out],
        *([f"left out: {r}", n] for r, n in left),
    ]
    short = sum(len(batch.queries) < t.batch_size for batch in batches)
    tables = [Table("pairs", ["pairs", "number"], pairs)]
    for what in dict.fromkeys(share.what for share in found):
        rows: list[list[Value]] = [
            [s.name, round(s.expected, 4), round(s.realised, 4), s.pairs] for s in found if s.what == what
        ]
        tables.append(Table(f"shares by {what}", [what, "by the formula", "drawn", "number"], rows))
    tables.append(Table("batches drawn", ["batches", "of them short"], [[len(batches), short]]))
    return tables
