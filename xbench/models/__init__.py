"""Models by their spelling.

`bm25`, `hash`, `hf:NAME_OR_DIR[@REVISION]`, `py:FILE_OR_MODULE:OBJECT`, `vectors:DIR`, `canary:NAME`, `fuse:A+B`.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from xbench.errors import UsageError, unknown
from xbench.records import Collection, Passage, Query

if TYPE_CHECKING:
    from xbench.models.fuse import Fusion

Role = Literal["queries", "passages"]
ROLES: tuple[Role, Role] = ("queries", "passages")


@dataclass(frozen=True)
class Options:
    """How to run an `hf:` model; None takes what the checkpoint says, or the default in brackets."""

    pooling: str | None = None  # mean, cls or last [mean]
    normalize: bool | None = None  # scale vectors to length 1 [yes, unless the checkpoint says dot product]
    prompt_query: str | None = None  # put before each query [none]
    prompt_passage: str | None = None  # put before each passage [none]
    max_length: int | None = None  # tokens, special ones included [the tokenizer's, at most 512]
    dtype: str = "float32"  # float32, bfloat16 or float16
    device: str | None = None  # cpu, cuda, cuda:1, mps [cuda where there is one, else cpu]


class Prepared(NamedTuple):
    """Texts made ready to be encoded: tokenized once, in the order they were given."""

    items: Sequence[Any]
    """What `Encoder.encode` takes, one a text."""
    lengths: Sequence[int]
    """Cost of each, in tokens or the like: what batches are sorted by and filled to."""
    lost: Sequence[int] | None = None
    """Tokens cut off each text; None where the model does not tell."""


@runtime_checkable
class Encoder(Protocol):
    """Maps texts to vectors. Learns nothing of the task but text, role and language."""

    name: str
    """As the user spelled it."""
    told_language: bool
    """Whether the language can change a vector; if not, a text is encoded once for all languages."""
    batch_tokens: int
    """Padded tokens in a batch that suit the model and its device; in the unit of `Prepared.lengths`."""
    identity: dict[str, object]
    """JSON values: everything that can move a number, and nothing that cannot (no path, no time)."""

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared:
        """Tokenize, or whatever comes before computing; called by another thread than `encode`, at the same time."""

    def encode(self, items: Sequence[Any], role: Role, language: str) -> NDArray[np.float32]:
        """float32 (n, d): the vectors of one batch of n >= 1 prepared texts of one language, in its order."""


@runtime_checkable
class Given(Protocol):
    """Knows the vectors of a task's texts by their place in it: nothing is encoded and nothing cached."""

    name: str
    identity: dict[str, object]

    def vectors(self, role: Role, language: str, collection: Collection) -> NDArray[np.float32]:
        """float32 (n, d): the vectors of a role and language, rows in the task's order."""


class Searcher(Protocol):
    """A retriever's index of one pool; closed when its `with` block ends."""

    def scores(self, queries: Sequence[Query], language: str) -> NDArray[np.float64]:
        """float64 (n, m): scores of all m passages of the pool, in the task's order, for n queries of one language.

        Minus infinity: not retrieved. Those rank after all others, by the tie rule, and are counted.
        """


@runtime_checkable
class Retriever(Protocol):
    """Answers queries from a pool with scores, without vectors."""

    name: str
    identity: dict[str, object]

    def search(
        self, passages: Mapping[str, Sequence[Passage]], folder: Path
    ) -> contextlib.AbstractContextManager[Searcher]:
        """Index a pool, the passages of one or more languages in the task's order; temporary files go to `folder`."""


def slug(name: str, key: str) -> str:
    """A folder name for a model: readable, one path part, and different for different fingerprints."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name.rstrip("/").rsplit("/", 1)[-1]).strip("-.")[-60:].strip("-.")
    return f"{readable or 'model'}-{key[:12]}"


def load(spelling: str, options: Options | None = None) -> "Encoder | Given | Retriever | Fusion":
    """The model of a spelling.

    Raises:
        UsageError: no such model.
        DataError: its files are missing or not in their format.
    """
    options = options or Options()
    kind, colon, rest = spelling.partition(":")
    if kind == "fuse" and colon:
        from xbench.models.fuse import load_fusion

        return load_fusion(spelling, lambda part: load(part, options if _is_checkpoint(part) else None))
    if options != Options() and (spelling in ("hash", "bm25") or (colon and kind in ("py", "vectors", "canary"))):
        given = [f.name.replace("_", "-") for f in fields(Options) if getattr(options, f.name) != f.default]
        raise UsageError(f"model {spelling!r} takes no --{given[0]}; only checkpoints (hf:) do")
    if spelling == "hash":
        from xbench.models.hashing import HashEncoder

        return HashEncoder()
    if spelling == "bm25":
        from xbench.models.bm25 import Bm25

        return Bm25()
    if kind == "py" and rest:
        from xbench.models.python import PythonEncoder

        return PythonEncoder(spelling)
    if kind == "vectors" and rest:
        from xbench.models.vectors import GivenVectors

        return GivenVectors(spelling)
    if kind == "canary" and colon:
        from xbench.models.canary import Canary

        return Canary(spelling)
    if _is_checkpoint(spelling):
        from xbench.models.hf import load_hf

        return load_hf(spelling, options)
    known = ["bm25", "hash", "hf:NAME_OR_DIR", "py:FILE_OR_MODULE:OBJECT", "vectors:DIR", "canary:NAME", "fuse:A+B"]
    raise unknown("model", spelling, known)


def _is_checkpoint(spelling: str) -> bool:
    kind, _, rest = spelling.partition(":")
    named = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", spelling)
    return bool((kind == "hf" and rest) or Path(spelling).is_dir() or named)
