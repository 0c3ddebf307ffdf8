"""`fuse:A+B`: fusion of two or more models, by reciprocal ranks, or by weights in the name: `fuse:0.3*A+0.7*B`."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xbench.errors import UsageError

# A "+" that begins a new part: not one inside a folder's name, which a second "+" would say (`a++b` is `a+b`).
_PLUS = re.compile(r"(?<!\+)\+(?!\+)")
_WEIGHT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\*(.+)", re.DOTALL)


@dataclass(frozen=True)
class Fusion:
    """Models whose rankings of the same pool are fused (`xbench.fusion`)."""

    name: str
    parts: tuple[Any, ...]  # what `models.load` gives: Encoder, Given or Retriever
    weights: tuple[float, ...] | None  # None: reciprocal ranks


def split(spelling: str) -> list[tuple[float | None, str]]:
    """The weights and spellings of the parts of `fuse:...`.

    Raises:
        UsageError: fewer than two parts, a part twice, weights for some parts only, or a weight of 0.
    """
    how = "write fuse:A+B, or fuse:0.3*A+0.7*B; a + inside a name is written ++"
    texts = [text.replace("++", "+") for text in _PLUS.split(spelling.removeprefix("fuse:"))]
    if len(texts) < 2 or not all(texts):
        raise UsageError(f"model {spelling!r} has {len([t for t in texts if t])} parts, expected two or more; {how}")
    found: list[tuple[float | None, str]] = []
    for text in texts:
        match = _WEIGHT.fullmatch(text)
        found.append((float(match[1]), match[2]) if match else (None, text))
    names = [name for _, name in found]
    if len(set(names)) < len(names):
        raise UsageError(f"model {spelling!r} has a part twice; {how}")
    if any(name.startswith("fuse:") for name in names):
        raise UsageError(f"model {spelling!r}: a fusion in a fusion; name all parts in one")
    weights = [weight for weight, _ in found]
    if None in weights and weights != [None] * len(weights):
        raise UsageError(f"model {spelling!r} has weights for some parts only; give all of them one, or none")
    if not all(weight is None or 0 < weight < 1e9 for weight in weights):
        raise UsageError(f"model {spelling!r:.200} has a weight of 0 or beyond a billion; leave that part out")
    return found


def load_fusion(spelling: str, load: Callable[[str], Any]) -> Fusion:
    """The fusion of a spelling; `load` makes each part.

    Raises:
        UsageError: as `split`; and whatever `load` raises.
    """
    found = split(spelling)
    weights = tuple(weight for weight, _ in found if weight is not None)
    parts = tuple(load(name) for _, name in found)
    # By the parts' own names: those from a hub hold the commit that they were.
    given = ["" if weight is None else f"{repr(weight).removesuffix('.0')}*" for weight, _ in found]
    names = [part.name.replace("+", "++") for part in parts]
    name = "fuse:" + "+".join(weight + name for weight, name in zip(given, names, strict=True))
    return Fusion(name, parts, weights or None)
