"""What a training run says of itself: `config.json` from the start, `training.json` when it is finished."""

from pathlib import Path
from typing import Any

from xbench.errors import DataError
from xbench.strictjson import read_json
from xbench.train.config import Config


def record(config: Config, folder: Path) -> Any:
    """The `training.json` of a finished run; None of one that is not finished, or not begun.

    Raises:
        DataError: the folder holds the run of another config.
    """
    for name in ("training.json", "config.json"):
        path = folder / name
        if path.is_file():
            about: Any = read_json(path)
            if type(about) is not dict or about.get("sha256") != config.sha256:
                raise DataError(f"{path}: of another config than this one; choose another folder, or move it away")
            return about if name == "training.json" else None
    return None
