"""`xbench tasks`."""

import sys

import click

from xbench import tables
from xbench.tables import Table, Value
from xbench.tasks import load_task, task_names


@click.command("tasks")
@click.argument("task", required=False)
@click.option(
    "--format", "format_", type=click.Choice(("rich", "md", "csv", "tex")), help="[rich on a terminal, else md]"
)
def command(task: str | None, format_: str | None) -> None:
    """List the tasks; with TASK, its cells with the number of queries and passages of each."""
    table = _cells(task) if task else _tasks()
    if (format_ or ("rich" if sys.stdout.isatty() else "md")) == "rich":
        tables.print_rich([table])
    else:
        click.echo(tables.render([table], format_ or "md"))


def _tasks() -> Table:
    rows: list[list[Value]] = []
    for name in task_names():
        task = load_task(name)
        rows.append(
            [name, task.title, len(task.languages), len(task.cells()), *map(_known, task.totals()), task.licence]
        )
    return Table("tasks", ["task", "title", "languages", "cells", "queries", "passages", "licence"], rows)


def _cells(name: str) -> Table:
    task = load_task(name)
    cells = task.cells()
    counts = ", ".join(f"{sum(c.setting == s for c in cells)} {s}" for s in task.settings)
    rows: list[list[Value]] = [
        [c.name, c.setting, c.query_language, " ".join(c.passage_languages), *map(_known, task.size(c))] for c in cells
    ]
    head = ["cell", "setting", "query language", "passage languages", "queries", "passages"]
    return Table(f"{name} (version {task.version}): {len(cells)} cells: {counts}", head, rows)


def _known(n: int) -> int | None:
    """A number; none is known of files that could not be seen when the task was written."""
    return n or None
