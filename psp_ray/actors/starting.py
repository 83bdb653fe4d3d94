"""What surrounds `ray.init`: it would wait for minutes, take signals away, and stumble over long paths."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from urllib.parse import urlsplit

from psp_ray.core.errors import ResourceError, UserError
from psp_ray.core.words import reason_of

CONNECT_SECONDS = 10.0
JOIN_SECONDS = 180.0
"""How long joining a cluster may take, from an address that accepts connections."""
_SOCKET_PATH = 107
_SESSION = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.12345")


def require_listener(address: str, name: str) -> None:
    """Raise a ResourceError at once where nothing listens at `address` (`HOST:PORT`, `ray://HOST:PORT`).

    `name`: where the address was given. Other forms (`auto`) are left to Ray.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ResourceError(f"{name} {address}: is no address; give HOST:PORT, or leave it out") from None
    if host is None or port is None:
        return
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error) or "no answer"
        raise ResourceError(_no_cluster(address, name, reason)) from None


def _no_cluster(address: str, name: str, reason: str) -> str:
    leave = "leave it out" if name.startswith("--") else "unset it"
    return (
        f"{name} {address}: no cluster answers ({reason}); start one with `ray start --head`, {leave}, or use "
        "--runner inline"
    )


@contextmanager
def joining(address: str, name: str, seconds: float = JOIN_SECONDS) -> Iterator[None]:
    """Around `ray.init`: signal handlers stay ours, and where it takes longer than `seconds` a line says so.

    `address` is `local` where Ray is started on this machine.

    Raises:
        ResourceError: no cluster answers in time, or Ray says that there is none, or doesn't start.
    """
    try:
        with _keeping_signals(), _within(seconds):
            yield
    except UserError:
        raise
    except Exception as error:  # Ray raises a plain one where a process of its own doesn't start in time
        if address == "local":
            raise ResourceError(
                f"Ray did not start on this machine ({reason_of(error)}); where it is busy, try again, or use "
                "--runner inline"
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ResourceError(_no_cluster(address, name, reason)) from None


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """Ray replaces the handler of SIGTERM; whoever ends the process means our own one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError after `seconds`; only where signals can be taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, before)


def temporary_folder() -> str | None:
    """Where a cluster started here keeps its sockets; None: where Ray would, which is short enough.

    Raises:
        ResourceError: the system's folder for temporary files has too long a name, and there is no other.
    """
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(base)) + _SESSION <= _SOCKET_PATH:
        return None
    for place in ("/tmp", "/var/tmp"):
        if os.access(place, os.W_OK | os.X_OK):
            return f"{place}/ray"
    raise ResourceError(f"TMPDIR {base}: too long a name for Ray's sockets; set RAY_TMPDIR to a short one")
