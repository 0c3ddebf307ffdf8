"""`xbench study`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xbench.cli.options import data_option, format_option, show_tables
from xbench.sources import default_cache

if TYPE_CHECKING:
    from xbench.train.study import Run


@click.command("study")
@click.argument("config")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the study. [studies/CONFIG]")
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Only runs called so, MODEL/VARIANT/seed-N or the end of it, such as 'hybrid/seed-*'; may be repeated. [all]",
)
@click.option("--dry-run", is_flag=True, help="List the runs, with what is done and what is missing; do nothing.")
@click.option("--threads", type=click.IntRange(1), help="To compute with. [all cores]")
@data_option
@format_option(json=False)
def command(
    config: str,
    output: Path | None,
    only: tuple[str, ...],
    dry_run: bool,
    threads: int | None,
    data: Path | None,
    format_: str | None,
) -> None:
    """Train variants of models by CONFIG, a TOML file or the name of a bundled study, and compare them.

    What is done is kept: the same command goes on where it was stopped, and with everything done writes the same report
    again. Several machines can share the work by --only; a model is in the report when all its runs are done.
    """
    from xbench.tables import Table
    from xbench.train.study import read_study
    from xbench.train.trials import find_tasks, run_all, selected, states

    study = read_study(config)
    folder = output or Path("studies") / study.name
    runs = selected(study, only)
    tasks = find_tasks(study, data)
    if dry_run:
        rows: list[list[Any]] = [
            [state.run.name, "done" if state.trained else "missing", ", ".join(state.missing) or "done"]
            for state in states(runs, folder, tasks.chosen)
        ]
        show_tables([Table(f"Runs of {study.name} in {folder}", ["run", "training", "evaluation on"], rows)], format_)
        return
    from xbench.train.loop import train
    from xbench.train.report import report

    def commands(run: "Run") -> tuple[str, str]:
        sets = [word for key, value in run.overrides.items() for word in ("--set", f"{key}={_toml(value)}")]
        return shlex.join(["xbench", "train", run.base, *sets]), shlex.join(
            ["xbench", "study", config, "--only", run.name]
        )

    run_all(study, runs, folder, tasks, train, cache=default_cache(), data=data, threads=threads, command=commands)
    if tables := report(study, folder, tasks):
        show_tables(tables, format_)


def _toml(value: Any) -> str:
    """A value as `--set` takes it."""
    import json

    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
