"""Adam with clipped gradients whose whole state is plain arrays.

The arithmetic is torch's own, by its functional form: the first step of its optimizer classes imports all of
`torch._dynamo`, which takes as long as torch itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from psp_ray.core.records import StateDict


class Optimizer:
    """Adam over `parameters` (torch's, Kingma and Ba 2015) with gradients summed over blocks and clipped by norm."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, max_norm: float) -> None:
        self.parameters = list(parameters)
        self.lr, self.max_norm = lr, max_norm
        self.moments: list[dict[str, Tensor]] = []
        """Of each parameter, from the first step on: `step` (), `exp_avg` and `exp_avg_sq`, as torch names them."""
        self.norm = 0.0
        self.gradients: list[Tensor] | None = None
        """What was added since the last step."""

    def add(self, loss: Tensor) -> None:
        """Add the gradients of `loss` with respect to these parameters only."""
        grads = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, grads, strict=True)]
        self.add_gradients(filled)

    def add_gradients(self, grads: Sequence[Tensor]) -> None:
        if self.gradients is None:
            self.gradients = [g.clone() for g in grads]
            return
        for total, grad in zip(self.gradients, grads, strict=True):
            total += grad

    @torch.no_grad()
    def step(self) -> None:
        """Apply and clear what was added; `norm` is the gradient's length before clipping."""
        if self.gradients is None:
            return
        squares = [float((g.double() ** 2).sum()) for g in self.gradients]
        self.norm = float(np.sqrt(sum(squares)))
        factor = min(1.0, self.max_norm / self.norm) if self.norm > 0 else 1.0
        if not self.moments:
            self.moments = [_blank(parameter) for parameter in self.parameters]
        # One plain loop over the parameters: the same operations on every machine.
        adam(
            self.parameters,
            [grad * factor for grad in self.gradients],
            [moments["exp_avg"] for moments in self.moments],
            [moments["exp_avg_sq"] for moments in self.moments],
            [],
            [moments["step"] for moments in self.moments],
            foreach=False,
            fused=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.lr,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        self.gradients = None

    def state_dict(self, prefix: str) -> StateDict:
        return {
            f"{prefix}.{index}.{name}": value.detach().cpu().numpy().copy()
            for index, moments in enumerate(self.moments)
            for name, value in moments.items()
        }

    def load_state_dict(self, prefix: str, state: StateDict) -> None:
        self.moments = []
        if f"{prefix}.0.step" not in state:
            return
        for index, parameter in enumerate(self.parameters):
            moments = _blank(parameter)
            for name, value in moments.items():
                value.copy_(torch.from_numpy(np.array(state[f"{prefix}.{index}.{name}"])))
            self.moments.append(moments)


def _blank(parameter: Tensor) -> dict[str, Tensor]:
    """The state of a parameter before its first step."""
    shape = torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()
    return {"step": torch.tensor(0.0), "exp_avg": shape, "exp_avg_sq": shape.clone()}
