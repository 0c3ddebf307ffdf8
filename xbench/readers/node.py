"""JSON values that know their place, for errors that say where."""

from typing import NoReturn

from xbench.errors import DataError


class Node:
    """A JSON value that knows its place, for errors that say where."""

    def __init__(self, value: object, where: str):
        self.value = value
        self.where = where

    def fail(self, what: str) -> NoReturn:
        """Refuse the value, with its place.

        Raises:
            DataError: always.
        """
        raise DataError(f"{self.where}: {what}" if not self.where.endswith(": ") else f"{self.where}{what}")

    def get(self, key: str) -> "Node":
        """The value of a field; a DataError if there is none."""
        if not isinstance(self.value, dict):
            self.fail(f"expected an object with {key!r}, found {type(self.value).__name__}")
        if key not in self.value:
            self.fail(f"field {key!r} is missing; fields: {', '.join(map(repr, sorted(self.value))) or 'none'}")
        return Node(self.value[key], f"{self.where}{'' if self.where.endswith(': ') else '.'}{key}")

    def list(self, key: str) -> "list[Node]":
        """The items of a field that is a list."""
        node = self.get(key)
        if not isinstance(node.value, list):
            node.fail(f"expected a list, found {type(node.value).__name__}")
        return [Node(item, f"{node.where}[{i}]") for i, item in enumerate(node.value)]

    def text(self, key: str) -> str:
        """The text of a field, which is not empty."""
        return self.get(key).is_text()

    def is_text(self) -> str:
        """This value, if it is text and not empty."""
        if not isinstance(self.value, str):
            self.fail(f"expected text, found {type(self.value).__name__}")
        if not self.value.strip():
            self.fail("the text is empty")
        return self.value
