"""Thread counts: part of the configuration, because sums depend on how they are split."""

from __future__ import annotations

import os
import sys

from threadpoolctl import threadpool_limits

_limits: list[threadpool_limits] = []  # a limit ends with its object


def limit_threads(count: int) -> None:
    """Let BLAS, OpenMP, numba and torch use `count` threads in this process, now or when they are imported later.

    OpenMP threads that are imported later sleep while they wait: spinning, as is their habit, they take the cores from
    the other processes of a run, and two threads become many times slower than one.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(count)
    _limits[:] = [threadpool_limits(count)]
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)
