"""`xbench tasks`."""

from pathlib import Path

import click

from xbench.cli.options import show_tables
from xbench.tables import FORMATS, Table, Value
from xbench.tasks import load_task, select, task_names

_FORMAT = click.option("--format", "format_", type=click.Choice(FORMATS), help="[rich on a terminal, else md]")


class _Tasks(click.Group):
    """A group in which every word that is no command is the name of a task, or the file of one's own."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        if cmd_name in self.commands:
            return self.commands[cmd_name]

        @_FORMAT
        def show(format_: str | None) -> None:
            show_tables([_cells(cmd_name)], format_ or ctx.params["format_"])

        return click.command(cmd_name)(show)


@click.group("tasks", cls=_Tasks, invoke_without_command=True, subcommand_metavar="[TASK | new NAME ...]")
@_FORMAT
@click.pass_context
def command(ctx: click.Context, format_: str | None) -> None:
    """List the tasks; with TASK, its cells with the number of queries and passages of each.

    TASK may be a file of your own that ends in .toml; `xbench tasks new` makes one.
    """
    if ctx.invoked_subcommand is None:
        show_tables([_tasks()], format_)


def _tasks() -> Table:
    rows: list[list[Value]] = []
    for name in task_names():
        task = load_task(name)
        rows.append(
            [name, task.title, len(task.languages), len(task.cells()), *map(_known, task.totals()), task.licence]
        )
    return Table("tasks", ["task", "title", "languages", "cells", "queries", "passages", "licence"], rows)


def _cells(name: str) -> Table:
    (task,) = select([name])
    cells = task.cells()
    counts = ", ".join(f"{sum(c.setting == s for c in cells)} {s}" for s in task.settings)
    rows: list[list[Value]] = [
        [c.name, c.setting, c.query_language, " ".join(c.passage_languages), *map(_known, task.size(c))] for c in cells
    ]
    head = ["cell", "setting", "query language", "passage languages", "queries", "passages"]
    return Table(f"{task.name} (version {task.version}): {len(cells)} cells: {counts}", head, rows)


@command.command()
@click.argument("name")
@click.option("--from", "folder", required=True, type=click.Path(path_type=Path), help="Folder of the files.")
@click.option(
    "--layout",
    type=click.Choice(("beir", "mteb", "jsonl", "tsv")),
    help="mteb: as the dataset's card (README.md) says; else by names. [mteb where there is such a card]",
)
@click.option(
    "--languages",
    "--language",
    metavar="A,B,...",
    help="Of files whose names tell none: the one that they are in, or those that their rows name. Else which to take.",
)
@click.option("--queries-in", metavar="LANGUAGE", help="Of queries files whose names tell none.")
@click.option("--passages-in", metavar="LANGUAGE", help="Of passages files whose names tell none.")
@click.option(
    "--pairs",
    type=click.Choice(("query-passage", "passage-query")),
    help="Subsets such as de-en are pairs of languages, each with a pool of its own; which side stands first.",
)
@click.option("--split", default="test", show_default=True, help="Of the qrels.")
@click.option("--settings", metavar="A,B,...", help="Of mono, cross, multi. [those that have a query]")
@click.option(
    "--parallel/--no-parallel",
    default=False,
    show_default=True,
    help="Equal ids in two languages are the same question or passage: what is relevant to it in one is in all.",
)
@click.option("-m", "--measure", "measures", multiple=True, metavar="MEASURE", help="The first is the primary one.")
@click.option("--empty", type=click.Choice(("refuse", "leave-out")), help="Passages without text. [refuse]")
@click.option("--dangling", type=click.IntRange(0), default=0, help="How many judged passages may be missing. [0]")
@click.option(
    "--self", "self_", type=click.Choice(("refuse", "keep")), help="Queries that are passages of the pool. [refuse]"
)
@click.option("--answers", is_flag=True, help="Also read answer strings (`answers`, `answer`): HasAnswer@1, EM@1.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File of the task. [NAME.toml]")
@click.option("--force", is_flag=True, help="Replace the file.")
@_FORMAT
def new(
    name: str,
    folder: Path,
    layout: str | None,
    languages: str | None,
    queries_in: str | None,
    passages_in: str | None,
    pairs: str | None,
    split: str,
    settings: str | None,
    parallel: bool,
    measures: tuple[str, ...],
    empty: str | None,
    dangling: int,
    self_: str | None,
    answers: bool,
    output: Path | None,
    force: bool,
    format_: str | None,
) -> None:
    """Make a task NAME of a folder of queries, passages and qrels, which stay where and as they are.

    A BEIR folder, a snapshot of a Hugging Face dataset in MTEB's layout, and JSON Lines, tab-separated and Parquet
    files named by what they hold (corpus, passages or docs; queries or topics; qrels), language and split. Everything
    is read once and checked; the task's file has sizes, SHA-256 and counts. Use it as `-t NAME.toml`.
    """
    from xbench.errors import UsageError
    from xbench.own.new import Order, make
    from xbench.own.plan import Wish
    from xbench.progress import log
    from xbench.task import SETTINGS

    known, wanted = (tuple(x.strip() for x in (text or "").split(",") if x.strip()) for text in (languages, settings))
    if wrong := [s for s in wanted if s not in SETTINGS]:
        raise UsageError(f"setting {wrong[0]!r}; known: {', '.join(SETTINGS)}")
    wish = Wish(tuple(dict.fromkeys(known)), queries_in, passages_in, pairs, wanted)
    order = Order(name, folder, output or Path(f"{name}.toml"), layout, wish, split, parallel, measures)
    order = order._replace(empty=empty, dangling=dangling, self_=self_, answers=answers, force=force)
    made = make(order)
    task = made.task
    what = list(dict.fromkeys(what for found in task.counts.values() for what in found))
    rows: list[list[Value]] = [[key, *(found.get(w) for w in what)] for key, found in task.counts.items()]
    first = "cell" if task.pools == "cell" else "language"
    title = f"{name}: {len(task.cells())} cells: {', '.join(task.settings)}; {len(task.sources)} files"
    show_tables([Table(title, [first, *what], rows)], format_)
    if made.unused:
        log.info("not used: %s", ", ".join(made.unused))
    if sum(made.empty.values()):
        log.info("left out, without text: %s", ", ".join(f"{n} {b}" for b, n in made.empty.items()))
    log.info("%s is written; licence and citation are for you to fill in; use it as -t %s", order.output, order.output)


def _known(n: int) -> int | None:
    """A number; none is known of files that could not be seen when the task was written."""
    return n or None
