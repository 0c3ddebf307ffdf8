"""Links of a page: to result files beside it, and to the web where an address is beyond doubt."""

import re

from xbench.tables import plain

# Stricter than the standard: ASCII alone, no user and password, a host of letters, digits, dots and hyphens.
_WEB = re.compile(
    r"https?://[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?(?:[/?#][!#$%&'()*+,./:;=?@\[\]~\w-]*)?", re.A | re.I
)
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")


def web(url: str) -> str | None:
    """The address as it is, if it is one of http or https and nothing else; None if it should be shown as text."""
    return url if _WEB.fullmatch(url) else None


def file(path: str, up: str = "../") -> str | None:
    """A link to a file of the folder of boards from a page in a folder of it, or None where it would leave the folder.

    Args:
        path: with slashes.
        up: from the page to the folder of boards.
    """
    if plain(path) != path or any(part in ("", ".", "..") for part in path.split("/")):
        return None
    return up + "".join(chr(b) if b in _UNRESERVED else f"%{b:02X}" for b in path.encode())
