"""Who does the work on shards: this process, one after the other, or the workers of a cluster."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


class Workers(Protocol):
    """Processes that each do one thing at a time."""

    @property
    def size(self) -> int:
        """How many work at once, as it is now."""

    def map(self, function: Callable[[S, T], R], shared: S, items: Iterable[T]) -> Iterator[R]:
        """`function(shared, item)` of every item, as they are done.

        Items are asked for when there is somebody to take them. What is done must depend on nothing but shared and
        item, as it is done again where a worker is lost.

        Args:
            function: of a module, so that other processes find it.
            shared: what all items need; it is sent to a machine once.
            items: few are held at once.

        Raises:
            IncompleteError: workers were lost time and again with the same item.
            XbenchError: as the function.
        """

    def report(self) -> dict[str, Any]:
        """What is known of them so far, for a result's timing."""


class Here:
    """This process."""

    size = 1

    def map(self, function: Callable[[S, T], R], shared: S, items: Iterable[T]) -> Iterator[R]:
        """As `Workers` has it, in order."""
        for item in items:
            yield function(shared, item)

    def report(self) -> dict[str, Any]:
        """Nothing: the process reports itself."""
        return {}
