"""`xbench leaderboard`."""

from pathlib import Path

import click

from xbench.cli.options import data_option, definition_option

folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("leaderboards"),
    show_default=True,
    help="Folder of boards, results and reported numbers.",
)


@click.group("leaderboard")
def command() -> None:
    """Render, extend and verify boards of stored results and of numbers that others have reported."""


@command.command("build")
@click.argument("boards", metavar="[BOARD]...", nargs=-1)
@click.option("--check", "only_check", is_flag=True, help="Write nothing; say which files are stale and end with 7.")
@folder_option
def build_command(boards: tuple[str, ...], only_check: bool, folder: Path) -> None:
    """Write the tables and the page of each BOARD; of all boards, and the list of them, without names."""
    from xbench.leaderboard.build import build, check
    from xbench.progress import log

    if only_check:
        log.info("%d files are as `xbench leaderboard build` writes them", check(folder, boards))
        return
    changed = build(folder, boards)
    for path in changed:
        click.echo(path)
    log.info("%d files changed", len(changed))


@command.command("verify")
@click.argument("results", metavar="[RESULT]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Also rank again, from the vectors in the cache.")
@folder_option
@definition_option
@data_option
def verify_command(
    results: tuple[Path, ...], deep: bool, folder: Path, definition: str | None, data: Path | None
) -> None:
    """Recompute every number of each RESULT; of all results of the folder without names.

    Values of cells, means, means by query and by group, and intervals come from the per-query values; these from the
    ranks, where `<task>.ranks.parquet` is beside the result. The files are compared with SHA256SUMS in the folder.
    """
    from xbench.leaderboard.deep import verify_vectors
    from xbench.leaderboard.verify import stored, verify
    from xbench.progress import log, track
    from xbench.sources import default_cache

    chosen = list(results) or stored(folder)
    with track("verifying", len(chosen), "results") as advance:
        for path in chosen:
            report = verify(path, definition)
            again = verify_vectors(path, default_cache(), data, definition) if deep else 0
            by = [f"{report.values} numbers from values of queries"]
            by += [f"{report.per_query} of these from ranks"] if report.per_query else []
            by += [f"{again} from vectors"] if again else []
            by += [f"{report.hashed} files as in SHA256SUMS"] if report.hashed else ["no SHA256SUMS"]
            log.info("%s: %s", path, ", ".join(by))
            advance(1)
    click.echo(f"{len(chosen)} results verified")


@command.command("add")
@click.argument("results", metavar="RESULT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Take it instead of another result of that model and task.")
@folder_option
def add_command(results: tuple[Path, ...], replace: bool, folder: Path) -> None:
    """Check each RESULT, as for a pull request, and copy it into the folder.

    It must be whole, of a task that xbench has as it is now, follow from its own per-query values, and name no path of
    anybody's machine. What is copied are the JSON and the per-query values, and their hashes go into SHA256SUMS.
    """
    from xbench.leaderboard.add import add
    from xbench.progress import log

    for path in results:
        where = add(path, folder, replace=replace)
        click.echo(where or path)
        log.info("%s: %s", path, "added; now run `xbench leaderboard build`" if where else "is there already")


@command.command("import")
@click.argument("files", metavar="MTEB_JSON...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--task", required=True, help="The task of xbench that the files are of, such as xquad for XQuADRetrieval."
)
@click.option("--system", required=True, help="The model's name, as the board shows it.")
@click.option("--source", required=True, help="Name of the CSV in reported/, to which the values are appended.")
@folder_option
def import_command(files: tuple[Path, ...], task: str, system: str, source: str, folder: Path) -> None:
    """Take result files of MTEB, of one model, as reported values.

    Only measures and subsets that the task has as well are taken; others are counted and said. Cite the files in
    reported/SOURCE.toml, and name the source in the board.
    """
    from xbench.leaderboard.imported import import_mteb
    from xbench.tasks import load_task

    click.echo(import_mteb(files, load_task(task), system, source, folder))
