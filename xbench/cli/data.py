"""`xbench data`."""

from pathlib import Path

import click

from xbench import readers
from xbench.cli.options import data_option
from xbench.tasks import select


@click.group("data")
def command() -> None:
    """Get and check the sources of tasks."""


@command.command()
@click.argument("tasks", nargs=-1, required=True)
def fetch(tasks: tuple[str, ...]) -> None:
    """Fetch the sources of TASKS into the cache, unless they are there; size and SHA-256 are checked."""
    for task in select(list(tasks)):
        for language in task.languages:
            click.echo(readers.source_path(task, language, None))


@command.command()
@click.argument("tasks", nargs=-1, required=True)
@data_option
def verify(tasks: tuple[str, ...], data: Path | None) -> None:
    """Check everything: size, SHA-256, format, counts, golden rows of TASKS; never fetches."""
    for task in select(list(tasks)):
        collection = readers.check(task, data, offline=True)
        queries, passages = (sum(map(len, part.values())) for part in (collection.queries, collection.passages))
        left = {key: sum(counts[key] for counts in task.counts.values()) for key in ("crossing", "differing")}
        click.echo(
            f"{task.name}: ok: {len(task.languages)} files, {queries} queries, {passages} passages, "
            f"{len(task.cells())} cells; {left['crossing']} answers cross the end of their sentence and "
            f"{left['differing']} sentences differ from their context (all kept)"
        )


@command.command()
@click.argument("tasks", nargs=-1, required=True)
@data_option
def where(tasks: tuple[str, ...], data: Path | None) -> None:
    """Print where the verified sources of TASKS lie; never fetches."""
    for task in select(list(tasks)):
        for language in task.languages:
            click.echo(readers.source_path(task, language, data, offline=True))
