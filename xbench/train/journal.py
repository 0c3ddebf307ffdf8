"""What a run says while it trains: lines of JSON, and the same numbers for TensorBoard where that is installed."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from xbench.lines import raw_lines
from xbench.storage import atomic, storage

NUMBER = re.compile(rb'\{"step": (\d+),')


class Journal:
    """`log.jsonl` of a run; an interrupted run goes on as if it had not been: later lines are taken back."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open a run's log after a step.

        Raises:
            StorageError: it cannot be written.
        """
        self._path = folder / "log.jsonl"
        kept = b""
        if self._path.is_file():
            for line in raw_lines(self._path):
                found = NUMBER.match(line)
                if line.endswith(b"\n") and found and int(found[1]) <= step:  # the last one may be cut off
                    kept += line
        with atomic(self._path) as file:
            file.write(kept)
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            with storage(folder, "write"):
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, **values: float) -> None:
        """A line of numbers."""
        with storage(self._path, "write"), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Make sure that everything is written."""
        if self._board is not None:
            self._board.close()
