"""A model that is on the workers of a cluster alone: known here by what one of them says of it."""

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from xbench.errors import DataError, IntegrityError, UsageError
from xbench.models import Encoder, Options, Prepared, Role, load
from xbench.workers import Workers

# Models by their spec: a worker's process loads each once.
_LOADED: dict["Spec", Encoder] = {}


@dataclass(frozen=True)
class Spec:
    """What a worker needs to load a model: its spelling, how to run it, and the folder it is spelled in."""

    spelling: str
    options: Options
    folder: str

    def load(self) -> Encoder:
        """The model; loaded once a process.

        Raises:
            UsageError: it does not encode texts; besides what `models.load` raises.
        """
        if self not in _LOADED:
            with _inside(self.folder):
                model = load(self.spelling, self.options)
            if not isinstance(model, Encoder):
                raise UsageError(f"model {self.spelling!r} does not encode texts: only such models run with --ray")
            _LOADED.clear()  # one at a time: two might not fit
            _LOADED[self] = model
        return _LOADED[self]


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    """In the user's folder, where this machine has it: a model's name may be a path from there."""
    before = os.getcwd()
    if Path(folder).is_dir():
        os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def versions() -> dict[str, str]:
    """Of what every worker computes with; that of a model's packages is in its identity."""
    return {package: importlib.metadata.version(package) for package in ("xbench", "numpy")}


@dataclass(frozen=True)
class Distant:
    """An `Encoder` whose texts are encoded by workers; sent to one, it loads the model there."""

    spec: Spec
    name: str
    told_language: bool
    batch_tokens: int
    identity: dict[str, object]
    versions: dict[str, str] = field(default_factory=versions)

    def load(self) -> Encoder:
        """On a worker: the model, if it is the one that the others have.

        Raises:
            IntegrityError: it is another one, or would compute differently.
        """
        model = self.spec.load()
        found, expected = {**model.identity, **versions()}, {**self.identity, **self.versions}
        if found != expected:
            key = next(k for k in sorted(found | expected) if found.get(k) != expected.get(k))
            raise IntegrityError(
                f"model {self.name!r} is another one on node {platform.node()}: {key} is {found.get(key)!r:.200}, "
                f"on another node {expected.get(key)!r:.200}; take nodes that are alike, with the same versions"
            )
        return model

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared:
        """Never called."""
        self._nowhere()

    def encode(self, items: Sequence[Any], role: Role, language: str) -> Any:
        """Never called."""
        self._nowhere()

    def _nowhere(self) -> NoReturn:
        raise DataError(f"model {self.name!r} is on the workers, not in this process")


def ask(spec: Spec, workers: Workers) -> Distant:
    """The model as a worker has it.

    Raises:
        UsageError: as `Spec.load`.
        IntegrityError: workers have other versions of xbench or NumPy than this process.
    """
    (found,) = workers.map(_tell, spec, [None])
    if found.versions != versions():
        raise IntegrityError(
            f"the workers have {found.versions}, this process has {versions()}; install the same versions on all nodes"
        )
    return found


def _tell(spec: Spec, _: None) -> Distant:
    model = spec.load()
    return Distant(spec, model.name, model.told_language, model.batch_tokens, dict(model.identity))
