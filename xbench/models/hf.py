"""Checkpoints in the layout of Hugging Face: `hf:NAME_OR_DIR[@REVISION]`, as safetensors and without code of their own.

A folder with `modules.json` is run by sentence-transformers, any other one by transformers and a pooling.
"""

import contextlib
import importlib.metadata
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError, UnsafeInput, UsageError, XbenchError, unknown
from xbench.models import Encoder, Options, Role
from xbench.storage import sha256, storage
from xbench.strictjson import read_json

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor, nn

POOLINGS = ("mean", "cls", "last")
DTYPES = ("float32", "bfloat16", "float16")
# What is fetched, and hashed into the identity: weights, configs, modules, and tokenizers of every kind.
SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja", ".spm", ".codes", ".vocab", ".tiktoken")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NO_LIMIT = 10**6  # a tokenizer that knows no limit says 1e30; no real one comes near this
CHUNK = 1000  # texts tokenized at once to learn their lengths
# What differs between the two libraries: functions from texts and their role to lengths, and from one batch to
# vectors, any float dtype (n, d) on any device; the tokenizer; what only the loaded checkpoint tells of its identity.
Loaded = tuple[Callable[[list[str], Role], list[int]], Callable[[list[str], Role], "Tensor"], Any, dict[str, object]]


def load_hf(spelling: str, options: Options) -> Encoder:
    """The encoder of a checkpoint: a folder, else a name on the hub.

    Raises:
        UsageError: an option that is unknown, not possible on this machine, or at odds with the checkpoint.
        DataError: no such folder or hub name, or files that are missing or broken.
        UnsafeInput: files that could run code; found before anything that could run them is imported.
    """
    for kind, value, known in (("pooling", options.pooling or "mean", POOLINGS), ("dtype", options.dtype, DTYPES)):
        if value not in known:
            raise unknown(kind, value, known)
    try:
        folder = _folder(spelling)
        files = _safe_files(folder)
        device = _device(options.device)
        with _quiet():
            load = _sentence_transformers if "modules.json" in files else _transformers
            loaded = load(folder, options, device)
    except XbenchError:
        raise
    except Exception as error:  # offline, unknown, broken: on all of these the libraries raise anything
        cure = "give the folder of a whole checkpoint, or a name on the hub and a network"
        raise DataError(f"cannot load {spelling}: {error!r:.300}; {cure}") from error
    _, _, tokenizer, told = loaded
    packages = ["torch", "transformers", "tokenizers"] + ["sentence-transformers"] * ("modules.json" in files)
    identity: dict[str, object] = {
        "kind": "hf",
        "files": {name: sha256(files[name]) for name in sorted(files) if name.endswith(SUFFIXES)},
        **told,
        **{side: getattr(tokenizer, side, None) for side in ("padding_side", "truncation_side")},
        "dtype": options.dtype,
        "device": device.partition(":")[0],
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }
    # A snapshot of the hub is called by its commit: with it, the command in the result gives the same weights.
    pinned = re.fullmatch("[0-9a-f]{40}", folder.name) and folder.parent.name == "snapshots"
    rest = spelling.removeprefix("hf:")
    name = f"hf:{rest.partition('@')[0]}@{folder.name}" if pinned and not Path(rest).is_dir() else spelling
    return HfEncoder(name, identity, loaded)


class HfEncoder:
    """An `Encoder` over a checkpoint; vectors are scaled here, in the same way for both libraries."""

    told_language = False

    def __init__(self, name: str, identity: dict[str, object], loaded: Loaded) -> None:
        self.name, self.identity = name, identity
        # On a processor, more than this leaves the cache and is slower; an accelerator wants to be filled.
        self.batch_tokens = 2048 if identity["device"] == "cpu" else 1 << 15
        self._lengths, self._vectors, _, _ = loaded

    def lengths(self, texts: Sequence[str], role: Role) -> list[int]:
        """Tokens of each text with its prompt, cut, special tokens included; characters where a model has no mask."""
        with _quiet():
            chunks = [list(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
            return [length for chunk in chunks for length in self._lengths(chunk, role)]

    def encode_queries(self, texts: Sequence[str], language: str) -> NDArray[np.float32]:
        """float32 (n, d), C-contiguous: the vectors of one batch of n >= 1 queries, in its order."""
        return self._encode(texts, "queries")

    def encode_passages(self, texts: Sequence[str], language: str) -> NDArray[np.float32]:
        """float32 (n, d), C-contiguous: the vectors of one batch of n >= 1 passages, in its order."""
        return self._encode(texts, "passages")

    def _encode(self, texts: Sequence[str], role: Role) -> NDArray[np.float32]:
        with _quiet():
            vectors = np.ascontiguousarray(self._vectors(list(texts), role).float().cpu().numpy())
        if self.identity["normalize"]:  # in float32: half precision is too coarse for a length of 1
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def _transformers(folder: Path, options: Options, device: str) -> Loaded:
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.models.auto import modeling_auto as auto

    safe = {"trust_remote_code": False, "local_files_only": True}
    weights = {"use_safetensors": True, "dtype": getattr(torch, options.dtype), "output_loading_info": True}
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **safe)
    model, report = AutoModel.from_pretrained(folder, **weights, **safe)
    # transformers fills what a file lacks with random numbers; only the pooler, not used here, may be missing.
    if lost := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise DataError(f"{folder}: no weights for {lost[0]} and {len(lost) - 1} more; fetch the checkpoint again")
    if tokenizer.pad_token is None:  # the end will do for a causal model, since pads are masked
        causal = set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
        if tokenizer.eos_token is None or model.config.model_type not in causal:
            raise DataError(f"{folder}: the tokenizer has no pad token; set pad_token in its tokenizer_config.json")
        tokenizer.pad_token = tokenizer.eos_token
    # Whatever the tokenizer prefers: on the right, pads shift no position, and a causal model does not see them.
    tokenizer.padding_side = "right"
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    model.config.use_cache = False  # keys and values of every layer, which only generation needs
    model = model.to(device).eval()
    limit = _limit(options.max_length, min(tokenizer.model_max_length, 512), model, tokenizer)
    pooling = options.pooling or "mean"
    prompts: dict[Role, str] = {"queries": options.prompt_query or "", "passages": options.prompt_passage or ""}

    def tokens(texts: list[str], role: Role, **more: object) -> Any:
        return tokenizer([prompts[role] + text for text in texts], truncation=True, max_length=limit, **more)

    def lengths(texts: list[str], role: Role) -> list[int]:
        return [len(ids) for ids in tokens(texts, role)["input_ids"]]

    @torch.inference_mode()
    def vectors(texts: list[str], role: Role) -> Any:
        batch = tokens(texts, role, padding=True, return_tensors="pt").to(device)
        some = batch["attention_mask"].bool().any(dim=1)
        found = torch.zeros(len(texts), model.config.hidden_size, device=device)
        if some.any():  # a text without a token stays zero: no model is defined on it
            inputs = {key: value[some] for key, value in batch.items()}
            found[some] = pool(model(**inputs).last_hidden_state, inputs["attention_mask"], pooling)
        return found

    told = {"pooling": pooling, "normalize": options.normalize is not False, "prompts": prompts, "max_length": limit}
    return lengths, vectors, tokenizer, told


def _sentence_transformers(folder: Path, options: Options, device: str) -> Loaded:
    import torch
    from sentence_transformers import SentenceTransformer

    weights = {"use_safetensors": True, "dtype": getattr(torch, options.dtype)}
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    model: Any = SentenceTransformer(str(folder), device=device, model_kwargs=weights, **safe)
    if (similarity := model.similarity_fn_name) not in ("cosine", "dot"):
        raise UsageError(f"{folder} is made for {similarity} distance; only cosine and dot product are supported")
    if options.dtype == "float32":  # a module without transformer keeps the dtype of its file
        model.float()
    parts = list(model.modules())
    if options.normalize is False and any(type(part).__name__ == "Normalize" for part in parts):
        raise UsageError(f"{folder} normalises in a module of its own; leave normalize out")
    modes = [getattr(part, "pooling_mode", ()) for part in parts]  # a name, or names that are concatenated
    names = [name for mode in modes for name in ([mode] if isinstance(mode, str) else mode)]
    pooling = "+".join(dict.fromkeys(names)).replace("lasttoken", "last") or "none"
    if options.pooling not in (None, pooling):
        raise UsageError(f"pooling {options.pooling} contradicts {pooling}, the one of {folder}; leave pooling out")
    tokenizer, own, limit = getattr(model, "tokenizer", None), model.max_seq_length, None
    if callable(tokenizer):
        limit = _limit(options.max_length, own if own and own < NO_LIMIT else 512, model, tokenizer)
    elif options.max_length is not None:  # a bag of embeddings
        raise UsageError(f"{folder} takes texts of any length; leave max_length out")
    # Given at each call, since it then overrides a length of the folder for one role as well.
    cut = {} if limit == own or limit is None else {"max_length": limit}
    # The names, in the order, that encode_query and encode_document promise to look for. Not by their look-up:
    # 6.2 adds an empty "document" to the prompts of the folder, which then hides its "passage".
    given = {name: prompt for name, prompt in model.prompts.items() if prompt}
    document = next((given[name] for name in ("document", "passage", "corpus") if name in given), "")
    query = given.get("query", "") if options.prompt_query is None else options.prompt_query
    passage = document if options.prompt_passage is None else options.prompt_passage
    prompts: dict[Role, str] = {"queries": query, "passages": passage}

    def lengths(texts: list[str], role: Role) -> list[int]:
        settings = {"text": {**cut, "padding": False}, "common": {"return_tensors": None}}
        task = "query" if role == "queries" else "document"
        found = model.preprocess(texts, prompt=prompts[role], task=task, processing_kwargs=settings)
        return [sum(mask) for mask in found["attention_mask"]] if "attention_mask" in found else [*map(len, texts)]

    def vectors(texts: list[str], role: Role) -> Any:
        encode = model.encode_query if role == "queries" else model.encode_document
        settings = {"batch_size": len(texts), "show_progress_bar": False, "convert_to_tensor": True}
        return encode(texts, prompt=prompts[role], processing_kwargs={"text": cut}, **settings)

    normalize = similarity == "cosine" if options.normalize is None else options.normalize
    told = {"pooling": pooling, "normalize": normalize, "prompts": prompts, "max_length": limit}
    return lengths, vectors, tokenizer, told


def pool(hidden: "Tensor", mask: "Tensor", how: str) -> "Tensor":
    """float32 (n, d): mean, first (cls) or last of vectors (n, t, d) where mask, int (n, t), is 1; pads on any side."""
    if how == "mean":  # filled, not multiplied: a NaN at a pad must not count
        return hidden.float().masked_fill(mask.unsqueeze(2) == 0, 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    column = mask.argmax(dim=1) if how == "cls" else (mask * mask.cumsum(dim=1)).argmax(dim=1)
    return hidden.float().take_along_dim(column.view(-1, 1, 1), dim=1).squeeze(1)


def _limit(asked: int | None, own: int, model: "nn.Module", tokenizer: Any) -> int:
    """Tokens a text is cut to: as asked, else the checkpoint's own, and never more than it has positions for."""
    room = NO_LIMIT
    for part in model.modules():
        stated = getattr(getattr(part, "config", None), "max_position_embeddings", None)
        room = min(room, stated) if isinstance(stated, int) and stated > 0 else room
        table: Any = getattr(part, "position_embeddings", None)
        if hasattr(table, "num_embeddings"):  # RoBERTa and its kin count from the row after that of the pad
            room = min(room, table.num_embeddings - (-1 if table.padding_idx is None else table.padding_idx) - 1)
    special = len(tokenizer("")["input_ids"])
    if asked is not None and not special < asked <= room:
        raise UsageError(f"max_length {asked} is not possible with this model; choose from {special + 1} to {room}")
    return min(own, room) if asked is None else asked


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
    with _quiet():  # a * in a pattern matches slashes too: sub-folders are included
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=[f"*{s}" for s in SUFFIXES]))


def _safe_files(folder: Path) -> dict[str, Path]:
    """The files by name relative to the folder; refuses, from them alone, what could run code or is no checkpoint."""
    with storage(folder, "read"):
        paths = sorted(folder.rglob("*"))
    files = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}  # no pipe, which could hang
    if link := next((path for path in paths if path.is_symlink() and path.is_dir()), None):  # rglob does not enter it
        raise UnsafeInput(f"{link} is a link to a folder, which goes unchecked; copy the files in its place")
    safe = {path.parent for path in files.values() if path.suffix == ".safetensors"}
    for name, path in files.items():
        where, base = f"{folder}: {name}", path.name.lower()
        # Each folder on its own: a module in a sub-folder falls back to its pickle. OpenVINO's .bin is none.
        if base.endswith(PICKLES) and path.parent not in safe and path.parent.name != "openvino":
            raise UnsafeInput(f"{where} is a pickle, which can run code; convert it to safetensors or remove it")
        if base == "adapter_config.json":
            raise DataError(f"{where} asks for weights of another folder; merge the adapter into its base model")
        todo = [read_json(path)] if base == "modules.json" or (base.endswith(".json") and "config" in base) else []
        for found in todo:  # grows on the way
            todo.extend(found.values() if isinstance(found, dict) else found if isinstance(found, list) else ())
            for key, value in found.items() if isinstance(found, dict) else ():
                if key == "auto_map" and value:
                    raise UnsafeInput(f"{where}: auto_map names code to run; take a model that transformers knows")
                if "attn_implementation" in key and "/" in str(value):  # a repository of compiled code
                    raise UnsafeInput(f"{where}: {key} {value} names code to fetch and run; remove it")
                if key == "model_type" and base.startswith("config_sent") and value != "SentenceTransformer":
                    raise DataError(f"{where}: a {value} is no encoder of single texts; take a SentenceTransformer")
                kinds = [value] if key == "type" and base == "modules.json" else []
                if key == "types" and isinstance(value, dict) and "modules.json" in files:  # of a router
                    kinds = list(value.values())
                if alien := [kind for kind in kinds if not str(kind).startswith("sentence_transformers.")]:
                    raise UnsafeInput(f"{where}: type {alien[0]} is code from outside sentence_transformers")
    if "config.json" not in files and "modules.json" not in files:
        raise DataError(f"{folder} has neither config.json nor modules.json; expected the folder of one checkpoint")
    return files


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep bars, log lines and warnings of the libraries off the screen."""
    from transformers.utils import logging as bars

    with warnings.catch_warnings(), contextlib.ExitStack() as undo:
        warnings.simplefilter("ignore")
        undo.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        if bars.is_progress_bar_enabled():
            undo.callback(bars.enable_progress_bar)
            bars.disable_progress_bar()  # type: ignore[no-untyped-call]
        yield
