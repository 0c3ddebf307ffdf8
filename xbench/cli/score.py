"""`xbench score`."""

from pathlib import Path

import click

from xbench.cli.options import (
    cell_option,
    command_line,
    data_option,
    format_option,
    measures_option,
    output_option,
    show_result,
)


@click.command("score")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-t", "--task", "name", required=True, metavar="TASK")
@cell_option
@measures_option
@click.option("--ignore-ranks", is_flag=True, help="Do not refuse a rank column that contradicts the scores.")
@data_option
@output_option
@format_option()
def command(
    run: Path,
    name: str,
    patterns: tuple[str, ...],
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
    """
    from xbench.catalogue import parse_all
    from xbench.readers import read
    from xbench.runs import score_file
    from xbench.storage import writable
    from xbench.tasks import select, select_cells

    (task,) = select([name])
    cells = select_cells(task, patterns)
    wanted = parse_all(measures or task.measures)
    writable(output)
    given = {"cell": patterns, "measures": measures, "ignore-ranks": ignore_ranks or None}
    result = score_file(
        run,
        task,
        read(task, data),
        cells,
        wanted,
        ignore_ranks=ignore_ranks,
        command=command_line("score", str(run), name, given),
    )
    show_result(result, task, output, format_)
