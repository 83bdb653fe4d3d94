"""A Ray cluster that nobody beyond this machine reaches.

Ray replaces 127.0.0.1 by the machine's address in the network, and its servers (GCS, raylets, workers, agents, metrics)
then listen on every interface. Where clusters of several machines are switched off, as Ray does by itself on macOS and
Windows, it keeps to loopback; that switch is thrown here while a cluster is started, and its processes inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray._private import ray_constants

ADDRESS = "127.0.0.1"
_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def on_loopback() -> Iterator[None]:
    """A cluster that is started in here listens on loopback alone.

    It also asks for a token, which only this user can read then: see `psp_ray.actors.tokens`.
    """
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "0"
    known = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = known
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before
        _close_token()


def _close_token() -> None:
    """Let nobody else read the token that Ray keeps in the home folder; it leaves it to the umask."""
    file = Path.home() / ".ray" / "auth_token"
    with suppress(OSError, RuntimeError):
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
