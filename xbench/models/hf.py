"""Checkpoints in the layout of Hugging Face: `hf:NAME_OR_DIR[@REVISION]`, as safetensors and without code of their own.

A folder with `modules.json` is run by sentence-transformers, any other one by transformers and a pooling.
"""

import hashlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from xbench.errors import DataError, IntegrityError, UnsafeInput, UsageError, XbenchError, unknown
from xbench.models import Encoder, Options
from xbench.models.backends import check
from xbench.models.checkpoint import HfEncoder, load_sentence_transformers, load_transformers, quiet
from xbench.models.families import by_name, complete, recognise
from xbench.models.hub import SUFFIXES, find
from xbench.models.safety import safe_files
from xbench.progress import log
from xbench.storage import sha256

# What tokenizers written in Python compute with.
SLOW = ("sentencepiece", "tiktoken", "protobuf", "fugashi", "ipadic", "unidic-lite", "jieba", "sacremoses", "nltk")
POOLINGS = ("mean", "cls", "last")


def load_hf(spelling: str, options: Options) -> Encoder:
    """The encoder of a checkpoint: a folder, else a name on the hub.

    Raises:
        UsageError: an option that is unknown, not possible on this machine, or at odds with the checkpoint; a prompt
            that its authors ask for and that is set nowhere.
        DataError: no such folder or hub name, or files that are missing or broken.
        UnsafeInput: files that could run code; found before anything that could run them is imported.
    """
    if (options.pooling or "mean") not in POOLINGS:
        raise unknown("pooling", str(options.pooling), POOLINGS)
    if options.dim is not None and options.dim < 1:
        raise UsageError(f"dim {options.dim} is not possible; give at least 1")
    try:
        place = find(spelling, options.revision, code=options.allow_code)
        files, code = _checked(place.folder, place.name, options)
        if code:
            _pin(files, code, place.fetched, options)
            log.info("%s: runs %d Python files of the checkpoint (%s)", place.spelling, len(code), ", ".join(code))
        options = replace(options, allow_code=bool(code))
        options = complete(options, recognise(place.name, files), files, place.spelling)
        device = _device(options.device)
        check(options, device)
        hashed = {*(name for name in files if name.endswith(SUFFIXES)), *code}
        hashes = {name: sha256(files[name]) for name in sorted(hashed)}
        before = _state(files)
        with quiet:
            load = load_sentence_transformers if "modules.json" in files else load_transformers
            loaded = load(place.folder, options, device)
        if changed := sorted(name for name, state in _state(files).items() if state != before[name]):
            raise IntegrityError(f"{files[changed[0]]} was changed while it was read; run again when it is written")
    except XbenchError:
        raise
    except Exception as error:  # offline, unknown, broken: on all of these the libraries raise anything
        cure = "give the folder of a whole checkpoint, or a name on the hub and a network"
        raise DataError(f"cannot load {spelling}: {error!r:.300}; {cure}") from error
    packages = ["torch", "transformers", "tokenizers"] + ["sentence-transformers"] * ("modules.json" in files)
    packages += ["openvino"] * (options.backend == "openvino")
    packages += [] if getattr(loaded.tokenizer, "is_fast", True) else [name for name in SLOW if _has(name)]
    identity: dict[str, object] = {
        "kind": "hf",
        "files": hashes,
        "code": bool(code),
        **loaded.told,
        **{side: getattr(loaded.tokenizer, side, None) for side in ("padding_side", "truncation_side")},
        "dtype": options.dtype,
        "device": device.partition(":")[0],
        "processor": _processor(device),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }
    return HfEncoder(place.spelling, identity, loaded)


def _checked(folder: Path, name: str, options: Options) -> tuple[dict[str, Path], list[str]]:
    """As `safe_files`; of a family known to need code of its own, that is said."""
    try:
        return safe_files(folder, allow_code=options.allow_code)
    except UnsafeInput as error:
        family = None if options.allow_code else by_name(name)
        if family and family.code:
            raise UnsafeInput(f"{error} ({name} needs code of its own: {family.url})") from error
        raise


def _pin(files: Mapping[str, Path], code: Sequence[str], fetched: bool, options: Options) -> None:
    """Code on the hub is pinned by its commit; that of a folder by the SHA-256 over its files' names and SHA-256."""
    lines = "".join(f"{sha256(files[name])}  {name}\n" for name in code)
    if not fetched and options.revision != (found := hashlib.sha256(lines.encode()).hexdigest()):
        names = ", ".join(code)
        raise UnsafeInput(f"{files[code[0]].parent}: code is run only if pinned; read {names}, then --revision {found}")


def _state(files: Mapping[str, Path]) -> dict[str, tuple[int, int, int]]:
    """What changes when a file is written."""
    states = {name: path.stat() for name, path in files.items()}
    return {name: (state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states.items()}


def _has(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def _processor(device: str) -> str:
    """The instructions that are computed with, or the accelerator: either can move the last bits."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return str(torch.backends.cpu.get_cpu_capability()) if device == "cpu" else device


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
