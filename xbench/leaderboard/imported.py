"""MTEB's result files as numbers that others have reported."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from xbench.errors import DataError, UsageError
from xbench.leaderboard.means import key_of
from xbench.leaderboard.reported import HEADER, read_rows
from xbench.mteb import read_mteb
from xbench.progress import log
from xbench.storage import atomic, storage
from xbench.task import Task
from xbench.tasks import NAME


def import_mteb(paths: Sequence[Path], task: Task, system: str, source: str, folder: Path) -> Path:
    """Append the values of MTEB files of one model to `reported/<source>.csv`, made if it is not there.

    The citation, `reported/<source>.toml`, is for a person to write: where the files come from.

    Raises:
        UsageError: a file is of another task, or the CSV has a value already.
        DataError: a file is not in its form, or a value is no number from 0 to 1.
        StorageError: a file cannot be read or written.
    """
    if not re.fullmatch(NAME, source):
        raise UsageError(f"source {source!r}: expected letters, digits, dots, hyphens and underscores: a file's name")
    if not system.strip() or not system.isprintable():
        raise UsageError(f"system {system!r:.80}: expected the model's name, a line of text")
    target = folder / "reported" / f"{source}.csv"
    known = {(row.task, row.system, row.key, row.measure) for row in read_rows(target)} if target.is_file() else set()
    lines: list[list[object]] = []
    for path in paths:
        found = read_mteb(path, task)
        for what, times in sorted(found.others.items()):
            log.info("%s: not imported: %s, %d times", path, what, times)
        for cell, values in found.values.items():
            for measure, value in values.items():
                key = key_of(cell)
                if (task.name, system, key, measure) in known:
                    raise UsageError(
                        f"{target}: has {measure} of {system} in {cell.name} already; another source, or system"
                    )
                known.add((task.name, system, key, measure))
                start = [task.name, task.version, system, *key, "", measure]
                lines.append([*start, f"{value:.10f}".rstrip("0").rstrip("."), path.name])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    before = f"{HEADER}\n".encode()
    if target.is_file():
        with storage(target, "read"):
            before = target.read_bytes()
        if not before.endswith(b"\n"):
            raise DataError(f"{target}: its last line does not end; add a line feed")
    with atomic(target) as file:
        file.write(before + out.getvalue().encode())
    log.info("%s: %d values of %s", target, len(lines), system)
    return target
