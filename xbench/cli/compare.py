"""`xbench compare`."""

from pathlib import Path

import click

from xbench.cli.options import (
    Number,
    data_option,
    definition_option,
    format_option,
    group_options,
    measures_option,
    show_tables,
)


@click.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("others", metavar="SECOND...", nargs=-1, required=True, type=click.Path(path_type=Path))
@measures_option
@group_options
@click.option(
    "--cluster", default="paragraph", show_default=True, help="What is drawn as one: paragraph, question or query."
)
@click.option(
    "--alpha",
    type=Number(0, 1, True, True),
    default=0.05,
    show_default=True,
    help="Of the smallest difference that could have been seen.",
)
@click.option(
    "--changed",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Also the N queries of each setting that differ most.",
)
@definition_option
@data_option
@format_option(json=False)
def command(
    first: Path,
    others: tuple[Path, ...],
    measures: tuple[str, ...],
    by: tuple[str, ...],
    group_files: tuple[Path, ...],
    cluster: str,
    alpha: float,
    changed: int,
    definition: str | None,
    data: Path | None,
    format_: str | None,
) -> None:
    """Compare result files of one task with the FIRST, query by query; differences are SECOND - FIRST.

    For each setting, each group of languages (--by) and each cell: a bootstrap interval of the difference (95 %), the
    p of a paired randomisation test, for cells corrected by Holm over their setting, for groups over all groups, effect
    size d_z, wins, ties and losses, and the smallest true difference that a test on so many queries finds with a power
    of 80 %. With several SECONDs, p is corrected over all of them too, and there is a table of cells won and lost.
    """
    from dataclasses import replace

    from xbench.catalogue import parse_all
    from xbench.gate.compare import compare_all
    from xbench.gate.show import changed_tables, tally_tables
    from xbench.groups import groupings
    from xbench.results import read_result
    from xbench.tables import comparison_tables
    from xbench.tasks import same_task

    base = read_result(first)
    task = same_task(base.task, first, definition)
    base = replace(base, groupings=groupings(task, by, group_files))
    wanted = parse_all(measures or [task.primary])
    results = []
    for path in others:
        other = read_result(path)
        if base.task.get("pinned") != other.task.get("pinned"):  # then their hashes can't be compared as they are
            same_task(base.task, first)
            same_task(other.task, path)
        results.append(other)
    found = compare_all(base, results, wanted, cluster=cluster, alpha=alpha)
    shown = [
        table for other, rows in zip(results, found, strict=True) for table in comparison_tables(base, other, rows)
    ]
    if len(results) > 1:
        shown += tally_tables(base, results, found, wanted, alpha)
    if changed:
        shown += changed_tables([(first, base), *zip(others, results, strict=True)], wanted, changed, task, data)
    show_tables(shown, format_)
