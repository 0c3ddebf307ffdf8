"""`xbench run`."""

from typing import Any

import click

from xbench.cli.evaluating import evaluate_and_show
from xbench.cli.options import (
    data_option,
    group_options,
    large_options,
    measures_option,
    model_options,
    result_options,
    vary_options,
)
from xbench.cli.placing import dry_run_option, ray_options


@click.command("run")
@click.argument("model")
@click.option(
    "-t",
    "--task",
    "tasks",
    multiple=True,
    required=True,
    metavar="TASK",
    help="Or a file of your own (.toml); repeatable.",
)
@click.option("--context", is_flag=True, help="A passage is its sentence and its paragraph, as in XTREME-R.")
@vary_options
@group_options
@measures_option
@data_option
@model_options
@large_options
@ray_options
@dry_run_option
@result_options
def command(model: str, **options: Any) -> None:
    """Evaluate MODEL on tasks: encode, index, rank, score; write the results, print the tables.

    MODEL is `hash`, `bm25`, `hf:NAME_OR_DIR[@REVISION]` (or just the name or folder), `py:FILE_OR_MODULE:OBJECT`,
    `vectors:DIR`, `api:URL#MODEL`, `fuse:A+B`, or `canary:NAME`. An interrupted run goes on where it stopped when
    called again.
    """
    evaluate_and_show(model, **options)
