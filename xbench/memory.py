"""How much memory this process has taken, and that it keeps none."""

import contextlib
import ctypes
import functools
import sys
from pathlib import Path

MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def peak_mb() -> int | None:
    """Largest resident memory so far, in MB of 2^20 bytes, where the platform tells."""
    if sys.platform == "win32":
        return None
    if sys.platform == "linux":  # whose ru_maxrss begins with that of the process that started this one
        return _status("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10)


def shared_mb() -> int:
    """Of the memory that is resident now what processes share on purpose, as Ray's object store; 0 but on Linux."""
    return (_status("RssShmem") or 0) if sys.platform == "linux" else 0


def _status(name: str) -> int | None:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n")
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith(f"{name}:")), None)


@functools.cache
def hoard_nothing() -> None:
    """From now on give the system what is freed, where the C library is GNU's.

    It keeps an arena for each of up to 8 threads a processor, and in it what threads have freed, long after they have
    ended: a search that starts threads for every shard came to hold 400 MB so. Now nothing of 1 MB and more is kept.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 20)
