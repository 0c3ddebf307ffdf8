"""Checkpoints in the layout of Hugging Face: `hf:NAME_OR_DIR[@REVISION]`, as safetensors and without code of their own.

A folder with `modules.json` is run by sentence-transformers, any other one by transformers and a pooling.
"""

import importlib.metadata
import re
from pathlib import Path

from xbench.errors import DataError, UsageError, XbenchError, unknown
from xbench.models import Encoder, Options
from xbench.models.backends import check
from xbench.models.checkpoint import HfEncoder, load_sentence_transformers, load_transformers, quiet
from xbench.models.safety import safe_files
from xbench.storage import sha256

POOLINGS = ("mean", "cls", "last")
# What is fetched, and hashed into the identity: weights, configs, modules, and tokenizers of every kind.
SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja", ".spm", ".codes", ".vocab", ".tiktoken")


def load_hf(spelling: str, options: Options) -> Encoder:
    """The encoder of a checkpoint: a folder, else a name on the hub.

    Raises:
        UsageError: an option that is unknown, not possible on this machine, or at odds with the checkpoint.
        DataError: no such folder or hub name, or files that are missing or broken.
        UnsafeInput: files that could run code; found before anything that could run them is imported.
    """
    if (options.pooling or "mean") not in POOLINGS:
        raise unknown("pooling", str(options.pooling), POOLINGS)
    try:
        folder = _folder(spelling)
        files = safe_files(folder)
        device = _device(options.device)
        check(options, device)
        with quiet:
            load = load_sentence_transformers if "modules.json" in files else load_transformers
            loaded = load(folder, options, device)
    except XbenchError:
        raise
    except Exception as error:  # offline, unknown, broken: on all of these the libraries raise anything
        cure = "give the folder of a whole checkpoint, or a name on the hub and a network"
        raise DataError(f"cannot load {spelling}: {error!r:.300}; {cure}") from error
    packages = ["torch", "transformers", "tokenizers"] + ["sentence-transformers"] * ("modules.json" in files)
    packages += ["openvino"] * (options.backend == "openvino")
    identity: dict[str, object] = {
        "kind": "hf",
        "files": {name: sha256(files[name]) for name in sorted(files) if name.endswith(SUFFIXES)},
        **loaded.told,
        **{side: getattr(loaded.tokenizer, side, None) for side in ("padding_side", "truncation_side")},
        "dtype": options.dtype,
        "device": device.partition(":")[0],
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }
    # A snapshot of the hub is called by its commit: with it, the command in the result gives the same weights.
    pinned = re.fullmatch("[0-9a-f]{40}", folder.name) and folder.parent.name == "snapshots"
    rest = spelling.removeprefix("hf:")
    name = f"hf:{rest.partition('@')[0]}@{folder.name}" if pinned and not Path(rest).is_dir() else spelling
    return HfEncoder(name, identity, loaded)


def _device(asked: str | None) -> str:
    import torch

    found = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    device = asked or ("cuda" if found["cuda"] else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise unknown("device", device, ["cpu", "cuda", "cuda:1", "mps"])
    kind, _, index = device.partition(":")
    if int(index or 0) >= found[kind]:
        raise UsageError(f"no device {device} on this machine; it has {', '.join(k for k in found if found[k])}")
    return device


def _folder(spelling: str) -> Path:
    rest = spelling.removeprefix("hf:")
    if (folder := Path(rest).expanduser()).is_dir():
        return folder
    if rest.startswith((".", "/", "~")):
        raise FileNotFoundError("no such folder")
    from huggingface_hub import snapshot_download

    name, _, revision = rest.partition("@")
    with quiet:  # a * in a pattern matches slashes too: sub-folders are included
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=[f"*{s}" for s in SUFFIXES]))
