"""Options that several commands share, and the way a result is shown."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from xbench.large import Large
    from xbench.results import Result
    from xbench.tables import Table
    from xbench.task import Task

Command = Callable[..., Any]


class Number(click.FloatRange):
    """A number in a range; NaN, which is neither below nor above anything, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return found


def data_option(function: Command) -> Command:
    """`--data DIR`."""
    return click.option(
        "--data",
        envvar="XBENCH_DATA",
        type=click.Path(path_type=Path),
        help="Folder DIR/<task>/... of sources at hand, instead of fetching them. [XBENCH_DATA]",
    )(function)


def format_option(*, json: bool = True) -> Callable[[Command], Command]:
    """`--format`."""
    from xbench.tables import FORMATS

    return click.option(
        "--format",
        "format_",
        type=click.Choice([*FORMATS, "json"] if json else FORMATS),
        help="Of the tables"
        + ("; json: the result, one line a task." if json else ".")
        + " [rich on a terminal, else md]",
    )


def output_option(function: Command) -> Command:
    """`-o DIR`."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=Path("results"),
        show_default=True,
        help="Folder of the results.",
    )(function)


def measures_option(function: Command) -> Command:
    """`-m MEASURE`."""
    return click.option(
        "-m",
        "--measure",
        "measures",
        multiple=True,
        metavar="MEASURE",
        help="In ir-measures' spelling; may be repeated. [the task's]",
    )(function)


def cell_option(function: Command) -> Command:
    """`--cell PATTERN`."""
    return click.option(
        "--cell",
        "patterns",
        multiple=True,
        metavar="PATTERN",
        help="Such as multi/en, mono/* or cross/ar-*; may be repeated. [all cells]",
    )(function)


def definition_option(function: Command) -> Command:
    """`-t FILE`, of a result whose task is one's own."""
    return click.option(
        "-t",
        "--task",
        "definition",
        metavar="FILE",
        help="The definition (.toml) of the result's task, if it is yours.",
    )(function)


def vary_options(function: Command) -> Command:
    """`--languages`, `--setting`."""
    for option in (
        click.option("--languages", metavar="A,B,...", help="Only these languages of the tasks. [all]"),
        click.option(
            "--setting",
            "settings",
            multiple=True,
            metavar="SETTING",
            help="mono, cross or multi, may be repeated; also those that a task has only if asked for. [the task's]",
        ),
    ):
        function = option(function)
    return function


def group_options(function: Command) -> Command:
    """`--by`, `--groups`."""
    for option in (
        click.option(
            "--by",
            multiple=True,
            metavar="GROUPING",
            help="Also means by groups of languages: script, family, resource or seen:NAME; may be repeated.",
        ),
        click.option(
            "--groups",
            "group_files",
            multiple=True,
            type=click.Path(path_type=Path),
            help="TOML with groupings of one's own, [NAME] GROUP = [languages]; may be repeated.",
        ),
    ):
        function = option(function)
    return function


def varied(
    names: list[str], languages: str | None, settings: tuple[str, ...], *, context: bool = False
) -> "list[Task]":
    """The tasks of the given names, as `tasks.select` and `task.vary`."""
    from xbench.task import vary
    from xbench.tasks import select

    chosen = [language.strip() for language in (languages or "").split(",") if language.strip()]
    return [vary(task, languages=chosen, settings=settings, context=context) for task in select(names)]


def result_options(function: Command) -> Command:
    """Where results go and how they are shown."""
    for option in (
        output_option,
        format_option(),
        click.option("--threads", type=click.IntRange(1), help="For scoring; never changes a number. [all processors]"),
        click.option(
            "--run-depth",
            type=click.IntRange(0),
            default=0,
            help="Also write TREC runs and qrels of every cell, this many passages a query (see xbench export).",
        ),
    ):
        function = option(function)
    return function


def model_options(function: Command) -> Command:
    """How to run a model; all of them are part of its fingerprint. `models.TAKES`: which kind takes which."""
    for option in (
        click.option("--pooling", help="mean, cls or last; for plain checkpoints. [its family's, else mean]"),
        click.option(
            "--normalize/--no-normalize",
            default=None,
            help="Scale vectors to length 1. [as the checkpoint or its family say, else yes]",
        ),
        click.option("--prompt-query", help="Put before each query. [as the checkpoint says, else none]"),
        click.option("--prompt-passage", help="Put before each passage. [as the checkpoint says, else none]"),
        click.option("--max-length", type=click.IntRange(1), help="Tokens, special ones included. [the checkpoint's]"),
        click.option("--dim", type=click.IntRange(1), help="Keep the first dimensions (Matryoshka). [all]"),
        click.option("--revision", help="Branch, tag or commit on the hub; same as NAME@REVISION. [main]"),
        click.option(
            "--allow-code",
            is_flag=True,
            help="Run the checkpoint's own Python files; needs a full commit hash, or --revision with a folder's hash.",
        ),
        click.option("--dtype", default="float32", show_default=True, help="float32, bfloat16, float16 or int8."),
        click.option("--backend", help="torch, or openvino: faster on a processor; needed for int8. [torch]"),
        click.option("--device", help="cpu, cuda, cuda:1, mps. [cuda where there is one, else cpu]"),
        click.option(
            "--batch-tokens", type=click.IntRange(1), help="Padded tokens in a batch. [what suits the device]"
        ),
    ):
        function = option(function)
    return function


def large_options(function: Command) -> Command:
    """How pools too large to hold are worked on; part of a model's fingerprint there."""
    for option in (
        click.option("--shard-rows", type=click.IntRange(1), help="Passages whose vectors are held at once. [65536]"),
        click.option("--index", metavar="FACTORY", help="flat (exact), or FAISS's such as IVF4096,SQ8. [flat]"),
        click.option("--nprobe", type=click.IntRange(1), help="Lists that an IVF index searches. [1]"),
        click.option("--depth", type=click.IntRange(1), help="Passages that such an index proposes. [1000]"),
    ):
        function = option(function)
    return function


def as_large(asked: dict[str, Any]) -> "Large":
    """What `large_options` ask for.

    Raises:
        UsageError: an option without an index that takes it.
    """
    from xbench.approximate import FLAT, Variant
    from xbench.errors import UsageError
    from xbench.large import Large

    rows, index, nprobe, depth = asked.values()
    if index in (None, FLAT) and (nprobe or depth):
        raise UsageError("--nprobe and --depth are for an approximate --index; the flat one is exact")
    defaults = Variant()
    return Large(rows or Large().rows, Variant(index or FLAT, nprobe, depth or defaults.depth))


def show_result(result: "Result", task: "Task", output: Path, format_: str | None) -> None:
    """Write a result and print it."""
    from xbench import tables
    from xbench.progress import log
    from xbench.results import write_result

    path = write_result(result, output / result.model["slug"])
    log.info("%s: %d cells in %s", task.name, len(result.cells), path)
    if format_ == "json":
        click.echo(json.dumps(result.to_json(), ensure_ascii=False, allow_nan=False))
        return
    in_cross = [name for cell in result.cells if cell.cell.setting == "cross" for name in cell.values]
    primary = task.primary if task.primary in in_cross else next(iter(in_cross), task.primary)
    show_tables(tables.tables(result, primary), format_)


def show_tables(found: "list[Table]", format_: str | None) -> None:
    """Print tables; on a terminal drawn, else by default in Markdown."""
    from xbench import tables

    if (format_ or ("rich" if sys.stdout.isatty() else "md")) == "rich":
        tables.print_rich(found)
    else:
        click.echo(tables.render(found, format_ or "md"))


def command_line(command: str, subject: str, task: str, given: dict[str, Any]) -> str:
    """The command that gives these numbers again, without what moves none (folders, threads, format)."""
    import shlex

    words = ["xbench", command, subject, "-t", task]
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name == "measures":
            words += [word for measure in value for word in ("-m", measure)]
        elif name in ("cell", "setting", "by", "groups"):
            words += [word for each in value for word in (option, str(each))]
        elif name == "allow_code":
            words += [option] if value else []
        elif isinstance(value, bool):
            words.append(option if value else f"--no-{name}")
        elif value is not None and (name, value) != ("dtype", "float32"):
            words += [option, str(value)]
    return shlex.join(words)
