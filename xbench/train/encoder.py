"""The model in training: from texts to token ids, and from these to vectors, of any sentence-transformers model."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xbench.errors import UsageError
from xbench.models import Role
from xbench.models.checkpoint import own_prompts, quiet, token_limit
from xbench.train.config import Model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from torch import Tensor

# Tokenized at a time: what a tokenizer knows of a text before only its ids are kept takes kilobytes.
TEXTS = 256


class Trainee:
    """A model to be trained; its parameters are those of `module`."""

    def __init__(self, model: "SentenceTransformer", config: Model) -> None:
        """Of a model made or loaded, and how texts are prompted and cut.

        Raises:
            UsageError: a length that the model has no positions for; a model that does not read token ids.
        """
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        self.module = model
        self._static = isinstance(model[0], StaticEmbedding)
        self._tokenizer: Any = model.tokenizer
        self._length = config.max_length
        if not self._static:
            if not callable(self._tokenizer):
                raise UsageError(f"{config.base}: has no tokenizer of texts; only encoders of texts can be trained")
            with quiet:
                self._length = token_limit(config.max_length, config.max_length, model, self._tokenizer)
            model.max_seq_length = self._length
        # Parts of like length that a batch is encoded in: a bag of tokens needs no padding.
        self.buckets = 1 if self._static else 4
        self._int8 = config.int8
        self._dropout = config.dropout if self._static else 0.0
        own = own_prompts(model)
        self.prompts: dict[Role, str] = {
            "queries": config.prompt_query or own["queries"],
            "passages": config.prompt_passage or own["passages"],
        }
        # The names that sentence-transformers looks for; the folder then carries them wherever it is loaded.
        model.prompts = {**model.prompts, "query": self.prompts["queries"], "document": self.prompts["passages"]}

    @property
    def key(self) -> dict[str, Any]:
        """What decides the token ids: JSON values."""
        backend = self._tokenizer if self._static else getattr(self._tokenizer, "backend_tokenizer", None)
        text = backend.to_str() if backend is not None else json.dumps(self._tokenizer.get_vocab(), sort_keys=True)
        tokenizer = hashlib.sha256((type(self._tokenizer).__name__ + text).encode()).hexdigest()
        side = getattr(self._tokenizer, "truncation_side", "right")  # of another file than the tokenizer's own
        return {"tokenizer": tokenizer, "prompts": self.prompts, "max_length": self._length, "truncation_side": side}

    def tokenize(self, texts: Sequence[str], role: Role) -> list[list[int]]:
        """The token ids of each text, prompted, cut, special tokens included."""
        ids: list[list[int]] = []
        for start in range(0, len(texts), TEXTS):
            prompted = [self.prompts[role] + text for text in texts[start : start + TEXTS]]
            if self._static:
                found = self._tokenizer.encode_batch_fast(prompted, add_special_tokens=False)
                ids += [each.ids[: self._length] for each in found]
            elif self._tokenizer.is_fast:  # many times faster than by its wrapper, which looks at every token
                with _cutting(self._tokenizer.backend_tokenizer, self._length, self._tokenizer.truncation_side) as one:
                    ids += [each.ids for each in one.encode_batch_fast(prompted)]
            else:
                with quiet:
                    ids += self._tokenizer(prompted, truncation=True, max_length=self._length)["input_ids"]
        return ids

    def encode(self, texts: Sequence[Sequence[int]] | Sequence[Any]) -> "Tensor":
        """Vectors, float (n, d), of texts given as token ids, with the graph for gradients."""
        import torch

        device = next(self.module.parameters()).device
        lengths = [len(text) for text in texts]
        flat = torch.from_numpy(np.concatenate([*texts, np.zeros(0, np.int64)]).astype(np.int64))
        sizes = torch.tensor(lengths)
        features: dict[str, Any]
        if self._static:
            if self.module.training and self._dropout:
                # Texts of a few tokens keep them all: none may become empty.
                kept = (torch.rand(len(flat)) >= self._dropout) | torch.repeat_interleave(sizes <= 3, sizes)
                owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)[kept]
                flat, sizes = flat[kept], torch.bincount(owner, minlength=len(sizes))
            features = {"input_ids": flat.to(device), "offsets": (sizes.cumsum(0) - sizes).to(device)}
        else:
            mask = torch.arange(max(lengths)) < sizes[:, None]
            ids = torch.full(mask.shape, int(self._tokenizer.pad_token_id or 0))
            ids[mask] = flat
            features = {"input_ids": ids.to(device), "attention_mask": mask.long().to(device)}
        found: Tensor = self.module(features)["sentence_embedding"]
        return found

    def weigh(self, counts: NDArray[np.int64]) -> None:
        """Scale the embeddings of a static model by log(1 / frequency), which has mean 1 after this.

        It then begins as a random projection of bags of tokens weighted by their rarity (inverse document
        frequency, Sparck Jones 1972): it ranks passages by shared words before anything is learned.

        Args:
            counts: (v,) how often each token occurs in the training text.
        """
        import torch

        rarity = np.log(counts.sum() / (counts + 1))
        (weights,) = self.module.parameters()
        with torch.no_grad():
            weights.mul_(torch.from_numpy(rarity / rarity.mean())[:, None].float())

    def save(self, folder: Path) -> None:
        """Write a folder that sentence-transformers, and xbench, load."""
        with quiet:
            self.module.save(str(folder), create_model_card=False, safe_serialization=True)
        if self._int8:
            _round(folder / "model.safetensors")


@contextlib.contextmanager
def _cutting(tokenizer: "Tokenizer", length: int, side: str) -> Iterator["Tokenizer"]:
    """The tokenizer set to cut and not to pad; then as it was, for it is saved: also where the cache knew all texts."""
    truncation, padding = tokenizer.truncation, tokenizer.padding
    tokenizer.enable_truncation(length, direction=side)
    tokenizer.no_padding()
    yield tokenizer
    if truncation is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(**truncation)
    if padding is not None:
        tokenizer.enable_padding(**padding)


def _round(path: Path) -> None:
    """Rewrite the embeddings of a static model as integers, in the layout of model2vec, which others read too.

    A row w becomes round(w / s) with s = max |w| / 127: it is off by at most s / 2 in each dimension.
    """
    import torch
    from safetensors.torch import load_file, save_file

    (embeddings,) = load_file(path).values()
    scales = embeddings.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    rounded = (embeddings / scales[:, None]).round().to(torch.int8)
    save_file({"embeddings": rounded, "weights": scales}, path)
