"""What happens to a run: processes of their own, and strikes at the moment when they write."""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
import signal
import sys
import tempfile
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

KILLED = 137
OPERATIONS = ("open", "replace", "mkdir", "symlink", "link", "unlink", "rmdir", "fsync")
FAULTS = {"disk full": errno.ENOSPC, "read-only": errno.EROFS, "I/O error": errno.EIO}


def forked(work) -> tuple[int, str]:
    """(exit code, what it printed) of `work` in a process of its own."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            # What a test runner put there would keep what is printed.
            sys.stdout, sys.stderr = (os.fdopen(place, "w", buffering=1, closefd=False) for place in (1, 2))
            code = 1
            try:
                work()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                with suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode(errors="replace")


def command(words):
    from psp_ray.cli.main import main

    return lambda: main(words)


@contextmanager
def disturbed(root: Path, at: int, strike):
    """The `at`-th thing that writes below `root` meets `strike`; gives a list whose length counts them.

    Where `strike` gives False there was nothing to strike at yet, and the next one meets it.
    """
    seen: list[str] = []
    struck = [at < 0]
    whole = {
        (builtins, "open"): builtins.open,
        (io, "open"): io.open,
        **{(os, name): getattr(os, name) for name in OPERATIONS},
    }

    def writes(name: str, arguments, keywords) -> bool:
        if name == "fsync":
            return True
        target = arguments[0] if arguments else ""
        if not isinstance(target, (str, os.PathLike)) or not os.fspath(target).startswith(str(root)):
            return False
        if name == "open" and len(arguments) > 1 and isinstance(arguments[1], int):
            return bool(arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if name == "open":
            mode = arguments[1] if len(arguments) > 1 else keywords.get("mode", "r")
            return any(letter in str(mode) for letter in "wax+")
        return True

    def patched(name: str, call):
        def wrapper(*arguments, **keywords):
            if writes(name, arguments, keywords):
                seen.append(name)
                if len(seen) >= at and not struck[0]:
                    struck[0] = True
                    struck[0] = strike(arguments[0] if arguments else None) is not False
            return call(*arguments, **keywords)

        return wrapper

    for (place, name), call in whole.items():
        setattr(place, name, patched(name, call))
    try:
        yield seen
    finally:
        for (place, name), call in whole.items():
            setattr(place, name, call)


def die(path) -> None:
    os._exit(KILLED)


def fail(code: int):
    def strike(path) -> None:
        raise OSError(code, os.strerror(code), path if isinstance(path, (str, os.PathLike)) else None)

    return strike


def kill_an_actor(pick: random.Random):
    """Kill one of the processes in which Ray holds actors; False while there is none."""

    def strike(path) -> bool:
        if "ray" not in sys.modules:
            return False
        import psutil  # comes with Ray

        actors = [child for child in psutil.Process().children(recursive=True) if "ray::" in " ".join(_line(child))]
        if not actors:
            return False
        victim = pick.choice(sorted(actors, key=lambda process: process.pid))
        print(f"\nVICTIM {' '.join(_line(victim))}")
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
        return True

    return strike


def _line(process) -> list[str]:
    import psutil

    with suppress(psutil.Error):
        return process.cmdline()
    return []
