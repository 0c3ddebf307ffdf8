"""Studies: which models are trained in which variants and seeds, what they are tested on, and what is claimed of them.

A TOML file, read strictly:

    name = "hybrid"; question = "..."; tasks = ["xquad-r"]; measures = ["AP"]; baseline = "x-x"
    [models.static]     config = "static"; seeds = [0, 1, 2]    # a bundled config, or a file beside the study
    [set]               "training.steps" = 500                  # over the configs' values, in every run
    [variants.x-x]      "sampling.mode" = "x-x"                 # over both, in the runs of a variant
    [variants.hybrid]   "sampling.mode" = "hybrid"
    [[claims]]          text = "..."; source = "..."; better = "hybrid"; than = "x-x"; setting = "mono"; measure = "AP"
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xbench.catalogue import parse_all
from xbench.errors import DataError, UsageError, unknown
from xbench.groups import OTHER
from xbench.storage import fingerprint, storage
from xbench.train.config import RECIPES, Config, read_config

# Of models and variants, which are folders; the first two names are taken.
NAME = re.compile(r"(?!(?:results|plots)$)[A-Za-z0-9][A-Za-z0-9._-]{0,49}", re.ASCII)
SEED = "training.seed"


class Claim(NamedTuple):
    """That one variant is better than another."""

    text: str
    source: str
    """Who says so."""
    better: str
    than: str
    setting: str
    """`mono`, `cross`, `multi`, or a group of languages such as `seen:paper: mono: unseen`."""
    measure: str


class Trained(NamedTuple):
    """A model that is trained in every variant."""

    config: str
    seeds: tuple[int, ...]


class Run(NamedTuple):
    """One training run of a study."""

    model: str
    variant: str
    seed: int
    base: str
    """The training config, as for `xbench train`."""
    overrides: Mapping[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """Its folder in the study's."""
        return f"{self.model}/{self.variant}/seed-{self.seed}"


@dataclass(frozen=True)
class Study:
    """See the module."""

    name: str
    question: str
    tasks: tuple[str, ...]
    """Of xbench, or files beside the study."""
    optional: tuple[str, ...]
    """Tasks that are left out, and said to be, where their data are not at hand."""
    measures: tuple[str, ...]
    """Means, in ir-measures' spelling; the first one is plotted by language."""
    baseline: str
    """The variant that all others are tested against."""
    axis: str
    """The key by whose value, or number of values, variants are plotted as curves; empty: as bars."""
    by: tuple[str, ...]
    """Groupings of languages, as for `xbench run --by`."""
    groups: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Groupings of the study's own: name -> group -> languages."""
    common: Mapping[str, Any]
    models: Mapping[str, Trained]
    variants: Mapping[str, Mapping[str, Any]]
    claims: tuple[Claim, ...]
    folder: Path
    """Where the file lies; decides no number."""

    @property
    def about(self) -> dict[str, Any]:
        """The definition as JSON values."""
        return {
            "name": self.name,
            "question": self.question,
            "tasks": [*self.tasks],
            "optional": [*self.optional],
            "measures": [*self.measures],
            "baseline": self.baseline,
            "axis": self.axis,
            "by": [*self.by],
            "groups": {name: {group: [*some] for group, some in by.items()} for name, by in self.groups.items()},
            "set": dict(self.common),
            "models": {name: {"config": m.config, "seeds": [*m.seeds]} for name, m in self.models.items()},
            "variants": {name: dict(values) for name, values in self.variants.items()},
            "claims": [claim._asdict() for claim in self.claims],
        }

    @property
    def sha256(self) -> str:
        """Of `about`, as canonical JSON."""
        return fingerprint(self.about)

    def runs(self) -> list[Run]:
        """All runs: model by model, there seed by seed, so that variants have equally many when it is stopped.

        Raises:
            UsageError, DataError: as `read_config`; two variants that are one.
        """
        found: list[Run] = []
        same: dict[tuple[str, str], str] = {}
        for model, (base, seeds) in self.models.items():
            path = str(self.folder / base) if base.endswith(".toml") else base
            for seed in seeds:
                for variant, values in self.variants.items():
                    overrides = {**self.common, **values, SEED: seed}
                    run = Run(model, variant, seed, base, overrides, read_config(path, overrides))
                    other = same.setdefault((model, run.config.sha256), run.name)
                    if other != run.name:
                        raise DataError(f"study {self.name}: {other} and {run.name} are the same; drop one of the two")
                    found.append(run)
        return found

    def place(self, variant: str) -> tuple[str, float]:
        """Where a variant stands on the axis: its curve, named by what else it sets, and its place there."""
        values = dict(self.variants[variant])
        at = values.pop(self.axis)
        line = ", ".join(str(value) for value in values.values())
        return line, float(len(at) if isinstance(at, list | dict) else at)


def study_names() -> list[str]:
    """The names of the bundled studies, sorted."""
    return sorted(path.stem.removeprefix("study-") for path in RECIPES.glob("study-*.toml"))


def read_study(name: str) -> Study:
    """A study by the path of its file (`.toml`), or by the name of a bundled one.

    Raises:
        UsageError: no such study, config, key of a config or measure.
        DataError: the file is not in the form above, or contradicts itself.
        StorageError: it cannot be read.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"study-{name}.toml"
    if not path.is_file():
        if path.parent == RECIPES:
            raise unknown("study", name, study_names())
        raise UsageError(f"{path}: no such file; expected a study (.toml) or one of {', '.join(study_names())}")
    with storage(path, "read"):
        content = path.read_bytes()
    try:
        return _study(tomllib.loads(content.decode()), path)
    except ValueError as error:  # TOMLDecodeError is one
        raise DataError(f"{path}: {error}") from error


def _study(raw: dict[str, Any], path: Path) -> Study:
    """Raises ValueError where the file is wrong."""
    required, strings = ("name", "question", "tasks", "measures", "baseline", "models", "variants"), (str,)
    _known(raw, [*required, "optional", "axis", "by", "groups", "set", "claims"], "")
    if lacking := [key for key in required if key not in raw]:
        raise ValueError(f"{lacking[0]}: missing; a study needs {', '.join(required)}")
    name, question, baseline, axis = (
        _a(raw.get(key, ""), str, key) for key in ("name", "question", "baseline", "axis")
    )
    _folder(name, "name")
    variants = {}
    for variant, values in _table(raw["variants"], "variants").items():
        variants[_folder(variant, "variants")] = dict(_table(values, f"variants.{variant}", empty=True))
    models = {}
    for model, values in _table(raw["models"], "models").items():
        where = f"models.{_folder(model, 'models')}"
        _known(_table(values, where), ["config", "seeds"], f"[{where}] ")
        seeds = _list(values.get("seeds"), (int,), f"{where}.seeds")
        models[model] = Trained(_a(values.get("config"), str, f"{where}.config"), seeds)
    groups = {
        grouping: {group: _list(some, strings, f"groups.{grouping}.{group}") for group, some in by.items()}
        for grouping, by in _table(raw.get("groups", {}), "groups", empty=True).items()
        if _table(by, f"groups.{grouping}")
    }
    measures = parse_all(_list(raw["measures"], strings, "measures"))
    if medians := [measure.name for measure in measures if measure.statistic != "mean"]:
        raise ValueError(f"measures: {medians[0]} is no mean over queries, so it has no paired test; leave it out")
    names = tuple(measure.name for measure in measures)
    claims = tuple(
        _claim(each, variants, names) for each in _list(raw.get("claims", []), (dict,), "claims", empty=True)
    )
    common = dict(_table(raw.get("set", {}), "set", empty=True))
    if baseline not in variants:
        raise ValueError(f"baseline: {baseline!r} is no variant; known: {', '.join(variants)}")
    if any(SEED in values for values in (common, *variants.values())):
        raise ValueError(f"{SEED}: is given by the seeds of a model; take it out")
    if any(OTHER in by for by in groups.values()):
        raise ValueError(f"groups: {OTHER!r} is the group of all languages in no group; rename it")
    for variant, values in variants.items():
        if axis and not isinstance(values.get(axis), int | float | list | dict):
            raise ValueError(f"variants.{variant}: no number, list or table {axis!r}, by which variants are plotted")
    return Study(
        name,
        question,
        _list(raw["tasks"], strings, "tasks"),
        _list(raw.get("optional", []), strings, "optional", empty=True),
        names,
        baseline,
        axis,
        _list(raw.get("by", []), strings, "by", empty=True),
        groups,
        common,
        models,
        variants,
        claims,
        path.parent,
    )


def _claim(raw: Mapping[str, Any], variants: Mapping[str, Any], measures: tuple[str, ...]) -> Claim:
    _known(raw, Claim._fields, "[[claims]] ")
    claim = Claim(*(_a(raw.get(key), str, f"claims.{key}") for key in Claim._fields))
    for key in ("better", "than"):
        if getattr(claim, key) not in variants:
            raise ValueError(f"claims.{key}: {getattr(claim, key)!r} is no variant; known: {', '.join(variants)}")
    (measure,) = parse_all([claim.measure])
    if claim.better == claim.than or measure.name not in measures:
        raise ValueError(f"claim {claim.text!r}: expected two variants, and one of the measures {', '.join(measures)}")
    return claim._replace(measure=measure.name)


def _known(raw: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    if strange := sorted(set(raw) - set(keys)):
        raise ValueError(f"{where}{strange[0]}: no such key; known: {', '.join(keys)}")


def _folder(name: str, where: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{where}: {name!r} can name no folder; use letters, digits, dots and hyphens")
    return name


def _a(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{where}: found {value!r}, expected {kind.__name__}")
    return value


def _table(value: Any, where: str, *, empty: bool = False) -> Mapping[str, Any]:
    if type(value) is not dict or not (value or empty):
        raise ValueError(f"{where}: found {value!r}, expected a table [{where}]")
    return value


def _list(value: Any, kinds: tuple[type, ...], where: str, *, empty: bool = False) -> tuple[Any, ...]:
    """The distinct values of a list."""
    if type(value) is not list or not (value or empty) or any(type(each) not in kinds for each in value):
        raise ValueError(f"{where}: found {value!r}, expected a list of {kinds[0].__name__}")
    if any(each in value[:i] for i, each in enumerate(value)):
        raise ValueError(f"{where}: {value!r} has something twice")
    return tuple(value)
