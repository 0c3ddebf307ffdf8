"""`xbench score`."""

from pathlib import Path
from typing import Any

import click

from xbench.cli.options import (
    cell_option,
    command_line,
    data_option,
    format_option,
    group_options,
    measures_option,
    output_option,
    show_result,
    varied,
    vary_options,
)


@click.command("score")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-t", "--task", "name", required=True, metavar="TASK", help="Or a file of your own (.toml).")
@cell_option
@vary_options
@group_options
@measures_option
@click.option("--ignore-ranks", is_flag=True, help="Do not refuse a rank column that contradicts the scores.")
@data_option
@output_option
@format_option()
def command(
    run: Path,
    name: str,
    patterns: tuple[str, ...],
    languages: str | None,
    settings: tuple[str, ...],
    by: tuple[str, ...],
    group_files: tuple[Path, ...],
    measures: tuple[str, ...],
    ignore_ranks: bool,
    data: Path | None,
    output: Path,
    format_: str | None,
) -> None:
    """Score RUN, a TREC run (plain or gzip) of any system, on a task.

    Query ids are `<language>:<question id>`, so one file may hold queries of all languages. Each cell is scored on
    the run restricted to its queries and its pool: a run of the joint pool gives every cell; a run of one cell is
    scored with --cell. A query that the run lacks counts 0 and is counted as missing. Ties are broken by the ranking
    rule (passage id, descending), not by the order of the lines. Measures that only ir-measures has can be used too.

    A run in one language may leave `<language>:` out of its ids. Corpora need not be at hand: topics and qrels do.
    """
    from xbench.catalogue import parse_all
    from xbench.errors import UsageError
    from xbench.groups import groupings
    from xbench.readers import parts, pin
    from xbench.runs import score_file
    from xbench.storage import writable
    from xbench.task import select_cells

    (task,) = varied([name], languages, settings)
    cells = select_cells(task, patterns)
    groups = groupings(task, by, group_files)
    wanted = parse_all(measures or task.measures)
    writable(output)
    given: dict[str, Any] = {"cell": patterns, "languages": languages, "setting": settings, "measures": measures}
    given |= {"by": by, "groups": group_files, "ignore-ranks": ignore_ranks or None}
    task = pin(task, data, passages=False)
    having = [part for part in parts(task, data, passages=False) if set(part.cells) & set(cells)]
    if len(having) > 1:
        raise UsageError(f"every cell of {task.name} has a pool of its own; score a run of one with --cell")
    result = score_file(
        run,
        task,
        having[0].collection,
        cells,
        wanted,
        ignore_ranks=ignore_ranks,
        groups=groups,
        command=command_line("score", str(run), name, given),
    )
    show_result(result, task, output, format_)
