"""`xbench encode`."""

from pathlib import Path
from typing import Any

import click

from xbench.cli.options import data_option, format_option, model_options, vary_options
from xbench.cli.placing import dry_run_option, ray_options


@click.command("encode")
@click.argument("model")
@click.option("-t", "--task", "tasks", multiple=True, required=True, metavar="TASK", help="As in run; repeatable.")
@click.option("--context", is_flag=True, help="As in run.")
@vary_options
@data_option
@model_options
@click.option("--shard-rows", type=click.IntRange(1), help="Passages whose vectors are held at once. [65536]")
@ray_options
@dry_run_option
@format_option(json=False)
def command(
    model: str,
    tasks: tuple[str, ...],
    context: bool,
    languages: str | None,
    settings: tuple[str, ...],
    data: Path | None,
    batch_tokens: int | None,
    shard_rows: int | None,
    ray: str | None,
    workers: int | None,
    gpus_per_worker: float | None,
    shards: str | None,
    dry_run: bool,
    format_: str | None,
    **options: Any,
) -> None:
    """Encode the texts of tasks with MODEL; `xbench run` finds the vectors there.

    An interrupted one goes on where it stopped when called again.
    """
    from xbench.ahead import encode_task
    from xbench.cli.options import show_tables, varied
    from xbench.cli.placing import placed, shards_folder
    from xbench.estimate import estimate
    from xbench.evaluate import Plan
    from xbench.large import Large
    from xbench.models import Options
    from xbench.sources import default_cache

    chosen = varied(list(tasks), languages, settings, context=context)
    large = Large(shard_rows or Large().rows)
    folder = shards_folder(shards)
    with placed(model, Options(**options), ray, workers, gpus_per_worker) as (loaded, others):
        plan = Plan(default_cache(), data, shards=folder, workers=others)
        for task in chosen:
            if dry_run:
                show_tables(estimate(loaded, task, plan, large, batch_tokens), format_)
            else:
                show_tables([encode_task(loaded, task, plan, large, batch_tokens)], format_)
