"""The door to Ray: a cluster that is there already, or one of this machine's own processes."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

from xbench.errors import UsageError
from xbench.progress import log


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; disconnected when the block ends. Inside of another block nothing is done.

    Args:
        address: `auto` (the cluster that this machine is part of), `HOST:PORT`, `ray://HOST:PORT`, or `local` (a
            cluster of this machine's processors alone, which ends with the block).

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--ray needs Ray ({error}); pip install 'xbench[distributed]'") from error
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends nothing anywhere
    _reach(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False)
    except (ValueError, RuntimeError, OSError) as error:
        raise _nobody(address, error) from error
    log.info("connected to Ray %s: %d nodes", ray.__version__, sum(node["Alive"] for node in ray.nodes()))
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself tries for minutes where nobody listens."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise _nobody(address, error) from error


def _nobody(address: str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200]
    return UsageError(
        f"--ray {address}: no Ray cluster there ({reason}); start one with `ray start --head`, or give --ray local"
    )
