"""Adam with clipped gradients whose whole state is plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from psp_ray.core.records import StateDict


class Optimizer:
    """Adam over `parameters` (torch's, Kingma and Ba 2015) with gradients summed over blocks and clipped by norm."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, max_norm: float) -> None:
        self.parameters = list(parameters)
        self.max_norm = max_norm
        # One plain loop over the parameters: the same operations on every machine.
        self.adam = torch.optim.Adam(self.parameters, lr=lr, foreach=False, fused=False)
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

    def step(self) -> None:
        """Apply and clear what was added; `norm` is the gradient's length before clipping."""
        if self.gradients is None:
            return
        squares = [float((g.double() ** 2).sum()) for g in self.gradients]
        self.norm = float(np.sqrt(sum(squares)))
        factor = min(1.0, self.max_norm / self.norm) if self.norm > 0 else 1.0
        for parameter, grad in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = grad * factor
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.gradients = None

    def state_dict(self, prefix: str) -> StateDict:
        state: StateDict = {}
        for index, parameter in enumerate(self.parameters):
            for name, value in self.adam.state.get(parameter, {}).items():
                state[f"{prefix}.{index}.{name}"] = value.detach().cpu().numpy().copy()
        return state

    def load_state_dict(self, prefix: str, state: StateDict) -> None:
        self.adam.state.clear()
        for index, parameter in enumerate(self.parameters):
            start = f"{prefix}.{index}."
            names = [key for key in state if key.startswith(start)]
            if names:
                moments = {key[len(start) :]: torch.from_numpy(np.array(state[key])) for key in names}
                self.adam.state[parameter] = {
                    name: value if name == "step" else value.to(parameter.device) for name, value in moments.items()
                }
