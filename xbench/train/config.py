"""What a training run is told: a TOML file read strictly, each field with its default and its unit."""

import tomllib
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from xbench.errors import DataError, UsageError, unknown
from xbench.storage import fingerprint, storage

# What teaches across languages alone (bitext, term), with the query inside its passage (ctx), or as a question (qa).
KINDS = ("qa", "ctx", "bitext", "term")
MODES = ("x-x", "x-y", "hybrid", "x-x-mixed", "en-en")
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Data:
    """The pairs to train on."""

    files: tuple[str, ...]
    """JSONL (.jsonl, .jsonl.gz), Parquet, or `task:NAME`; paths from the data folder, else from the config's folder."""
    sources: tuple[str, ...] = ()
    """Use these sources alone; by default all."""
    without: tuple[str, ...] = ()
    """Leave these sources out."""
    languages: tuple[str, ...] = ()
    """Use these languages alone; by default all."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Language -> at most about this many of its pairs, chosen by a hash of the group's name."""
    holdout: float = 0.02
    """Share of the groups that are kept for validation, chosen by a hash of their names; those that share a passage go
    together."""
    clean_of: tuple[str, ...] = ()
    """Tasks of which no text may occur in a pair."""
    contaminated: str = "refuse"
    """What to do with a pair that has a text of these tasks: refuse the data, or drop the pair."""


@dataclass(frozen=True)
class Model:
    """The model to begin with."""

    base: str
    """`static`, `tiny`, or a checkpoint as for `xbench run`: `hf:NAME_OR_DIR[@REVISION]`."""
    vocabulary: int = 32_000
    """Pieces of the tokenizer of a model from scratch."""
    dim: int = 256
    """Dimensions of the vectors of a model from scratch."""
    layers: int = 4
    """Of `tiny`."""
    heads: int = 4
    """Of `tiny`."""
    max_length: int = 128
    """Tokens of a text, special ones included; what is longer is cut: of `static` in training alone."""
    pooling: str = "mean"
    """mean or cls; of a checkpoint that is no sentence-transformers folder, and of `tiny`."""
    prompt_query: str = ""
    """Put before each query, and saved with the model; empty: what the checkpoint itself asks for, if anything."""
    prompt_passage: str = ""
    """Put before each passage; the same."""
    int8: bool = False
    """Of `static`: saved as 8-bit integers and a scale for each token, a quarter of the size."""
    dropout: float = 0.1
    """Of `tiny`: of its layers. Of `static`: share of the tokens of a text that are left out in training."""


@dataclass(frozen=True)
class Sampling:
    """How batches are drawn; see `sampling`."""

    mode: str = "hybrid"
    """One of MODES."""
    alpha: float = 0.5
    """hybrid: probability that a batch is monolingual."""
    one_dataset: bool = False
    """Whether all pairs of a batch come from one data set; by default each pair draws its own."""
    size_exponent: float = 1.0
    """A data set is drawn in proportion to its size to this power: 1 by size, 0 uniformly."""
    language_exponent: float = 0.0
    """A language, or pair of them, is drawn in proportion to its size to this power: 0 uniformly, 1 by size."""
    kinds: Mapping[str, float] = field(default_factory=dict)
    """Kind -> share of the pairs drawn across languages; by default kinds play no part."""
    mono_kinds: tuple[str, ...] = ("qa",)
    """Kinds that monolingual batches draw from."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Source -> factor of its weight."""
    negatives: int = 0
    """Hard negatives of each pair to use, where the data give some."""


@dataclass(frozen=True)
class Loss:
    """See `losses`."""

    temperature: float = 0.05
    learn_temperature: bool = False
    symmetric: bool = False
    """Also from passage to query."""
    alignment: float = 0.0
    """Weight of the alignment term."""


@dataclass(frozen=True)
class Training:
    """The loop."""

    steps: int = 1_000
    batch_size: int = 100
    """Pairs in a batch, of all processes together."""
    micro_batch: int = 0
    """Texts encoded at a time, with cached gradients: memory no longer grows with the batch; 0: all at once."""
    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    warmup: int = 100
    """Steps over which the learning rate rises; then it falls linearly to 0."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: any."""
    dtype: str = "float32"
    """float32, or bfloat16 (autocast)."""
    seed: int = 0
    validate_every: int = 0
    """Steps between validations on the held-out pairs; 0: only at the end."""
    patience: int = 0
    """Validations without a better value after which training stops, and the best weights are kept; 0: never."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""


@dataclass(frozen=True)
class Config:
    """A training run, whole: together with the data it decides every number."""

    data: Data
    model: Model
    sampling: Sampling = Sampling()
    loss: Loss = Loss()
    training: Training = Training()
    folder: Path = Path()
    """Where the config lies; decides no number."""

    @property
    def about(self) -> dict[str, Any]:
        """All that decides a number, as JSON values."""
        return {part.name: asdict(getattr(self, part.name)) for part in fields(self) if part.name != "folder"}

    @property
    def sha256(self) -> str:
        """Of `about`, as canonical JSON."""
        return fingerprint(self.about)


def recipes() -> list[str]:
    """The names of the bundled training configs, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml") if not path.stem.startswith("study-"))


def read_config(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """A config by the path of its file, or by the name of a bundled one.

    Args:
        name: a path that ends in `.toml`, or one of `recipes()`.
        overrides: dotted key -> value, such as `sampling.mode` -> `x-y`; over the file's.

    Raises:
        UsageError: no such config; an override of a key that does not exist.
        DataError: an unknown key, a value of the wrong type or out of range.
        StorageError: it cannot be read.
    """
    path = Path(name) if str(name).endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        if path.parent == RECIPES:
            raise unknown("training config", str(name), recipes())
        raise UsageError(f"{path}: no such file; expected a training config (.toml) or one of {', '.join(recipes())}")
    with storage(path, "read"):
        content = path.read_bytes()
    try:
        values = tomllib.loads(content.decode())
    except ValueError as error:
        raise DataError(f"{path}: not TOML: {error}") from error
    for key, value in (overrides or {}).items():
        part, dot, rest = key.partition(".")
        if not dot or part not in _PARTS or not isinstance(values.setdefault(part, {}), dict):
            raise UsageError(f"{key}: no such key; expected {', '.join(f'{part}.KEY' for part in _PARTS)}")
        names = [f.name for f in fields(_PARTS[part])]
        if rest not in names:
            raise unknown(f"key of [{part}]", rest, names)
        values[part][rest] = value
    return config_of(values, path)


_PARTS: dict[str, Any] = {"data": Data, "model": Model, "sampling": Sampling, "loss": Loss, "training": Training}


def config_of(values: Mapping[str, Any], path: Path) -> Config:
    """The config of a parsed file, as `read_config`; `path` names it in errors."""
    if strange := sorted(set(values) - set(_PARTS)):
        raise DataError(f"{path}: [{strange[0]}]: no such part; known: {', '.join(_PARTS)}")
    parts = {}
    for name, kind in _PARTS.items():
        given = values.get(name, {})
        if type(given) is not dict:
            raise DataError(f"{path}: {name}: found {type(given).__name__}, expected a table [{name}]")
        known = [f.name for f in fields(kind)]
        if strange := sorted(set(given) - set(known)):
            raise DataError(f"{path}: [{name}] {strange[0]}: no such key; known: {', '.join(known)}")
        hints = typing.get_type_hints(kind)
        try:
            checked = {key: _typed(value, hints[key], f"[{name}] {key}") for key, value in given.items()}
            parts[name] = kind(**checked)
        except TypeError as error:  # a field without default that is not given
            raise DataError(f"{path}: [{name}]: {' '.join(str(error).partition('__init__() ')[2:])}") from error
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
    config = Config(**parts, folder=path.parent)
    for complaint, wrong in _complaints(config).items():
        if wrong:
            raise DataError(f"{path}: {complaint}")
    return config


def _typed(value: Any, hint: Any, where: str) -> Any:
    """A TOML value as the type of its field."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        if type(value) not in (list, tuple):
            raise ValueError(f"{where}: found {type(value).__name__}, expected a list")
        return tuple(_typed(each, typing.get_args(hint)[0], where) for each in value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: found {type(value).__name__}, expected a table")
        inner = typing.get_args(hint)[1]
        return {str(key): _typed(each, inner, f"{where}.{key}") for key, each in sorted(value.items())}
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise ValueError(f"{where}: found {value!r}, expected {hint.__name__}")
    return value


def _complaints(c: Config) -> dict[str, bool]:
    """What is wrong with the values, each true where it is."""
    shares = [*c.sampling.kinds.values(), *c.sampling.factors.values()]
    exponents = c.sampling.size_exponent, c.sampling.language_exponent
    kinds = {*c.sampling.kinds, *c.sampling.mono_kinds}
    t = c.training
    return {
        "[data] files: empty; name at least one file of pairs": not c.data.files,
        f"[data] holdout: found {c.data.holdout}, expected 0 to 0.5": not 0 <= c.data.holdout <= 0.5,
        f"[data] contaminated: found {c.data.contaminated!r}, expected refuse or drop": c.data.contaminated
        not in ("refuse", "drop"),
        "[data] limits: expected at least 1 pair": any(limit < 1 for limit in c.data.limits.values()),
        f"[model] pooling: found {c.model.pooling!r}, expected mean or cls": c.model.pooling not in ("mean", "cls"),
        "[model]: expected sizes of at least 1": min(
            c.model.vocabulary, c.model.dim, c.model.layers, c.model.heads, c.model.max_length
        )
        < 1,
        f"[model] dim: {c.model.dim} is no multiple of {c.model.heads} heads": c.model.base == "tiny"
        and c.model.dim % c.model.heads != 0,
        "[model] int8: only of static": c.model.int8 and c.model.base != "static",
        f"[model] dropout: found {c.model.dropout}, expected 0 to below 1": not 0 <= c.model.dropout < 1,
        f"[sampling] mode: found {c.sampling.mode!r}, expected one of {', '.join(MODES)}": c.sampling.mode not in MODES,
        f"[sampling] alpha: found {c.sampling.alpha}, expected 0 to 1": not 0 <= c.sampling.alpha <= 1,
        f"[sampling] kinds: expected some of {', '.join(KINDS)}": not kinds <= set(KINDS),
        "[sampling] kinds, factors: expected numbers of at least 0": any(not 0 <= s < float("inf") for s in shares),
        f"[sampling] size_exponent, language_exponent: found {exponents}, expected 0 to 10": any(
            not 0 <= exponent <= 10 for exponent in exponents
        ),
        "[sampling] negatives: expected at least 0": c.sampling.negatives < 0,
        f"[loss] temperature: found {c.loss.temperature}, expected above 0": not 0 < c.loss.temperature < float("inf"),
        "[loss] temperature: to be learned, expected 0.01 to 1": c.loss.learn_temperature
        and not 0.01 <= c.loss.temperature <= 1,
        f"[loss] alignment: found {c.loss.alignment}, expected at least 0": not 0 <= c.loss.alignment < float("inf"),
        f"[training] dtype: found {t.dtype!r}, expected float32 or bfloat16": t.dtype not in ("float32", "bfloat16"),
        "[training]: expected at least 1 step and 2 pairs in a batch": t.steps < 1 or t.batch_size < 2,
        "[training] learning_rate: expected above 0": not 0 < t.learning_rate < float("inf"),
        "[training]: expected numbers of at least 0": min(
            t.micro_batch, t.warmup, t.validate_every, t.patience, t.checkpoint_every, t.seed
        )
        < 0
        or not (0 <= t.clip < float("inf") and 0 <= t.weight_decay < float("inf")),
        f"[training] seed: found {t.seed}, expected below 2^63": t.seed >= 1 << 63,
        "[training] patience: needs validate_every above 0 and a holdout": t.patience > 0
        and not (t.validate_every and c.data.holdout),
    }
