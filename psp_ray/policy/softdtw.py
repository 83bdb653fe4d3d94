"""Soft-DTW of two scalar sequences, banded or not, with gradients: numba on the CPU.

Cost `(x_i - y_j)^2`; moves (i-1, j), (i-1, j-1), (i, j-1); `softmin(v) = -gamma log sum exp(-v / gamma)`. Source:
Cuturi and Blondel, "Soft-DTW: a differentiable loss function for time-series", ICML 2017. The one-sided band
`0 <= i - j <= width` is ours (method.md, "Soft-DTW"): what stays in the pool keeps its order, so the true alignment
of a block with what is left of it lies in the band of `width` = number of samples removed.

One array of path costs, O(n * width) banded and O(n * m) otherwise, is all that is kept. Terms below e^-40 of the
largest are dropped: in float64 they can't change the sum (1 + e^-40 == 1), and skipping them saves most of the
exponentials at small smoothing. Single-threaded, no fast-math: the same bits on every run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

GAMMA_FLOOR = 1e-100
"""Smallest smoothing: identical sequences have mean cost 0, and Soft-DTW then is the hard minimum."""


def _mean_cost(x: Float64Array, y: Float64Array, width: int) -> float:
    """Mean of (x_i - y_j)^2 over the band (over all pairs where width < 0)."""
    n, m = x.shape[0], y.shape[0]
    total = 0.0
    count = 0
    for i in range(n):
        low = 0 if width < 0 else max(0, i - width)
        high = m if width < 0 else min(i + 1, m)
        row = 0.0
        for j in range(low, high):
            diff = x[i] - y[j]
            row += diff * diff
        total += row
        count += max(0, high - low)
    return total / count


def _forward(x: Float64Array, y: Float64Array, gamma: float, width: int, path: Float64Array) -> float:
    """Fill `path` (n+1, W+2) with soft path costs and return the last one.

    Row i+1 holds sample i; column j - first(i) + 1 holds y_j, where first(i) is i - width in a band, else 0. The
    columns at both ends and row 0 stay infinite (row 0: but for the start).
    """
    n, m = x.shape[0], y.shape[0]
    inverse = 1.0 / gamma
    path[:] = np.inf
    path[0, 0 if width < 0 else width + 1] = 0.0
    for i in range(n):
        low = 0 if width < 0 else max(0, i - width)
        high = m if width < 0 else min(i + 1, m)
        first = 0 if width < 0 else i - width
        shift = 0 if width < 0 else 1  # the row above starts one y earlier in a band
        left = np.inf
        xi = x[i]
        for j in range(low, high):
            column = j - first + 1
            up = path[i, column + shift]
            diagonal = path[i, column + shift - 1]
            best = min(up, diagonal)
            total = 1.0
            gap = (max(up, diagonal) - best) * inverse
            if left < best:
                near = (best - left) * inverse
                best = left
                if near < 40.0:
                    total += np.exp(-near)
                    gap += near
                    if gap < 40.0:
                        total += np.exp(-gap)
            else:
                if gap < 40.0:
                    total += np.exp(-gap)
                gap = (left - best) * inverse
                if gap < 40.0:
                    total += np.exp(-gap)
            diff = xi - y[j]
            left = diff * diff + best
            if total > 1.0:
                left -= gamma * np.log(total)
            path[i + 1, column] = left
    return float(path[n, m - (0 if width < 0 else n - 1 - width)])


def _backward(
    x: Float64Array,
    y: Float64Array,
    gamma: float,
    width: int,
    path: Float64Array,
    grad_x: Float64Array,
    grad_y: Float64Array,
) -> None:
    """Add the gradients of the value with respect to x and y, given the path costs of `_forward`.

    The expected number of visits E_ij flows from the last cell to its predecessors with the softmin's weights, row
    by row in two buffers; most are exactly 0 at small smoothing and cost nothing.
    """
    n, m = x.shape[0], y.shape[0]
    inverse = 1.0 / gamma
    size = path.shape[1]
    visits = np.zeros(size)
    above = np.zeros(size)
    visits[m - (0 if width < 0 else n - 1 - width)] = 1.0
    for i in range(n - 1, -1, -1):
        low = 0 if width < 0 else max(0, i - width)
        high = m if width < 0 else min(i + 1, m)
        first = 0 if width < 0 else i - width
        shift = 0 if width < 0 else 1
        above[:] = 0.0
        for j in range(high - 1, low - 1, -1):
            column = j - first + 1
            visit = visits[column]
            if visit == 0.0:
                continue
            slope = 2.0 * visit * (x[i] - y[j])
            grad_x[i] += slope
            grad_y[j] -= slope
            up = path[i, column + shift]
            diagonal = path[i, column + shift - 1]
            left = path[i + 1, column - 1]
            best = min(up, diagonal, left)
            up = (up - best) * inverse
            diagonal = (diagonal - best) * inverse
            left = (left - best) * inverse
            weight_up = np.exp(-up) if up < 40.0 else 0.0
            weight_diagonal = np.exp(-diagonal) if diagonal < 40.0 else 0.0
            weight_left = np.exp(-left) if left < 40.0 else 0.0
            visit /= weight_up + weight_diagonal + weight_left
            above[column + shift] += visit * weight_up
            above[column + shift - 1] += visit * weight_diagonal
            visits[column - 1] += visit * weight_left
        visits, above = above, visits


@functools.cache
def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled on first use; kept on disk where numba finds a writable folder."""
    import numba

    vector, matrix = "float64[::1]", "float64[:,::1]"
    signature = {
        "_mean_cost": f"float64({vector},{vector},int64)",
        "_forward": f"float64({vector},{vector},float64,int64,{matrix})",
        "_backward": f"void({vector},{vector},float64,int64,{matrix},{vector},{vector})",
    }[function.__name__]
    try:
        return numba.njit(signature, cache=True, nogil=True)(function)
    except RuntimeError:  # no writable folder for the cache: compile in this process only
        return numba.njit(signature, nogil=True)(function)


def compile_kernels() -> None:
    """Have numba's kernels ready, compiled or from its cache on disk."""
    for function in (_mean_cost, _forward, _backward):
        _kernel(function)


def _arguments(x: Float64Array, y: Float64Array, width: int | None) -> tuple[Float64Array, Float64Array, int]:
    x = np.ascontiguousarray(x, dtype=np.float64)
    y = np.ascontiguousarray(y, dtype=np.float64)
    if x.ndim != 1 or y.ndim != 1 or not len(x) or not len(y):
        raise ValueError(f"Soft-DTW needs two non-empty sequences, got shapes {x.shape} and {y.shape}")
    if width is None:
        return x, y, -1
    if not 0 <= len(x) - len(y) <= width:
        raise ValueError(
            f"no path: the band 0 <= i - j <= {width} does not hold the end of lengths {len(x)} and {len(y)}"
        )
    # A wider band than the sequence is no band on that side; cutting it keeps the array small.
    return x, y, min(width, len(x) - 1)


def mean_cost(x: Float64Array, y: Float64Array, width: int | None = None) -> float:
    """Mean of `(x_i - y_j)^2` over the band `0 <= i - j <= width`, or over all pairs; x (n,), y (m,)."""
    return float(_kernel(_mean_cost)(*_arguments(x, y, width)))


def value_and_grad(
    x: Float64Array, y: Float64Array, gamma: float, width: int | None = None
) -> tuple[float, Float64Array, Float64Array]:
    """Soft-DTW value and its gradients with respect to x (n,) and y (m,), float64.

    `gamma` > 0 is the absolute smoothing; `width` the one-sided band `0 <= i - j <= width`, or None for no band.
    Raises ValueError for empty sequences, gamma <= 0, or a band that does not hold the end (n-1, m-1).
    """
    x, y, band = _arguments(x, y, width)
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    path = np.empty((len(x) + 1, (len(y) if band < 0 else band + 1) + 2))
    value = _kernel(_forward)(x, y, float(gamma), band, path)
    grad_x, grad_y = np.zeros(len(x)), np.zeros(len(y))
    _kernel(_backward)(x, y, float(gamma), band, path, grad_x, grad_y)
    return float(value), grad_x, grad_y


class _SoftDTW(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor, gamma: float, width: int | None) -> torch.Tensor:
        value, grad_x, grad_y = value_and_grad(
            x.detach().cpu().double().numpy(), y.detach().cpu().double().numpy(), gamma, width
        )
        ctx.save_for_backward(torch.from_numpy(grad_x).to(x), torch.from_numpy(grad_y).to(y))
        return torch.tensor(value, dtype=x.dtype, device=x.device)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        grad_x, grad_y = ctx.saved_tensors
        return grad * grad_x, grad * grad_y, None, None


def softdtw(x: torch.Tensor, y: torch.Tensor, gamma: float, width: int | None = None) -> torch.Tensor:
    """Soft-DTW of tensors x (n,) and y (m,), differentiable once in both; computed in float64 on the CPU.

    Arguments and errors as in `value_and_grad`; returns a scalar of x's dtype and device.
    """
    result: torch.Tensor = _SoftDTW.apply(x, y, gamma, width)
    return result


def softdtw_loss(
    x: torch.Tensor,
    y: torch.Tensor,
    relative_gamma: float,
    width: int | None = None,
    *,
    divergence: bool = False,
    backend: str = "auto",
) -> torch.Tensor:
    """Soft-DTW with smoothing `relative_gamma` times the mean cost in the band, taken as a constant.

    `divergence`: `S(x, y) - S(x, x)/2 - S(y, y)/2` with one smoothing and one band for all three (Blondel, Mensch and
    Vert, "Differentiable divergences between time series", AISTATS 2021), which is 0 at x = y. `backend`: `numba`,
    `torch` (the wavefront, where the tensors are), or `auto`: numba, for tensors on a GPU too. A diagonal is too little
    work for a card: on an H200 the wavefront took 7 times numba's time without a band and over 200 times within one
    (docs/gpu.md); what travels is two sequences.
    """
    if not relative_gamma > 0:
        raise ValueError(f"sdtw_gamma must be positive, got {relative_gamma}")
    function = softdtw
    if backend == "torch":
        from psp_ray.policy.softdtw_torch import softdtw_wavefront

        function = softdtw_wavefront
    cost = mean_cost(x.detach().cpu().double().numpy(), y.detach().cpu().double().numpy(), width)
    gamma = max(relative_gamma * cost, GAMMA_FLOOR)
    loss = function(x, y, gamma, width)
    if divergence:
        loss = loss - 0.5 * function(x, x, gamma, width) - 0.5 * function(y, y, gamma, width)
    return loss
