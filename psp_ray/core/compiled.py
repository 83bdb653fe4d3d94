"""Loops that numba compiles, once a machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


@functools.cache
def compiled(function: Callable[..., Any], signature: str, *, reorder: bool = False) -> Callable[..., Any]:
    """`function` compiled for `signature` on first use; kept on disk where numba finds a writable folder.

    Single-threaded: the same bits on every run. `reorder`: sums may be taken in an order of the compiler's choice, so
    that it can make vectors of their loops, and numbers are known to be finite; then the same bits on every run of one
    kind of processor, as with matrix products.
    """
    import numba

    loose: bool | set[str] = {"reassoc", "contract", "nnan", "nsz"} if reorder else False
    try:
        made: Callable[..., Any] = numba.njit(signature, cache=True, nogil=True, fastmath=loose)(function)
    except RuntimeError:  # no writable folder for the cache: compile in this process only
        made = numba.njit(signature, nogil=True, fastmath=loose)(function)
    return made
