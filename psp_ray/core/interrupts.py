"""Signals that end the program, noted as well as raised.

Compiled code that a signal reaches makes what it likes of the exception, mostly while it is imported: an error of its
own, or nothing. So what was heard is kept: the program knows what an odd error means, and the loop of rounds asks.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from psp_ray.core.errors import Interrupted

_heard: list[int] = []


def _note(signum: int, frame: FrameType | None) -> None:
    if signum == signal.SIGTERM:
        signal.signal(signum, signal.SIG_IGN)  # once is enough; what follows writes files
    _heard.append(signum)
    raise _meaning(signum)


def _meaning(signum: int) -> BaseException:
    return KeyboardInterrupt() if signum == signal.SIGINT else Interrupted()


def listen() -> None:
    """Note SIGINT and SIGTERM from now on; a SIGINT that is ignored, as behind `nohup`, stays so. Main thread only."""
    _heard.clear()
    signal.signal(signal.SIGTERM, _note)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)


def heard() -> int | None:
    """The last of those signals, if one came."""
    return _heard[-1] if _heard else None


def check() -> None:
    """Raise KeyboardInterrupt or Interrupted again where one was heard; in the main thread, between two rounds."""
    if _heard and threading.current_thread() is threading.main_thread():
        raise _meaning(_heard[-1])
