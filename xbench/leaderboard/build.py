"""Writes what is made from boards, or says what of it is stale."""

from collections.abc import Callable, Sequence
from pathlib import Path

from xbench.errors import DataError, IntegrityError
from xbench.leaderboard import render
from xbench.leaderboard.boards import board_names, load_board
from xbench.leaderboard.page import page
from xbench.leaderboard.rows import Sheet
from xbench.leaderboard.sheet import build_sheet
from xbench.progress import track
from xbench.storage import atomic, storage

FOLDERS = {"md": "tables", "csv": "tables", "tex": "tables", "html": "pages"}


def renderers() -> dict[str, Callable[[Sheet], str]]:
    """Suffix -> what makes the text of such a file."""
    return {"md": render.markdown, "csv": render.csv_text, "tex": render.latex_text, "html": page}


def rendered(folder: Path, names: Sequence[str] = ()) -> dict[Path, bytes]:
    """File -> content, of the boards of the given names; of all boards, and of README.md, without names.

    Raises:
        XbenchError: as `boards.load_board` and `entries.entries`.
        DataError: there is no board.
    """
    if not board_names(folder):
        raise DataError(f"{folder}: no boards; expected a folder with files BOARD.toml, see --folder")
    chosen = list(dict.fromkeys(names)) or board_names(folder)
    found: dict[Path, bytes] = {}
    sheets = []
    with track("boards", len(chosen), "boards") as advance:
        for name in chosen:
            sheets.append(build_sheet(load_board(folder, name), folder))
            for suffix, make in renderers().items():
                found[folder / FOLDERS[suffix] / f"{name}.{suffix}"] = make(sheets[-1]).encode()
            advance(1)
    if not names:
        found[folder / "README.md"] = render.index(sheets).encode()
    return found


def build(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """Write the files of boards; returns those that have changed. As `rendered`.

    Without names, rendered files of boards that are no more are removed.

    Raises:
        StorageError: a file cannot be written.
    """
    changed = []
    files = rendered(folder, names)
    for path, content in files.items():
        if _content(path) != content:
            with atomic(path) as file:
                file.write(content)
            changed.append(path)
    for path in [] if names else _orphans(folder, files):
        with storage(path, "remove"):
            path.unlink()
        changed.append(path)
    return changed


def check(folder: Path, names: Sequence[str] = ()) -> int:
    """See that the files of boards are what `build` would write; returns how many there are.

    Raises:
        IntegrityError: some are not.
    """
    files = rendered(folder, names)
    stale = [path for path, content in files.items() if _content(path) != content]
    stale += [] if names else _orphans(folder, files)
    if stale:
        shown = ", ".join(str(path) for path in stale[:5]) + (", ..." if len(stale) > 5 else "")
        raise IntegrityError(f"{len(stale)} of {len(files)} files are stale: {shown}; run `xbench leaderboard build`")
    return len(files)


def _content(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    with storage(path, "read"):
        return path.read_bytes()


def _orphans(folder: Path, files: dict[Path, bytes]) -> list[Path]:
    """Rendered files that no board makes."""
    kinds = {suffix: FOLDERS[suffix] for suffix in renderers()}
    return sorted(p for suffix, name in kinds.items() for p in (folder / name).glob(f"*.{suffix}") if p not in files)
