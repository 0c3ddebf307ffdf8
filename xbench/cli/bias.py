"""`xbench bias`."""

import json
import math
from pathlib import Path

import click

from xbench.cli.options import definition_option, format_option, group_options, show_tables


@click.command("bias")
@click.argument("result", type=click.Path(path_type=Path))
@click.option(
    "-k", "k", type=click.IntRange(1), default=20, show_default=True, help="Cut-off of the measures that have one."
)
@click.option(
    "--cluster", default="paragraph", show_default=True, help="Of the intervals: paragraph, question or query."
)
@group_options
@definition_option
@format_option()
def command(
    result: Path,
    k: int,
    cluster: str,
    by: tuple[str, ...],
    group_files: tuple[Path, ...],
    definition: str | None,
    format_: str | None,
) -> None:
    """How far the language of a passage, rather than its meaning, decides its rank in RESULT, a result file.

    All from what the run has stored: ranks of the relevant passages in the joint pool, and the first passages of
    each query (100, if no measure wanted more). What each measure is: docs/bias.md.
    """
    from dataclasses import replace

    from xbench.groups import groupings
    from xbench.language import bias_result, heat_maps, multi_cells
    from xbench.results import read_ranks, read_result
    from xbench.tables import bias_tables
    from xbench.tasks import same_task

    stored = read_result(result)
    multi_cells(stored)  # else there are no ranks to read
    table = read_ranks(result, stored)
    if by or group_files:
        stored = replace(stored, groupings=groupings(same_task(stored.task, result, definition), by, group_files))
    found = bias_result(stored, table, k, cluster)
    maps = heat_maps(table, [cell.cell for cell in found.cells])
    if format_ == "json":
        cells = {cell.cell.query_language: cell.values for cell in found.cells}
        matrices = {
            title: [[None if math.isnan(v) else v for v in row] for row in m.tolist()] for title, m in maps.items()
        }
        content = {
            "task": found.task,
            "model": found.model["name"],
            "by_language": cells,
            "mean": found.summary().get("multi", {}),
            "intervals": found.intervals.get("multi", {}),
            "groups": found.groups(),
            "languages": list(table.languages),
            "maps": matrices,
        }
        click.echo(json.dumps(content, ensure_ascii=False, allow_nan=False))
        return
    show_tables(bias_tables(found, maps, table.languages), format_)
