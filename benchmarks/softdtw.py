"""Soft-DTW, value and gradient: against tslearn's numba kernels, band against no band, and linearity in n.

    python -m benchmarks.softdtw

Prints a table and one JSON line. Ratios are within one run; times are the best of several.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from psp_ray.policy.softdtw import mean_cost, value_and_grad
from psp_ray.policy.softdtw_torch import softdtw_wavefront


def best(function: Callable[[], object], repeats: int = 5) -> float:
    """Shortest time in seconds; the first call (compilation) is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def pair(n: int, removed: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values of n samples, and of those left a round later, a little moved."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    left = np.delete(x, rng.choice(n, removed, replace=False))
    return x, left + 0.1 * rng.normal(size=len(left))


def tslearn_step(x: np.ndarray, y: np.ndarray, gamma: float) -> float:
    from tslearn.metrics import SoftDTW, SquaredEuclidean  # only of the test environment

    distance = SquaredEuclidean(x[:, None], y[:, None])
    soft = SoftDTW(distance, gamma=gamma)
    value = soft.compute()
    distance.jacobian_product(soft.grad())
    return float(value)


def wavefront_step(x: np.ndarray, y: np.ndarray, gamma: float, width: int | None, device: str) -> None:
    tensor = torch.tensor(x, device=device, requires_grad=True)
    softdtw_wavefront(tensor, torch.tensor(y, device=device), gamma, width).backward()


def main() -> None:
    result: dict[str, float] = {}
    # First of all: tslearn's parallel kernels start a thread pool that slows torch down from then on.
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = pair(4000, 100)
    band_gamma = 0.01 * mean_cost(x, y, 100)
    wave = best(partial(wavefront_step, x, y, band_gamma, 100, device), 2)
    print(f"{'case':<52}{'ms':>10}{'ratio':>9}")
    for relative in (0.01, 1.0):
        x, y = pair(2000, 100)
        gamma = relative * mean_cost(x, y)
        ours, theirs = best(partial(value_and_grad, x, y, gamma)), best(partial(tslearn_step, x, y, gamma), 3)
        result[f"tslearn_over_ours_{relative}"] = theirs / ours
        print(f"{f'n=2000 unbanded, smoothing {relative}':<52}{1e3 * ours:>10.1f}")
        print(f"{'  tslearn':<52}{1e3 * theirs:>10.1f}{theirs / ours:>9.2f}")
    x, y = pair(4000, 100)
    full_gamma = 0.01 * mean_cost(x, y)
    full = best(lambda: value_and_grad(x, y, full_gamma), 3)
    band = best(lambda: value_and_grad(x, y, band_gamma, 100))
    result["unbanded_over_banded"] = full / band
    print(f"{'n=4000 unbanded':<52}{1e3 * full:>10.1f}")
    print(f"{'n=4000 band of 100 removed':<52}{1e3 * band:>10.1f}{full / band:>9.1f}")
    base = None
    for n in (4000, 20_000, 100_000):
        x, y = pair(n, 100)
        gamma = 0.01 * mean_cost(x, y, 100)
        seconds = best(partial(value_and_grad, x, y, gamma, 100), 3) / n
        base = base or seconds
        result[f"per_sample_{n}"] = seconds / base
        print(f"{f'n={n} banded, per sample':<52}{1e3 * seconds:>10.5f}{seconds / base:>9.2f}")
    result["wavefront_over_numba"] = wave / band
    print(f"{f'n=4000 banded, torch wavefront on {device}':<52}{1e3 * wave:>10.1f}{wave / band:>9.1f}")
    print(json.dumps({"benchmark": "softdtw", "device": device, **{k: round(v, 3) for k, v in result.items()}}))


if __name__ == "__main__":
    main()
