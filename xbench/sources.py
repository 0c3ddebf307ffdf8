"""Where the files of a task come from, and the proof that they are the right ones.

A file is known by its size and its SHA-256, and both are checked whenever it is located, not only when it is fetched:
disks, copies and mirrors change bytes without a word.
"""

import contextlib
import http.client
import ipaddress
import logging
import os
import re
import sys
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from xbench.errors import DataError, IntegrityError, StorageError, UsageError
from xbench.progress import track
from xbench.storage import sha256, storage

log = logging.getLogger("xbench")
# Requests for one file before giving up, and the seconds before the second one, doubled each time.
TRIES = 6
DELAY = 1.0
# Seconds without a single byte before a connection counts as lost.
TIMEOUT = 30.0
# Most bytes taken from the network at once.
CHUNK = 1 << 20


class Source(NamedTuple):
    """One file of a task: where it comes from and which bytes it has."""

    task: str
    name: str  # a file name such as `ar.json`, in the folder of the task
    url: str
    size: int  # in bytes
    sha256: str  # in lower-case hexadecimal; empty where neither is on record: such a file is never fetched
    passages: bool = False  # nothing but passages: who scores a run needs no such file


class _PassingError(Exception):
    """A try failed for a reason that may be gone at the next, which with `anew` begins at the first byte."""

    def __init__(self, reason: object, *, anew: bool = False) -> None:
        super().__init__(" ".join(str(reason).split()) or type(reason).__name__)
        self.anew = anew


class _Redirects(HTTPRedirectHandler):
    """Follows a redirect only to where a url of ours may point, and never from https to http."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        if not _fetchable(newurl) or (req.type == "https" and urlsplit(newurl).scheme != "https"):
            reason = f"{msg} - redirection to {newurl} is not allowed"
            raise urllib.error.HTTPError(req.full_url, code, reason, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def default_cache() -> Path:
    """The folder for what xbench fetches: XBENCH_CACHE, else the platform's cache folder plus `xbench`."""
    if own := os.environ.get("XBENCH_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "darwin":
        base = "~/Library/Caches"
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "xbench"


def verify(path: Path, source: Source) -> None:
    """Check that `path` holds the bytes of `source`.

    Raises:
        DataError: there is no such file.
        IntegrityError: its size or its SHA-256 is another.
    """
    expected = f"expected {source.size} bytes, SHA-256 {source.sha256}"
    cure = f"delete it, then run `xbench data fetch {source.task}`, or put the file of {source.url} there"
    if source.url.startswith("file:"):  # somebody's own, of which there may be no other
        cure = "put the file back as it was, or make the task anew with `xbench tasks new`"
    with storage(path, "read"):
        if not path.is_file():
            raise DataError(f"{path} is missing or not a file: {expected}; {cure.removeprefix('delete it, then ')}")
        size = path.stat().st_size
    # Hashed even when the size already tells, so that the message names the version that was found.
    found = sha256(path)
    if (size, found) != (source.size, source.sha256):
        raise IntegrityError(f"{path}: found {size} bytes, SHA-256 {found}; {expected}; {cure}")


def locate(source: Source, data: Path | None, *, offline: bool = False) -> Path:
    """Find the verified file of `source`: under `data` if given, else in the cache, fetched if need be.

    Args:
        source: the file.
        data: a folder with one folder per task, whose files the user answers for; nothing is fetched into it.
        offline: never use the network.

    Raises:
        DataError: the file is missing and may not or cannot be fetched.
        IntegrityError: it is not the file of its record; one without a record is taken as it is.
        StorageError: it cannot be read or written.
        UsageError: its url is not one that is fetched.
    """
    path = (data if data is not None else default_cache() / "data") / source.task / source.name
    with storage(path, "read"):
        present = path.exists()
    if not source.sha256:
        if not path.is_file():
            raise DataError(
                f"{path} is missing or not a file, and no SHA-256 of it is on record, so it is not fetched: get "
                f"{source.url} and put it there, or give the folder that holds {source.task}/{source.name} as --data"
            )
    elif data is not None or present:
        verify(path, source)
    elif offline:
        raise DataError(
            f"{path} is missing, and offline nothing is fetched; run `xbench data fetch {source.task}` "
            f"while online, or give the folder that holds {source.task}/{source.name} as --data"
        )
    else:
        fetch(source, path)
    return path


def fetch(source: Source, target: Path) -> None:
    """Download `source` to `target`, which appears whole and checked, or not at all.

    What a try, or an earlier process, has got stays beside the target and is continued. Nothing depends on locks: each
    process writes a partial file of its own, named by its pid. Where two share a pid (containers on one volume,
    threads), both write the same bytes at the same offsets.

    Raises:
        DataError: it cannot be fetched; running again goes on where this ended.
        IntegrityError: the server has other bytes than the record.
        StorageError: it cannot be written.
        UsageError: the url is neither https nor on this machine.
    """
    if not _fetchable(source.url):
        raise UsageError(
            f"will not fetch {source.url}: expected an https:// address in plain ASCII; correct the url of "
            f"{source.task}/{source.name}, or give the folder that holds this file as --data"
        )
    part = target.with_name(f".{target.name}.{source.sha256[:8]}.{os.getpid()}.part")
    with storage(target.parent, "write"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _claim(part)
    try:
        resumed = _download(source, part)
        found = sha256(part)
        if found != source.sha256 and resumed:
            # The halves may be of two versions of the file; only a whole download can tell.
            log.warning("%s: the continued download has SHA-256 %s; starting anew", source.name, found)
            _drop(part)
            _download(source, part)
            found = sha256(part)
        if found != source.sha256:
            _drop(part)
            raise _other(source, f"{source.size} bytes, SHA-256 {found}")
        with storage(target, "write"):
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(part, target)  # unsynced: one lost in a power cut leaves the whole partial to be claimed
    except StorageError as error:
        # Gone under our hands: a process with our pid elsewhere has put it in place.
        if not isinstance(error.__cause__, FileNotFoundError) or not target.is_file():
            raise
        verify(target, source)


def _claim(part: Path) -> None:
    """Make the largest partial that an ended process left of this file our own.

    The rename is atomic: of several claimants one wins, the others find nothing and take the next.
    """
    pattern = re.compile(re.escape(part.name.removesuffix(f"{os.getpid()}.part")) + r"([0-9]{1,9})\.part")
    orphans = []
    for path in part.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match and (int(match[1]) == os.getpid() or not _alive(int(match[1]))):
            with contextlib.suppress(FileNotFoundError):  # claimed by another since the folder was listed
                orphans.append((path.stat().st_size, path))
    for size, path in sorted(orphans, reverse=True):
        try:
            os.replace(path, part)
        except (FileNotFoundError, PermissionError) as error:
            log.debug("%s is another's: %s", path, error)
        else:
            log.info("%s: going on after %d bytes", part, size)
            return


def _alive(pid: int) -> bool:
    """Whether a process of this machine has this pid; on Windows the rename in `_claim` answers instead."""
    if os.name == "nt":
        # os.kill would end the process there; but nobody can rename a file that its writer holds open.
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _download(source: Source, part: Path) -> bool:
    """Bring `part` to its full size, and return whether its bytes may come from more than one answer."""
    if _size(part) > source.size:
        _drop(part)
    with track(f"fetching {source.name}", source.size, "bytes") as advance:
        advance(_size(part))
        reason = ""
        for number in range(TRIES):
            if number:
                log.info("%s: %s; trying again", source.url, reason)
                time.sleep(DELAY * 2 ** (number - 1))
            if _size(part) == source.size:
                return True
            try:
                return _try(source, part, advance) > 0
            except _PassingError as error:
                reason = str(error)
                if error.anew:
                    advance(-_drop(part))
    raise DataError(
        f"cannot fetch {source.url}: {reason}, after {TRIES} tries; {_size(part)} of {source.size} bytes "
        f"are kept in {part.parent}, and the same command resumes from there"
    )


def _try(source: Source, part: Path, advance: Callable[[int], None]) -> int:
    """One request for what `part` lacks; returns where in the file the answer began."""
    have = _size(part)
    with _ask(source.url, have) as response:
        start = _begins(response, source)
        if start not in (0, have):
            raise _PassingError(f"the answer begins at byte {start}, not at {have}", anew=True)
        if start < have:
            advance(-_drop(part))
        # One byte too many is looked for only where the answer does not say where it ends.
        have, limit = start, source.size + (response.length is None)
        with storage(part, "write"):
            part.touch()
            # Not appended to, nor emptied: a second writer with our pid then writes the same at the same place.
            with part.open("r+b") as file:
                file.seek(start)
                while have < limit and (chunk := _read(response, min(CHUNK, limit - have))):
                    file.write(chunk)
                    have += len(chunk)
                    advance(len(chunk))
    if have > source.size:
        _drop(part)
        raise _other(source, f"more than {source.size} bytes")
    if have < source.size:
        raise _PassingError(f"the answer ended after byte {have} of {source.size}")
    return start


def _ask(url: str, have: int) -> http.client.HTTPResponse:
    """Request `url`, from byte `have` on."""
    # Without identity, a server may compress, and then sizes and offsets are those of other bytes.
    headers = {"Accept-Encoding": "identity", "User-Agent": "xbench"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        request = Request(url, headers=headers)  # noqa: S310 (fetch refuses all but https and loopback)
        response: http.client.HTTPResponse = build_opener(_Redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 429 or error.code >= 500 or (error.code == 416 and have):
            raise _PassingError(error, anew=error.code == 416) from error
        reason = " ".join(str(error).split())
        raise DataError(f"cannot fetch {url}: {reason}; get the file elsewhere and give it under --data") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a redirect to no address at all
        raise _PassingError(getattr(error, "reason", error)) from error
    return response


def _begins(response: http.client.HTTPResponse, source: Source) -> int:
    """Where in the file the body of an answer begins, once its headers promise the right file."""
    start, total = 0, response.length
    if response.headers.get_content_type() == "text/html":
        # The page of a login, a proxy or a moved file, sent as if all were well.
        raise _other(source, f"a web page (text/html) of {urlsplit(response.url).hostname}")
    if response.status == 206:
        header = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", header)
        if not match:
            raise _PassingError(f"the server sent a part with Content-Range {header!r}", anew=True)
        start, total = int(match[1]), None if match[2] == "*" else int(match[2])
    elif response.status != 200:
        raise _other(source, f"status {response.status}")
    encoding = response.headers.get("Content-Encoding", "identity")
    # A file that is itself compressed may be labelled so and still be right; its size tells.
    if total != source.size and (total is not None or encoding != "identity"):
        size = "an unknown number of" if total is None else total
        raise _other(source, f"{size} bytes announced (Content-Encoding {encoding})")
    return start


def _other(source: Source, found: str) -> IntegrityError:
    # Names the address of the record and not the one redirected to, which may carry an access token.
    return IntegrityError(
        f"{source.url}: found {found}; expected {source.size} bytes, SHA-256 {source.sha256}; "
        f"try again later, update xbench, or give {source.task}/{source.name} under --data"
    )


def _read(response: http.client.HTTPResponse, most: int) -> bytes:
    try:
        # read1 and not read: what came before a connection broke is returned, not lost with the error.
        return response.read1(most)
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(error) from error


def _size(part: Path) -> int:
    with storage(part, "read"):
        return part.stat().st_size if part.exists() else 0


def _drop(part: Path) -> int:
    """Remove `part` and return how large it was; unlinked, not emptied, as another may have it open."""
    size = _size(part)
    with storage(part, "remove"):
        part.unlink(missing_ok=True)
    return size


def _fetchable(url: str) -> bool:
    """Whether `url` is https, or http to this very machine, as in tests."""
    if not re.fullmatch(r"[!-~]+", url):
        return False
    try:
        parts = urlsplit(url)
        if parts.scheme != "http":
            return parts.scheme == "https" and bool(parts.hostname)
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:  # no address at all, or the name of another machine
        return False
