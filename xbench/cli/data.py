"""`xbench data`."""

from pathlib import Path

import click

from xbench import readers
from xbench.cli.options import data_option, varied
from xbench.tasks import select


@click.group("data")
def command() -> None:
    """Get and check the sources of tasks."""


@command.command()
@click.argument("tasks", nargs=-1, required=True)
def fetch(tasks: tuple[str, ...]) -> None:
    """Fetch the sources of TASKS into the cache, unless they are there; size and SHA-256 are checked.

    Those without a SHA-256 on record are never fetched: the first that is missing is named when all others are there.
    """
    for task in select(list(tasks)):
        for key in sorted(task.sources, key=lambda key: not task.sources[key].sha256):
            click.echo(readers.source_path(task, key, None))


@command.command()
@click.argument("tasks", nargs=-1, required=True)
@data_option
@click.option("--languages", metavar="A,B,...", help="Only these languages of the tasks. [all]")
def verify(tasks: tuple[str, ...], data: Path | None, languages: str | None) -> None:
    """Check everything: size, SHA-256, format, counts, golden rows of TASKS; never fetches.

    What is counted beside queries and passages, the task's file explains.
    """
    for task in varied(list(tasks), languages, ()):
        readers.check(task, data, offline=True)
        queries, passages = task.totals()
        other = sorted({what for counts in task.counts.values() for what in counts} - {"queries", "passages"})
        counts = [f"{sum(counts.get(what, 0) for counts in task.counts.values())} {what}" for what in other]
        click.echo(
            f"{task.name}: ok: {len(task.sources)} files, {queries} queries, {passages} passages, "
            f"{len(task.cells())} cells" + (f"; counted: {', '.join(counts)}" if counts else "")
        )


@command.command()
@click.argument("tasks", nargs=-1, required=True)
@data_option
def where(tasks: tuple[str, ...], data: Path | None) -> None:
    """Print where the verified sources of TASKS lie; never fetches."""
    for task in select(list(tasks)):
        for key in task.sources:
            click.echo(readers.source_path(task, key, data, offline=True))
