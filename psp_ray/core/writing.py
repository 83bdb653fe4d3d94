"""What keeps a program from writing, as one line: full disks, read-only mounts, failing devices, rights, limits."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from psp_ray.core.errors import OutputError
from psp_ray.core.words import reason_of

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
WRITE_FAULTS = frozenset({*_FULL, *_FORBIDDEN, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ESTALE})
"""What a disk, a mount, rights or limits of the system forbid: nothing that a program could have known."""


@contextmanager
def writing(path: str | os.PathLike[str], remedy: str = "") -> Iterator[None]:
    """Around all that writes `path`. `remedy`: what helps where it isn't a full or failing disk.

    Raises:
        OutputError: it can't be written; whatever was written before can be resumed.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(unwritable(path, error, remedy)) from error


def unwritable(path: str | os.PathLike[str], error: OSError, remedy: str = "") -> str:
    """One line: which path can't be written, why, and what helps."""
    reason = error.strerror or reason_of(error)
    if error.errno in _FULL:
        remedy = "make room there, then run the same command again (a run with --resume)"
    elif error.errno == errno.EIO:
        remedy = "the disk or its mount fails: see to that, or choose another place, then run the command again"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "raise the limit of open files (ulimit -n), then run the same command again"
    return f"{path}: can't be written ({reason}); {remedy or 'allow writing there, or choose another place'}"
