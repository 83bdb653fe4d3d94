"""Soft-DTW as a wavefront over anti-diagonals in torch: for many sequences at once, and for what must stay on a GPU.

The cells of one anti-diagonal don't depend on each other, so a diagonal is one vectorized step; a band only shortens
the diagonals. Same values and gradients as `psp_ray.policy.softdtw` (1e-9 in float64), on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_FAR = 1e30
"""Cost of cells that no path reaches: finite, so that differences of two such cells are 0 and not NaN."""


class _Shape:
    """Which cells each anti-diagonal p = i + j holds, and for a batch which of them belong to which pair."""

    def __init__(self, lengths_x: Tensor, lengths_y: Tensor, widths: Tensor | None) -> None:
        self.lengths_x, self.lengths_y, self.widths = lengths_x, lengths_y, widths
        self.n, self.m = int(lengths_x.max()), int(lengths_y.max())
        self.band = -1 if widths is None else int(widths.max())
        self.uniform = bool((lengths_x == self.n).all() and (lengths_y == self.m).all()) and (
            widths is None or bool((widths == self.band).all())
        )

    def span(self, p: int) -> tuple[int, int]:
        """First x index on diagonal p and one past the last (possibly the same: an empty diagonal)."""
        low, high = max(0, p - self.m + 1), min(self.n - 1, p)
        if self.band >= 0:
            low, high = max(low, (p + 1) // 2), min(high, (p + self.band) // 2)
        return low, high + 1

    def inside(self, p: int, low: int, high: int) -> Tensor:
        """(B, high - low) mask of the cells that belong to each pair."""
        i = torch.arange(low, high, device=self.lengths_x.device)
        j = p - i
        mask = (i < self.lengths_x[:, None]) & (j < self.lengths_y[:, None])
        if self.widths is not None:
            mask = mask & (i - j >= 0) & (i - j <= self.widths[:, None])
        return mask


def _predecessors(before: list[Tensor], spans: list[tuple[int, int]], p: int) -> Tensor:
    """(3, B, cells): path costs above, diagonally before and left of the cells on diagonal p.

    Stored diagonals carry one far cell at either end, so index i sits at i - low + 1.
    """
    low, high = spans[p]
    count = high - low
    one, two = before[p - 1], before[p - 2] if p > 1 else None
    start = low - spans[p - 1][0]
    above, left = one[:, start : start + count], one[:, start + 1 : start + 1 + count]
    if two is None:
        diagonal = torch.full_like(above, _FAR)
    else:
        start = low - spans[p - 2][0]
        diagonal = two[:, start : start + count]
    return torch.stack((above, diagonal, left))


class _Wavefront(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gamma: Tensor, shape: _Shape) -> Tensor:
        xs, flipped, scale = x.detach().double(), y.detach().double().flip(1), gamma.double()[:, None]
        batch, m = x.shape[0], y.shape[1]
        last = shape.n + shape.m - 2
        spans = [shape.span(p) for p in range(last + 1)]
        ends = (shape.lengths_x + shape.lengths_y - 2).tolist()
        paths: list[Tensor] = []
        for p, (low, high) in enumerate(spans):
            cells = (xs[:, low:high] - flipped[:, m - 1 - p + low : m - 1 - p + high]) ** 2
            if p:
                before = _predecessors(paths, spans, p)
                cells = cells - scale * torch.logsumexp(before / -scale, 0)
            if not shape.uniform:
                cells = torch.where(shape.inside(p, low, high), cells, _FAR)
            paths.append(torch.nn.functional.pad(cells, (1, 1), value=_FAR))
        values = [paths[end][b, int(shape.lengths_x[b]) - 1 - spans[end][0] + 1] for b, end in enumerate(ends)]
        ctx.save_for_backward(x, y, gamma)
        ctx.paths, ctx.spans, ctx.ends, ctx.shape = paths, spans, ends, shape
        return torch.stack(values).to(x.dtype) if batch else xs.new_zeros(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, gamma = ctx.saved_tensors
        paths, spans, shape = ctx.paths, ctx.spans, ctx.shape
        xs, flipped, scale = x.detach().double(), y.detach().double().flip(1), gamma.double()[:, None]
        m = y.shape[1]
        grad_x, grad_flipped = torch.zeros_like(xs), torch.zeros_like(flipped)
        visits = {p: torch.zeros_like(paths[p]) for p in range(max(0, len(spans) - 3), len(spans))}
        for p in range(len(spans) - 1, -1, -1):
            low, high = spans[p]
            for b, end in enumerate(ctx.ends):
                if end == p:
                    visits[p][b, int(shape.lengths_x[b]) - 1 - low + 1] += 1.0
            visit = visits.pop(p)[:, 1 : 1 + high - low]
            columns = slice(m - 1 - p + low, m - 1 - p + high)
            slope = 2.0 * visit * (xs[:, low:high] - flipped[:, columns])
            grad_x[:, low:high] += slope
            grad_flipped[:, columns] -= slope
            if p == 0:
                break
            weights = torch.softmax(_predecessors(paths, spans, p) / -scale, 0) * visit
            start, count = low - spans[p - 1][0], high - low
            one = visits.setdefault(p - 1, torch.zeros_like(paths[p - 1]))
            one[:, start : start + count] += weights[0]
            one[:, start + 1 : start + 1 + count] += weights[2]
            if p > 1:
                start = low - spans[p - 2][0]
                two = visits.setdefault(p - 2, torch.zeros_like(paths[p - 2]))
                two[:, start : start + count] += weights[1]
        factor = grad.double()[:, None]
        return (factor * grad_x).to(x), (factor * grad_flipped.flip(1)).to(y), None, None


def softdtw_wavefront_batch(
    xs: Sequence[Tensor], ys: Sequence[Tensor], gammas: Sequence[float], widths: Sequence[int] | None = None
) -> Tensor:
    """Soft-DTW values (B,) of pairs of sequences of any lengths, in one wavefront; differentiable once in each.

    `gammas` absolute smoothings > 0; `widths` one-sided bands `0 <= i - j <= width`, or None for no band. Computed in
    float64, returned in x's dtype. Raises ValueError for empty sequences or a band that does not hold the end.
    """
    if not xs or any(x.ndim != 1 or not len(x) for x in (*xs, *ys)):
        raise ValueError("Soft-DTW needs pairs of non-empty sequences")
    if any(not gamma > 0 for gamma in gammas):
        raise ValueError("gamma must be positive")
    device = xs[0].device
    if widths is not None:
        for x, y, width in zip(xs, ys, widths, strict=True):
            if not 0 <= len(x) - len(y) <= width:
                raise ValueError(
                    f"no path: the band 0 <= i - j <= {width} does not hold the end of lengths {len(x)} and {len(y)}"
                )
    shape = _Shape(
        torch.tensor([len(x) for x in xs], device=device),
        torch.tensor([len(y) for y in ys], device=device),
        None
        if widths is None
        else torch.tensor([min(w, len(x) - 1) for w, x in zip(widths, xs, strict=True)], device=device),
    )
    x = torch.nn.utils.rnn.pad_sequence(list(xs), batch_first=True)
    y = torch.nn.utils.rnn.pad_sequence(list(ys), batch_first=True)
    gamma = torch.tensor(list(gammas), dtype=torch.float64, device=device)
    result: Tensor = _Wavefront.apply(x, y, gamma, shape)
    return result


def softdtw_wavefront(x: Tensor, y: Tensor, gamma: float, width: int | None = None) -> Tensor:
    """Soft-DTW of x (n,) and y (m,) on their device: same arguments as `psp_ray.policy.softdtw.softdtw`."""
    return softdtw_wavefront_batch([x], [y], [gamma], None if width is None else [width])[0]
