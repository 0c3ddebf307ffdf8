"""How many threads to use."""

import os


def cores() -> int:
    """Processors this process may use; OMP_NUM_THREADS, if set, lowers it."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return min(allowed, int(wish)) if wish.isdecimal() and int(wish) > 0 else allowed
