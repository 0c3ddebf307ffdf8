"""The card of a Hugging Face dataset: which files its README.md says that a configuration and a split have.

https://huggingface.co/docs/hub/datasets-manual-configuration: between two lines `---` stands YAML with `configs`, a
list of `config_name` and `data_files`, which is a path, a list of paths, a map of split to paths, or a list of
`split` and `path`; paths may be patterns. Such a file is somebody else's: no tag, no reference and no key twice is
taken, and every value is a text (else the language `no` would be the value false).
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from xbench.errors import DataError, UnsafeInput
from xbench.storage import storage

# Bytes; cards of datasets with hundreds of configurations have some hundred thousand.
LONGEST = 1 << 22
# What a file without a split is, as in Hugging Face's datasets.
ALONE = "train"


class Card(NamedTuple):
    """Configuration -> split -> files, as paths below the folder; and what the card says of its licence."""

    configs: dict[str, dict[str, list[str]]]
    licence: str


class _Texts(yaml.BaseLoader):  # type: ignore[misc]
    """YAML in which every scalar is a text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise UnsafeInput(f"line {event.start_mark.line + 1}: a reference (*{event.anchor})")
        if getattr(event, "tag", None) is not None:
            raise UnsafeInput(f"line {event.start_mark.line + 1}: a tag ({event.tag})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(problem=f"key {twice[0]!r} twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def read_card(folder: Path) -> Card:
    """What the README.md of a folder says; nothing if there is none or it has no YAML.

    Raises:
        DataError: not UTF-8, too large, not YAML, `configs` of another form, a pattern without a file.
        UnsafeInput: YAML with tags or references, a path that leads out of the folder.
        StorageError: it cannot be read.
    """
    path = folder / "README.md"
    if not path.is_file():
        return Card({}, "")
    with storage(path, "read"), path.open("rb") as file:
        content = file.read(LONGEST + 1)
    try:
        if len(content) > LONGEST:
            raise ValueError(f"more than {LONGEST} bytes")
        match = re.match(r"---[ \t]*\r?\n(.*?\n)---[ \t]*(\r?\n|$)", content.decode().removeprefix("\ufeff"), re.S)
        said = yaml.load(match[1], _Texts) if match else {}  # noqa: S506 (a loader that makes texts and nothing else)
        configs = said.get("configs", []) if isinstance(said, dict) else []
        found = {str(each["config_name"]): _splits(folder, path, each["data_files"]) for each in configs}
        return Card(found, said.get("license", "") if isinstance(said.get("license", ""), str) else "")
    except UnsafeInput as error:
        raise UnsafeInput(f"{path}: {error}; expected plain YAML; remove it, or see --layout") from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise DataError(
            f"{path}: not a dataset's card: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _splits(folder: Path, card: Path, said: Any) -> dict[str, list[str]]:
    if isinstance(said, str) or (isinstance(said, list) and all(isinstance(each, str) for each in said)):
        said = {ALONE: said}
    if isinstance(said, list):
        said = {each["split"]: each["path"] for each in said}
    return {split: _files(folder, card, paths) for split, paths in said.items()}


def _files(folder: Path, card: Path, patterns: str | list[str]) -> list[str]:
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if pattern.startswith(("/", "~")) or ".." in pattern.split("/") or "\\" in pattern or ":" in pattern:
            raise UnsafeInput(f"path {pattern!r} leads out of the folder")
        paths = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file())
        if not paths:
            raise DataError(f"{card}: {pattern!r} matches no file in {folder}; is the snapshot whole?")
        found += [path for path in paths if path not in found]
    return found
