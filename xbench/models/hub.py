"""Where a checkpoint lies: a folder as it is, or a name on the hub, fetched at a revision."""

import re
from pathlib import Path
from typing import NamedTuple

from xbench.errors import UnsafeInput, UsageError
from xbench.models import is_folder
from xbench.models.checkpoint import quiet

COMMIT = re.compile("[0-9a-f]{40}")
# What is fetched, and hashed into the identity: weights, configs, modules, and tokenizers of every kind.
SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja", ".spm", ".codes", ".vocab", ".tiktoken")
CARD = "README.md"  # fetched for its `base_model`; no part of the identity


class Place(NamedTuple):
    """A checkpoint on this machine."""

    folder: Path
    name: str
    """As spelled, without revision."""
    spelling: str
    """With the commit where it came from the hub: the same words give the same weights."""
    fetched: bool


def find(spelling: str, revision: str | None, *, code: bool) -> Place:
    """The folder of a checkpoint, fetched if need be.

    Args:
        spelling: `hf:NAME_OR_DIR[@REVISION]`, with or without `hf:`.
        revision: branch, tag or commit, from the option; the same as in the spelling if both are given.
        code: whether Python files are fetched too.

    Raises:
        UsageError: two revisions, or a folder with a branch.
        UnsafeInput: code of a branch or tag, which may be another one tomorrow.
        FileNotFoundError: no such folder. The library raises much else for names.
    """
    rest = spelling.removeprefix("hf:")
    if is_folder(rest):
        if revision and not (code and re.fullmatch("[0-9a-f]{64}", revision)):
            raise UsageError(f"{rest} is a folder, which has no revision; with --allow-code, give its code's sha256")
        return Place(Path(rest).expanduser(), rest, spelling, False)
    if rest.startswith((".", "/", "~")):
        raise FileNotFoundError("no such folder")
    name, _, inside = rest.partition("@")
    if inside and revision and inside != revision:
        raise UsageError(f"{spelling} and --revision {revision} are two revisions; give one")
    revision = inside or revision or None
    for part in (name, revision or ""):
        if ".." in part or part.startswith("/") or not re.fullmatch(r"[\w./-]*", part):
            raise UnsafeInput(f"{part!r:.100} is no name or revision on the hub; it could lead out of its cache")
    if code and not COMMIT.fullmatch(revision or ""):
        raise UnsafeInput(f"code of {name} at {revision or 'main'}, which may change, is not run; give its full commit")
    from huggingface_hub import snapshot_download

    suffixes = [*SUFFIXES, ".py"] if code else [*SUFFIXES]
    patterns = [*(f"*{suffix}" for suffix in suffixes), CARD]  # a * matches slashes too: sub-folders are included
    with quiet:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    pinned = COMMIT.fullmatch(folder.name) and folder.parent.name == "snapshots"
    return Place(folder, name, f"hf:{name}@{folder.name}" if pinned else spelling, True)
