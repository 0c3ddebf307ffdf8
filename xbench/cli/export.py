"""`xbench export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xbench.cli.options import cell_option, data_option, definition_option

if TYPE_CHECKING:
    from xbench.results import Result
    from xbench.task import Task


@click.command("export")
@click.argument("result", type=click.Path(path_type=Path))
@cell_option
@click.option("--depth", type=click.IntRange(1), help="Passages of each query. [the whole pool]")
@click.option(
    "--scores",
    type=click.Choice(["model", "rank"]),
    default="model",
    show_default=True,
    help="rank: minus the rank, which readers that keep float32 (trec_eval 9, pytrec_eval) order the same way.",
)
@click.option("--qrels-only", is_flag=True, help="Write no runs.")
@click.option("--gzip", "gz", is_flag=True, help="Pack the files.")
@click.option("--mteb", is_flag=True, help="Write <task>.mteb.json in the shape of MTEB's results, and nothing else.")
@click.option("--model-card", is_flag=True, help="Write <task>.model-index.yaml for a model card, and nothing else.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the files. [beside the result]")
@definition_option
@data_option
def command(
    result: Path,
    patterns: tuple[str, ...],
    depth: int | None,
    scores: str,
    qrels_only: bool,
    gz: bool,
    mteb: bool,
    model_card: bool,
    output: Path | None,
    definition: str | None,
    data: Path | None,
) -> None:
    """Write TREC qrels and runs of the cells of RESULT, a result file; or its values in others' forms.

    The runs come from the vectors in the cache, ranked again: nothing is encoded. Files are called
    `<task>.<setting>.<languages>.run.trec` and `.qrels.trec`.
    """
    from xbench.export import export_qrels, export_runs
    from xbench.progress import log
    from xbench.readers import parts
    from xbench.results import read_result
    from xbench.sources import default_cache
    from xbench.storage import writable
    from xbench.task import select_cells
    from xbench.tasks import same_task

    stored = read_result(result)
    task = same_task(stored.task, result, definition)
    if mteb or model_card:
        _interchange(stored, task, output or result.parent, mteb=mteb, model_card=model_card)
        return
    cells = select_cells(task, patterns)
    folder = output or result.parent
    writable(folder)
    suffix = ".gz" if gz else ""
    for part in parts(task, data, passages=not qrels_only):
        some = [cell for cell in cells if cell in part.cells]
        export_qrels(task, part.collection, some, folder, suffix)
        if not qrels_only and some:
            export_runs(
                stored,
                task,
                part.collection,
                some,
                folder,
                cache=default_cache(),
                depth=depth,
                scores=scores,
                suffix=suffix,
            )
    log.info("%s: %d cells in %s", task.name, len(cells), folder)


def _interchange(stored: "Result", task: "Task", folder: Path, *, mteb: bool, model_card: bool) -> None:
    """The files of `--mteb` and `--model-card`."""
    import json

    from xbench.modelindex import model_index
    from xbench.mteb import to_mteb
    from xbench.progress import log
    from xbench.storage import atomic

    texts = {}
    if mteb:
        content, lost = to_mteb(stored, task)
        texts["mteb.json"] = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if lost:
            log.info("MTEB has no name for %s: left out", ", ".join(lost))
    if model_card:
        scores = [{"task": stored.task, "values": stored.summary()}]
        texts["model-index.yaml"] = model_index(str(stored.model["name"]), scores)
    for suffix, text in texts.items():
        with atomic(folder / f"{task.name}.{suffix}") as file:
            file.write(text.encode())
        click.echo(folder / f"{task.name}.{suffix}")
