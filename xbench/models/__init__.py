"""Models by their spelling.

`hash`, `static`, `hf:NAME_OR_DIR[@REVISION]`, `py:FILE_OR_MODULE:OBJECT`, `vectors:DIR`, `canary:NAME`,
`api:URL#MODEL[@REVISION]`, `bm25`, `fuse:A+B`.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from xbench.errors import UsageError, unknown
from xbench.records import Collection, Corpus, Passage, Query

if TYPE_CHECKING:
    from xbench.models.fuse import Fusion

Role = Literal["queries", "passages"]
ROLES: tuple[Role, Role] = ("queries", "passages")


@dataclass(frozen=True)
class Options:
    """How to run a model; None takes what the checkpoint says, or the default in brackets. `TAKES`: which apply."""

    pooling: str | None = None  # mean, cls or last [its family's, else mean]
    normalize: bool | None = None  # scale vectors to length 1 [yes, unless checkpoint or family say dot product]
    prompt_query: str | None = None  # put before each query [none; a family that asks for one is refused without]
    prompt_passage: str | None = None  # put before each passage [likewise]
    max_length: int | None = None  # tokens, special ones included [the tokenizer's, at most 512]
    dim: int | None = None  # keep this many of the first dimensions, before scaling [all]
    revision: str | None = None  # branch, tag or commit on the hub; of a folder with code, its code's hash [main]
    allow_code: bool = False  # run Python files of the checkpoint, pinned by `revision`
    dtype: str = "float32"  # float32, bfloat16, float16, or int8 (by openvino alone)
    backend: str | None = None  # torch or openvino [torch]
    device: str | None = None  # cpu, cuda, cuda:1, mps [cuda where there is one, else cpu]


ALL = tuple(field.name for field in fields(Options))
# The options that a kind of model takes; a checkpoint, which is any other kind, takes all.
TAKES: dict[str, tuple[str, ...]] = {
    "hash": (),
    "static": (),
    "bm25": (),
    "py": (),
    "vectors": (),
    "canary": (),
    "api": ("normalize", "prompt_query", "prompt_passage", "dim"),
}
# The reference model that comes along; trained by `xbench train static`, see its card.
REFERENCE = Path(__file__).parent / "static"
# Kinds that are their whole spelling.
PLAIN = ("hash", "static", "bm25")
KNOWN = (
    "hash",
    "static",
    "bm25",
    "hf:NAME_OR_DIR",
    "py:FILE_OR_MODULE:OBJECT",
    "vectors:DIR",
    "canary:NAME",
    "api:URL#MODEL",
    "fuse:A+B",
)


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


class Hits(NamedTuple):
    """The first passages for a query, best first by the ranking rule."""

    doc_ids: list[str]
    scores: list[float]


class FirstSearcher(Protocol):
    """Searches one pool that is too large for scores of all its passages."""

    def hits(self, queries: Sequence[Query], language: str, k: int) -> Iterator[Hits]:
        """The first k passages for each query of one language; fewer where fewer are retrieved."""

    def missing(self, doc_ids: Sequence[str]) -> list[str]:
        """Of these, those that are no passages of the pool."""


class Pooler(Protocol):
    """A large retriever's indexes, open; closed when their `with` block ends."""

    def pool(self, languages: Sequence[str]) -> FirstSearcher:
        """What searches the pool of the passages of these languages."""


@runtime_checkable
class LargeRetriever(Protocol):
    """A retriever that also searches passages which are read file by file and never held."""

    name: str
    identity: dict[str, object]

    def search_large(self, corpora: Mapping[str, Corpus], cache: Path) -> contextlib.AbstractContextManager[Pooler]:
        """Open corpora by language; the index of each is made once and kept in `cache`."""


def slug(name: str, key: str) -> str:
    """A folder name for a model: readable, one path part, and different for different fingerprints."""
    parts = name.split("+") if name.startswith("fuse:") else [name]
    each = (re.sub(r"[^A-Za-z0-9._-]+", "-", part.rstrip("/").rsplit("/", 1)[-1]).strip("-.") for part in parts)
    readable = "-".join(filter(None, each))[-60:].strip("-.")
    if re.match(r"(con|prn|aux|nul|(com|lpt)\d)(\.|$)", readable, re.IGNORECASE):  # devices, on Windows
        readable = f"model-{readable}"
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
        from xbench.models.fuse import load_fusion, split

        taken = [_takes(part) for _, part in split(spelling)]
        _refuse_others(spelling, options, [name for names in taken for name in names])
        return load_fusion(spelling, lambda part: load(part, _restricted(options, _takes(part))))
    _refuse_others(spelling, options, _takes(spelling))
    if spelling == "hash":
        from xbench.models.hashing import HashEncoder

        return HashEncoder()
    if spelling == "static":
        from xbench.models.hf import load_hf

        reference = load_hf(str(REFERENCE), options)
        reference.name = spelling
        return reference
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
    if kind == "api" and rest:
        from xbench.models.api import ApiEncoder

        return ApiEncoder(spelling, options)
    named = re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", spelling)
    if (kind == "hf" and rest) or named or is_folder(spelling):
        from xbench.models.hf import load_hf

        return load_hf(spelling, options)
    raise unknown("model", spelling, KNOWN)


def is_folder(name: str) -> bool:
    """Whether there is such a folder; a name longer than any file's is none."""
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # too long; no home; a NUL
        return False


def _takes(spelling: str) -> tuple[str, ...]:
    """The options that a model takes."""
    kind, colon, _ = spelling.partition(":")
    return TAKES[kind] if kind in TAKES and bool(colon) == (kind not in PLAIN) else ALL


def _restricted(options: Options, names: Sequence[str]) -> Options:
    """Of the options only those with these names."""
    return Options(**{name: getattr(options, name) for name in names})


def _refuse_others(spelling: str, options: Options, taken: Sequence[str]) -> None:
    """Refuse an option that would be ignored."""
    for field in fields(Options):
        if field.name not in taken and getattr(options, field.name) != field.default:
            kind = spelling.partition(":")[0]  # the rest may hold what is not to be shown
            does = f"it takes --{', --'.join(dict.fromkeys(taken))}" if taken else "only checkpoints (hf:) do"
            raise UsageError(f"model {kind!r} takes no --{field.name}; {does}".replace("_", "-"))
