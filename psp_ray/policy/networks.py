"""Actor and critics: one value (or Gaussian latent) per sample, by a network whose first layer never builds s_i.

The first layer is linear in the gradient embedding `s_i = w_i (x) f_i`, its weight in Tucker form: `A f` (rank r1),
`B w` (rank r2), a core that maps their outer product to the hidden width. With `centered` the factors are shifted and
scaled by constants and a 1 is appended to `A f` and `B w`: still affine in (s, f, w), but well-conditioned, since CLIP
features share a large common part.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psp_ray.config.policy import PolicySettings
from psp_ray.core.records import StateDict
from psp_ray.policy.state import BlockState, Normalization

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def _linear(n_in: int, n_out: int, generator: torch.Generator, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n_out, n_in, generator=generator) * (gain / math.sqrt(max(1, n_in))))
        layer.bias.zero_()
    return layer


class BilinearLayer(nn.Module):
    """`core (A f (x) B w) + bias`, plus a linear map of the extra inputs: (m, d), (m, C), (m, k) -> (m, hidden)."""

    shift_f: Tensor
    shift_w: Tensor
    scale_f: Tensor
    scale_w: Tensor

    def __init__(
        self, dim: int, n_classes: int, n_extra: int, settings: PolicySettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.centered = settings.centered
        rank_f, rank_w = min(settings.rank_image, dim), min(settings.rank_class, n_classes)
        # Factors of length about 1: unit-variance rows give unit-variance projections.
        self.image = nn.Parameter(torch.randn(rank_f, dim, generator=generator))
        self.classes = nn.Parameter(torch.randn(rank_w, n_classes, generator=generator))
        terms = (rank_f + self.centered) * (rank_w + self.centered)
        self.core = _linear(terms, settings.hidden, generator)
        self.extra = _linear(n_extra, settings.hidden, generator) if n_extra else None
        self.register_buffer("shift_f", torch.zeros(dim))
        self.register_buffer("shift_w", torch.zeros(n_classes))
        self.register_buffer("scale_f", torch.ones(()))
        self.register_buffer("scale_w", torch.ones(()))

    def normalize(self, constants: Normalization) -> None:
        """Take over the constants of `centered`."""
        self.shift_f.copy_(torch.from_numpy(constants.mean_f))
        self.shift_w.copy_(torch.from_numpy(constants.mean_w))
        self.scale_f.fill_(1.0 / constants.spread_f if constants.spread_f > 1e-4 else 1.0)
        self.scale_w.fill_(1.0 / constants.spread_w if constants.spread_w > 1e-4 else 1.0)

    def forward(self, f: Tensor, w: Tensor, extra: Tensor) -> Tensor:
        if self.centered:
            # (f - shift) A^T as f A^T - shift A^T: no second copy of the block.
            left = F.pad((f @ self.image.T - self.image @ self.shift_f) * self.scale_f, (0, 1), value=1.0)
            right = F.pad((w @ self.classes.T - self.classes @ self.shift_w) * self.scale_w, (0, 1), value=1.0)
        else:
            left, right = f @ self.image.T, w @ self.classes.T
        outer = (left.unsqueeze(2) * right.unsqueeze(1)).flatten(1)
        hidden: Tensor = self.core(outer)
        if self.extra is not None:
            hidden = hidden + self.extra(extra)
        return hidden


class Network(nn.Module):
    """Bilinear layer, LayerNorm, then an MLP with LayerNorms: `n_out` numbers per sample.

    `n_late` inputs (the action, for Q) enter after the first layer, unnormalized, so that they are never drowned.
    """

    def __init__(
        self,
        dim: int,
        n_classes: int,
        n_extra: int,
        n_late: int,
        n_out: int,
        settings: PolicySettings,
        generator: torch.Generator,
        out_gain: float = 1.0,
    ) -> None:
        super().__init__()
        width = settings.hidden
        self.first = BilinearLayer(dim, n_classes, n_extra, settings, generator)
        self.first_norm = nn.LayerNorm(width)
        inputs = [width + n_late] + [width] * (settings.layers - 1)
        self.middle = nn.ModuleList(_linear(n, width, generator, math.sqrt(2.0)) for n in inputs[: settings.layers - 1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.middle)
        self.last = _linear(inputs[settings.layers - 1], n_out, generator, out_gain)

    def encode(self, block: BlockState) -> Tensor:
        """(m, hidden): what depends on the state alone."""
        return F.silu(self.first_norm(self.first(block.f, block.w, block.extra)))

    def head(self, hidden: Tensor, late: Tensor | None = None) -> Tensor:
        """(m, n_out) from `encode`'s result and the late inputs (m, n_late)."""
        if late is not None:
            hidden = torch.cat([hidden, late], 1)
        for layer, norm in zip(self.middle, self.norms, strict=True):
            hidden = F.silu(norm(layer(hidden)))
        result: Tensor = self.last(hidden)
        return result

    def forward(self, block: BlockState, late: Tensor | None = None) -> Tensor:
        return self.head(self.encode(block), late)


class Actor(nn.Module):
    """A Gaussian latent per sample, squashed: `u = tanh(mean + std * noise)`."""

    def __init__(
        self, dim: int, n_classes: int, n_extra: int, settings: PolicySettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        # A small last layer: the untrained policy draws nearly uniformly.
        self.network = Network(dim, n_classes, n_extra, 0, 2, settings, generator, out_gain=0.01)
        self.low, self.high = settings.log_std_min, settings.log_std_max

    def latent(self, block: BlockState) -> tuple[Tensor, Tensor]:
        """Mean (m,) and log standard deviation (m,), the latter within its bounds by a smooth map."""
        mean, raw = self.network(block).unbind(1)
        return mean, self.low + 0.5 * (self.high - self.low) * (torch.tanh(raw) + 1.0)

    def forward(self, block: BlockState, noise: Tensor) -> tuple[Tensor, Tensor]:
        """u (m,) in (-1, 1) and log pi(u) (m,), reparametrized by standard normal `noise` (m,)."""
        mean, log_std = self.latent(block)
        z = mean + torch.exp(log_std) * noise
        return torch.tanh(z), squashed_log_prob(z, noise, log_std)


def squashed_log_prob(z: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    """log density of `tanh(z)` where `z = mean + exp(log_std) * noise`; stable for large |z| (method.md, step 2)."""
    gaussian = -0.5 * noise * noise - log_std - _LOG_SQRT_2PI
    return gaussian - 2.0 * (math.log(2.0) - z - F.softplus(-2.0 * z))


class Critic(nn.Module):
    """V (no action) or Q (action input (m,)): one value per sample."""

    def __init__(
        self,
        dim: int,
        n_classes: int,
        n_extra: int,
        settings: PolicySettings,
        generator: torch.Generator,
        *,
        action: bool,
    ) -> None:
        super().__init__()
        self.network = Network(dim, n_classes, n_extra, int(action), 1, settings, generator, out_gain=0.1)

    def encode(self, block: BlockState) -> Tensor:
        return self.network.encode(block)

    def value(self, hidden: Tensor, action: Tensor | None = None) -> Tensor:
        """(m,) from `encode`'s result and the action input (m,)."""
        return self.network.head(hidden, None if action is None else action.unsqueeze(1)).squeeze(1)

    def forward(self, block: BlockState, action: Tensor | None = None) -> Tensor:
        return self.value(self.encode(block), action)


def module_state(prefix: str, module: nn.Module) -> StateDict:
    """Parameters and buffers of a module as arrays named `prefix.name`."""
    return {f"{prefix}.{name}": value.detach().cpu().numpy().copy() for name, value in module.state_dict().items()}


def load_module_state(prefix: str, module: nn.Module, state: StateDict) -> None:
    """Inverse of `module_state`. Raises KeyError or RuntimeError where names or shapes differ."""
    module.load_state_dict(
        {name: torch.from_numpy(np.array(state[f"{prefix}.{name}"])) for name in module.state_dict()}
    )
