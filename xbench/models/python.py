"""`py:FILE_OR_MODULE:OBJECT`: any Python object with `encode_queries` and `encode_passages`."""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xbench.errors import DataError, ModelOutputError, UsageError, XbenchError
from xbench.models import Prepared, Role

T = TypeVar("T", int, str)


class PythonEncoder:
    """Wraps the object, or what it returns if it is a class or a function without arguments.

    The object is told the language, so each (text, language) is encoded once. Its cached vectors
    are keyed by the bytes of its source file, by `OBJECT` and by the object's `fingerprint`
    (a string), which it must have if anything else can move its vectors: weights, settings.
    """

    told_language = True

    def __init__(self, spelling: str):
        """Import and check the object.

        Raises:
            UsageError: the spelling has no OBJECT, or the object lacks a method.
            DataError: the file or module is missing or fails to import.
        """
        place, colon, attribute = spelling.removeprefix("py:").rpartition(":")
        if not colon or not place or not attribute:
            raise UsageError(f"model {spelling!r}: write py:FILE_OR_MODULE:OBJECT, such as py:model.py:encoder")
        self.name = spelling
        module, source = _import(place)
        target: Any = module
        for part in attribute.split("."):
            if not hasattr(target, part):
                raise UsageError(f"model {spelling!r}: {place} has no {part!r}")
            target = getattr(target, part)
        if inspect.isclass(target) or inspect.isfunction(target):
            try:
                target = target()
            except (Exception, SystemExit) as error:
                raise ModelOutputError(f"model {spelling!r}: {attribute}() raised {error!r}") from error
        for method in ("encode_queries", "encode_passages"):
            if not callable(getattr(target, method, None)):
                raise UsageError(f"model {spelling!r}: {attribute} has no method {method}(texts, language)")
        self._object = target
        self.batch_tokens = _attribute(spelling, target, "batch_tokens", 4096)
        self.identity: dict[str, object] = {
            "kind": "py",
            "object": attribute,
            "source": hashlib.sha256(source.read_bytes()).hexdigest(),
            "fingerprint": _attribute(spelling, target, "fingerprint", ""),
        }

    def prepare(self, texts: Sequence[str], role: Role) -> Prepared:
        """The texts themselves, with a rough number of tokens: a quarter of the bytes."""
        return Prepared(texts, [len(text.encode()) // 4 + 1 for text in texts])

    def encode(self, items: Sequence[str], role: Role, language: str) -> NDArray[np.float32]:
        """What the object returns; checked by the caller."""
        method = self._object.encode_queries if role == "queries" else self._object.encode_passages
        vectors: NDArray[np.float32] = method(list(items), language)
        return vectors


def _import(place: str) -> tuple[ModuleType, Path]:
    path = Path(place)
    is_file = path.suffix == ".py" or os.sep in place
    if is_file and not path.is_file():
        raise DataError(f"model file {place} does not exist")
    try:
        if not is_file:
            module = importlib.import_module(place)
            return module, Path(inspect.getsourcefile(module) or "")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise DataError(f"model file {place} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)  # for dataclasses and pickling inside it
        spec.loader.exec_module(module)
    except XbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"model {place} fails to import: {type(error).__name__}: {error}") from error
    return module, path


def _attribute(spelling: str, target: object, name: str, default: T) -> T:
    """An optional attribute of the object, which must be of the default's type."""
    value = getattr(target, name, default)
    if type(value) is not type(default) or (isinstance(value, int) and value < 1):
        raise UsageError(f"model {spelling!r}: {name} must be a {type(default).__name__}, found {value!r:.60}")
    return value
