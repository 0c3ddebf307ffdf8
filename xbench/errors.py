"""The exception tree and the exit codes of the command line.

XbenchError                  70  a bug, when raised as itself
├── UsageError                2  unknown task, model, measure or option value
├── DataError                 3  input that is missing or not in its format
├── UnsafeInput               4  input that could run code; refused
├── ModelOutputError          5  vectors that cannot be ranked
├── StorageError              6  a file that cannot be written or read
├── IntegrityError            7  bytes that are not the expected ones
└── IncompleteError          10  work that could not be finished

A message is one line: what, where (file, line or row), found, expected, cure.
"""

import difflib
from collections.abc import Iterable


class XbenchError(Exception):
    """Root of every error that xbench raises on purpose."""

    exit_code = 70


class UsageError(XbenchError):
    """A name or an option that xbench does not know."""

    exit_code = 2


class DataError(XbenchError):
    """Input data that is missing or not in its format."""

    exit_code = 3


class UnsafeInput(XbenchError):
    """Input that could run somebody else's code."""

    exit_code = 4


class ModelOutputError(XbenchError):
    """A model returned something that cannot be ranked."""

    exit_code = 5


class StorageError(XbenchError):
    """A file or folder cannot be written or read."""

    exit_code = 6


class IntegrityError(XbenchError):
    """Bytes differ from what their record promises."""

    exit_code = 7


class IncompleteError(XbenchError):
    """The work could not be finished; what is done is kept."""

    exit_code = 10


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among the known ones, with the nearest of them."""
    names = sorted(known)
    spelled = {n.lower(): n for n in names}
    near = [spelled[n] for n in difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)]
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return UsageError(f"unknown {kind} {name!r}{meant} known: {', '.join(names)}")
