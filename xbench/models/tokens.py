"""Texts to tokens, once, and tokens to padded batches, without asking the tokenizer a second time."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xbench.models import Prepared

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

CHUNK = 1000  # texts tokenized at once: the lists that tokenizers return are large
# A tokenizer with its prompt and length: texts, and whether to pad and to cut them, to what a model takes, in lists.
Call = Callable[[list[str], bool, bool], Mapping[str, Any]]


class Reader(Protocol):
    """How the texts of one role become a model's input."""

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """What `batch` takes, one a text."""

    def batch(self, items: Sequence[Any]) -> Any:
        """What the model takes."""


class Texts:
    """For models without a tokenizer that is known here: texts as they are, their cost in characters.

    Args:
        cut: whether the model may cut them; how much is not known then.
    """

    def __init__(self, *, cut: bool) -> None:
        self._cut = cut

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """The texts themselves."""
        return Prepared(texts, [*map(len, texts)], None if self._cut else [0] * len(texts))

    def batch(self, items: Sequence[str]) -> list[str]:
        """The texts themselves."""
        return list(items)


class Tokens:
    """For the others: an int32 array (k, t) a text, one row for each of its k kinds of input, all of t tokens.

    Encoding pads these arrays here: a tokenizer of the `tokenizers` library keeps its padding and cut as a state,
    which two threads must not set at once.

    Args:
        call: the tokenizer.
        shortest: the least length that a cut text may have, or None if none is cut; tokens lost are counted for
            texts of at least that length, by tokenizing them again, whole.

    Raises:
        ValueError: this tokenizer gives something else than lists of equal length; see the message.
    """

    def __init__(self, call: Call, shortest: int | None) -> None:
        self._call, self._shortest = call, shortest
        probe = ["", "a", "a b c d e f g h"]
        found, padded = call(probe, False, True), call(probe, True, True)
        lengths = [len(ids) for ids in found["input_ids"]]
        self._keys = [key for key, value in found.items() if isinstance(value, list)]
        self._fixed = {key: value for key, value in found.items() if key not in self._keys}
        if "attention_mask" not in self._keys or "prompt_length" in self._keys:
            raise ValueError("no mask")
        if any([*map(len, found[key])] != lengths for key in self._keys):
            raise ValueError("inputs of different lengths")
        if any(sum(mask) != length for mask, length in zip(found["attention_mask"], lengths, strict=True)):
            raise ValueError("masks of its own")  # such as for tokens that only expand a query
        # What a pad looks like is asked of the tokenizer itself: settings of the library and of the model may differ.
        masks = padded["attention_mask"]
        place = next(((i, j) for i, mask in enumerate(masks) for j, real in enumerate(mask) if not real), None)
        self._pads = [0 if place is None else padded[key][place[0]][place[1]] for key in self._keys]

    def prepare(self, texts: Sequence[str]) -> Prepared:
        """The tokens of texts, and how many were cut off each."""
        items: list[NDArray[np.int32]] = []
        lost = [0] * len(texts)
        for low in range(0, len(texts), CHUNK):
            chunk = list(texts[low : low + CHUNK])
            found = self._call(chunk, False, True)
            rows = zip(*(found[key] for key in self._keys), strict=True)
            items += [np.array(row, np.int32) for row in rows]
            full = [i for i in range(low, low + len(chunk)) if self._may_be_cut(items[i])]
            if full:
                whole = self._call([texts[i] for i in full], False, False)["input_ids"]
                for i, ids in zip(full, whole, strict=True):
                    lost[i] = len(ids) - items[i].shape[1]
        return Prepared(items, [item.shape[1] for item in items], lost)

    def _may_be_cut(self, item: NDArray[np.int32]) -> bool:
        return self._shortest is not None and item.shape[1] >= self._shortest

    def batch(self, items: Sequence[NDArray[np.int32]]) -> "dict[str, Tensor | Any]":
        """int64 (n, t) for each kind of input, t being the longest text's tokens; on the processor.

        Pads are on the right, whatever the tokenizer prefers: there they shift no position, a causal model does not
        see them, and every pooling knows them by the mask; so a text's vector is the one it has alone.
        """
        import torch

        longest = max(item.shape[1] for item in items)
        table = np.empty((len(self._keys), len(items), longest), np.int64)
        table[:] = np.array(self._pads)[:, None, None]
        for i, item in enumerate(items):
            table[:, i, : item.shape[1]] = item
        return {**self._fixed, **{key: torch.from_numpy(table[k]) for k, key in enumerate(self._keys)}}
