"""Ending a sweep in order: SIGTERM does what Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def catch_sigterm() -> None:
    """Let SIGTERM do what Ctrl-C does, whatever that is at the time: Ray Tune has an orderly way of its own."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_IGN)  # once is enough
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
