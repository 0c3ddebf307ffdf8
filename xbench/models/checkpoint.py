"""A checkpoint ready to compute: tokenizing, pooling, cutting; by transformers or by sentence-transformers."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError, UsageError
from xbench.models import ROLES, Options, Prepared, Role
from xbench.models.backends import speed_up, weights_dtype
from xbench.models.tokens import Reader, Texts, Tokens

if TYPE_CHECKING:  # torch takes seconds to import
    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

NO_LIMIT = 10**6  # a tokenizer that knows no limit says 1e30; no real one comes near this
# Of a module of sentence-transformers: lengths that its texts may be cut to.
LENGTHS = ("max_seq_length", "query_length", "document_length")


class Loaded(NamedTuple):
    """What differs between the two libraries."""

    readers: dict[Role, Reader]
    vectors: Callable[[Any, Role], "Tensor"]  # of what a reader gives for a batch: any float dtype (n, d), any device
    tokenizer: Any
    told: dict[str, object]  # what only the loaded checkpoint tells of its identity


# transformers reads it once, when it is imported: no compiled code from the hub, whatever a checkpoint says.
os.environ.setdefault("USE_HUB_KERNELS", "NO")


def load_transformers(folder: Path, options: Options, device: str) -> Loaded:
    """A plain checkpoint: its last hidden states, pooled here."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.models.auto import modeling_auto as auto

    safe = {"trust_remote_code": options.allow_code, "local_files_only": True}
    weights = {"use_safetensors": True, "dtype": weights_dtype(options, device), "output_loading_info": True}
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
    tokenizer.padding_side = "right"  # as it is done in batches, see tokens.py
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    model.config.use_cache = False  # keys and values of every layer, which only generation needs
    model = model.to(device).eval()
    limit = token_limit(options.max_length, min(tokenizer.model_max_length, 512), model, tokenizer)
    dim = _dim(options.dim, model.config.hidden_size)
    pooling = options.pooling or "mean"
    prompts: dict[Role, str] = {"queries": options.prompt_query or "", "passages": options.prompt_passage or ""}

    def reader(role: Role) -> Reader:
        def call(texts: list[str], pad: bool, cut: bool) -> Any:
            prompted = [prompts[role] + text for text in texts]
            return tokenizer(prompted, padding=pad, truncation=cut, max_length=limit if cut else None)

        return Tokens(lambda *how: dict(call(*how)), limit)

    @torch.inference_mode()
    def vectors(batch: dict[str, Any], role: Role) -> Any:
        some = batch["attention_mask"].any(dim=1)
        found = torch.zeros(len(some), model.config.hidden_size, device=device)
        if some.any():  # a text without a token stays zero: no model is defined on it
            inputs = {key: value[some].to(device) for key, value in batch.items()}
            found[some.to(device)] = pool(model(**inputs).last_hidden_state, inputs["attention_mask"], pooling)
        return found[:, :dim]

    normalize = options.normalize is not False
    told = {"pooling": pooling, "normalize": normalize, "prompts": prompts, "max_length": limit}
    told |= {"dim": dim, "similarity": "cosine" if normalize else "dot", "attention": _attention(model)}
    readers = {role: reader(role) for role in ROLES}
    told["backend"] = speed_up([model], options, device, lambda: _of_a_few(readers, vectors))
    return Loaded(readers, vectors, tokenizer, told)


def load_sentence_transformers(folder: Path, options: Options, device: str) -> Loaded:
    """A folder of modules, with the prompts, pooling and length its authors set."""
    import torch
    from sentence_transformers import SentenceTransformer

    weights = {"use_safetensors": True, "dtype": weights_dtype(options, device)}
    safe: dict[str, Any] = {"trust_remote_code": options.allow_code, "local_files_only": True}
    model: Any = SentenceTransformer(str(folder), device=device, model_kwargs=weights, **safe)
    if (similarity := model.similarity_fn_name) not in ("cosine", "dot"):
        raise UsageError(f"{folder} is made for {similarity} distance; only cosine and dot product are supported")
    own_dim, model.truncate_dim = model.truncate_dim, None
    if options.dim or own_dim:  # no module tells the width of what comes out in the end
        width = len(model.encode_query("a", show_progress_bar=False))
        model.truncate_dim = _dim(options.dim or min(own_dim, width), width)
    if weights["dtype"] == torch.float32:  # a module without transformer keeps the dtype of its file
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
        limit = token_limit(options.max_length, own if own and own < NO_LIMIT else 512, model, tokenizer)
    elif options.max_length is not None:  # a bag of embeddings
        raise UsageError(f"{folder} takes texts of any length; leave max_length out")
    # What was asked for is given at each call, since it then overrides a length of the folder for one role as well.
    cut = {} if options.max_length is None else {"max_length": limit}
    limits = [(part, name) for part in parts if hasattr(part, "query_length") for name in LENGTHS]
    for part, name in limits:  # the folder's own, and never more than the model has positions for
        if limit is not None and (getattr(part, name) or 0) > limit:
            setattr(part, name, limit)
    prompts = own_prompts(model)
    asked: dict[Role, str | None] = {"queries": options.prompt_query, "passages": options.prompt_passage}
    prompts |= {role: prompt for role, prompt in asked.items() if prompt is not None}

    tasks: dict[Role, str] = {"queries": "query", "passages": "document"}

    def reader(role: Role) -> Reader:
        def call(texts: list[str], pad: bool, trim: bool) -> Any:
            text = {"padding": pad, **(cut if trim else {"truncation": False, "max_length": None})}
            settings = {"text": text, "common": {"return_tensors": None}}
            return model.preprocess(texts, prompt=prompts[role], task=tasks[role], processing_kwargs=settings)

        if limit is None:
            return Texts(cut=own is not None and own < NO_LIMIT)
        try:
            return Tokens(call, min([limit, *(getattr(part, name) or limit for part, name in limits)]))
        except (KeyError, TypeError, ValueError):  # no transformer of texts, or one with tokens all of its own
            return Texts(cut=True)

    def vectors(batch: Any, role: Role) -> Any:
        if isinstance(batch, list):
            encode = model.encode_query if role == "queries" else model.encode_document
            settings = {"batch_size": len(batch), "show_progress_bar": False, "convert_to_tensor": True}
            return encode(batch, prompt=prompts[role], processing_kwargs={"text": cut}, **settings)
        inputs = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        with torch.inference_mode():
            found = model(inputs, task=tasks[role])["sentence_embedding"]
        return found[:, : model.truncate_dim]

    normalize = similarity == "cosine" if options.normalize is None else options.normalize
    told = {"pooling": pooling, "normalize": normalize, "prompts": prompts, "max_length": limit}
    told |= {"dim": model.truncate_dim, "similarity": "cosine" if normalize else "dot"}
    told |= {"attention": _attention(model)}
    model.eval()
    readers = {role: reader(role) for role in ROLES}
    models = [part.auto_model for part in parts if hasattr(part, "auto_model")]
    told["backend"] = speed_up(models, options, device, lambda: _of_a_few(readers, vectors))
    return Loaded(readers, vectors, tokenizer, told)


def own_prompts(model: "SentenceTransformer") -> dict[Role, str]:
    """What the folder of a model says to put before the texts of each role; empty for nothing.

    By the names, in the order, that encode_query and encode_document promise to look for. Not by their look-up:
    6.2 adds an empty "document" to the prompts of the folder, which then hides its "passage".
    """
    given = {name: prompt for name, prompt in model.prompts.items() if prompt}
    passage = next((given[name] for name in ("document", "passage", "corpus") if name in given), "")
    return {"queries": given.get("query", ""), "passages": passage}


def _of_a_few(readers: Mapping[Role, Reader], vectors: Callable[[Any, Role], "Tensor"]) -> "Tensor":
    """(12, d): of texts from one word to as long as is taken, in batches of several shapes, in each role.

    A graph that is traced from one shape may be right for that one alone.
    """
    import torch

    line = "What is asked of a back end before it is trusted with more than this one line of text?"
    shapes = [["a", line], [line[:20]], [line * 40], [line * 3, "a b"]]
    batches = [
        (reader.batch(reader.prepare(texts).items), role) for role, reader in readers.items() for texts in shapes
    ]
    return torch.cat([vectors(batch, role).float() for batch, role in batches])


class HfEncoder:
    """An `Encoder` over a checkpoint; vectors are scaled here, in the same way for both libraries."""

    told_language = False

    def __init__(self, name: str, identity: dict[str, object], loaded: Loaded) -> None:
        self.name, self.identity = name, identity
        # On a processor, more than this leaves the cache and is slower; an accelerator wants to be filled.
        self.batch_tokens = 2048 if identity["device"] == "cpu" else 1 << 15
        self._readers, self._vectors = loaded.readers, loaded.vectors

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared:
        """The texts' tokens, with the prompt and after the cut; texts themselves for a model without tokenizer."""
        with quiet:
            return self._readers[role].prepare(texts)

    def encode(self, items: Sequence[Any], role: Role, language: str) -> NDArray[np.float32]:
        """float32 (n, d), C-contiguous."""
        with quiet:
            found = self._vectors(self._readers[role].batch(items), role)
            vectors = np.ascontiguousarray(found.float().cpu().numpy())
        if self.identity["normalize"]:  # in float32: half precision is too coarse for a length of 1
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def pool(hidden: "Tensor", mask: "Tensor", how: str) -> "Tensor":
    """float32 (n, d): mean, first (cls) or last of vectors (n, t, d) where mask, int (n, t), is 1; pads on any side."""
    if how == "mean":  # filled, not multiplied: a NaN at a pad must not count
        return hidden.float().masked_fill(mask.unsqueeze(2) == 0, 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    column = mask.argmax(dim=1) if how == "cls" else (mask * mask.cumsum(dim=1)).argmax(dim=1)
    return hidden.float().take_along_dim(column.view(-1, 1, 1), dim=1).squeeze(1)


def token_limit(asked: int | None, own: int, model: "nn.Module", tokenizer: Any) -> int:
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


def _dim(asked: int | None, width: int) -> int | None:
    """How many of the first dimensions are kept; None: all."""
    if asked is not None and asked > width:
        raise UsageError(f"dim {asked} is more than the {width} dimensions of this model; choose at most {width}")
    return None if asked == width else asked


def _attention(model: "nn.Module") -> list[str]:
    """How attention is computed, which moves the last bits; of every part that says so."""
    found = (getattr(getattr(part, "config", None), "_attn_implementation", None) for part in model.modules())
    return sorted({str(how) for how in found if how})


class _Quiet:
    """Keeps bars, log lines and warnings of the libraries off the screen: `with quiet:`.

    Several threads may be inside at once: what is silenced is the process's, so the first one in silences
    and the last one out restores.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._undo = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        from transformers.utils import logging as bars

        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            self._undo.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.WARNING)
            if bars.is_progress_bar_enabled():
                self._undo.callback(bars.enable_progress_bar)
                bars.disable_progress_bar()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()


quiet = _Quiet()
