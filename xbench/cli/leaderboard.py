"""`xbench leaderboard`."""

from pathlib import Path

import click

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
