"""`xbench check`."""

import os
from pathlib import Path

import click

from xbench.cli.options import Number, cell_option, definition_option, format_option, measures_option, show_tables


@click.command("check")
@click.argument("paths", metavar="RESULT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    required=True,
    type=click.Path(path_type=Path),
    help="A result of the same task, or the folder with one of the same file name for each RESULT.",
)
@measures_option
@cell_option
@click.option(
    "--alpha",
    type=Number(0, 0.5, True, True),
    default=0.01,
    show_default=True,
    help="How likely a false alarm of the whole command may be, where models differ.",
)
@click.option(
    "--margin",
    type=Number(0, 1),
    default=0.002,
    show_default=True,
    help="A loss up to this is no regression; of measures from 0 to 1.",
)
@click.option(
    "--relative-margin",
    type=Number(0, 1),
    default=0.01,
    show_default=True,
    help="The same for all other measures, such as RankDistance: times the baseline's value.",
)
@click.option("--cluster", default="paragraph", show_default=True, help="As in xbench compare.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML, one test case a test.")
@click.option(
    "--summary", type=click.Path(path_type=Path), help="Write the tables in Markdown; also to $GITHUB_STEP_SUMMARY."
)
@click.option("--github/--no-github", default=None, help="Print GitHub annotations. [where GITHUB_ACTIONS is true]")
@definition_option
@format_option(json=False)
def command(
    paths: tuple[Path, ...],
    baseline: Path,
    measures: tuple[str, ...],
    patterns: tuple[str, ...],
    alpha: float,
    margin: float,
    relative_margin: float,
    cluster: str,
    junit: Path | None,
    summary: Path | None,
    github: bool | None,
    definition: str | None,
    format_: str | None,
) -> int:
    """Fail (exit code 1) if a RESULT is a regression from its baseline.

    The same fingerprint in the same environment must give the same values; the same model in another environment
    (versions, processor) values within 1e-6, or passages of nearly equal score that changed places; another model
    must not be worse by more than the margin in a paired test, over all languages and in each: docs/check.md.
    """
    from xbench.catalogue import parse_all
    from xbench.errors import UsageError
    from xbench.gate.actions import annotations, inert
    from xbench.gate.check import baseline_of, check
    from xbench.gate.junit import junit as as_junit
    from xbench.gate.losses import Rules
    from xbench.gate.pairs import same_task as agree
    from xbench.gate.report import blind, markdown, tables
    from xbench.progress import log
    from xbench.results import read_result
    from xbench.storage import atomic, storage
    from xbench.task import select_cells
    from xbench.tasks import same_task

    for file in filter(None, (junit, summary)):
        with storage(file, "replace"):
            file.unlink(missing_ok=True)  # never beside the error of a later run
    wanted = parse_all(measures)
    rules = Rules(alpha / len(paths), margin, relative_margin, cluster)
    verdicts = []
    for path in paths:
        base = baseline_of(path, baseline)
        if path.is_file() and base.samefile(path):
            raise UsageError(f"{path}: is its own baseline; give --baseline the result of what is good")
        results = read_result(base), read_result(path)
        agree(*results)
        task = same_task(results[1].task, path, definition)
        cells = select_cells(task, patterns)
        verdicts.append(check((base, path), results, wanted or parse_all([task.primary]), cells, rules))
    github = os.environ.get("GITHUB_ACTIONS") == "true" if github is None else github
    found = [table for verdict in verdicts for table in tables(verdict)]
    show_tables([inert(table) for table in found] if github else found, format_)
    for note in filter(None, (blind(verdict.tests) for verdict in verdicts)):
        log.info("%s", note)
    if github:
        click.echo("\n".join(annotations(verdicts)))
    text = markdown(verdicts)
    if junit:
        with atomic(junit) as out:
            out.write(as_junit(verdicts))
    if summary:
        with atomic(summary) as out:
            out.write(text.encode())
    if step := os.environ.get("GITHUB_STEP_SUMMARY"):
        with storage(Path(step), "write"), open(step, "a", encoding="utf-8") as out_step:
            out_step.write(text)
    return int(any(verdict.failed for verdict in verdicts))
