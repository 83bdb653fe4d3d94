"""A soft actor-critic that chooses one of a few candidates, told by numbers alone: neither their order nor how many
there are matters.

The policy is `pi = softmax(prior + f(x))` over a state's candidates, with `f` zero at the start, so that it begins as
its prior: a plan's log odds, or all alike. Entropy is measured against that prior, `V = sum_a pi (Q - alpha log(pi /
prior))` (discrete soft actor-critic, Christodoulou 2019, arXiv 1910.07207, with the entropy of Haarnoja et al. 2018
taken relative to a prior policy); the temperature keeps the divergence from the prior at a budget. Twin critics with
targets; optimizer, temperature's loss and target's step are those of `psp_ray.policy`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from psp_ray.policy.losses import soft_update, temperature_loss
from psp_ray.policy.optim import Optimizer

Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """A choice among m candidates that was made: what was known of them `x` (m, f), their log odds by the prior (m,),
    the reward of each (m,), NaN where nobody knows, who was taken, and the candidates of the choice that came next."""

    x: Array
    prior: Array
    rewards: Array
    taken: int
    next_x: Array | None
    next_prior: Array | None


class Scorer(nn.Module):
    """A number per candidate, (b, m, f) and their mask (b, m) -> (b, m), that sees all the others by their mean."""

    def __init__(self, n_in: int, width: int, seed: int, *, zero: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.each, self.all = nn.Linear(n_in, width), nn.Linear(width, width)
        self.mix, self.last = nn.Linear(2 * width, width), nn.Linear(width, 1)
        self.norm = nn.LayerNorm(width)
        with torch.no_grad():
            for layer in (self.each, self.all, self.mix, self.last):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / math.sqrt(layer.in_features))
                layer.bias.zero_()
            if zero:
                self.last.weight.zero_()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        each = F.silu(self.each(x))
        weight = mask.unsqueeze(2).to(x)
        pooled = (F.silu(self.all(each)) * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        hidden = F.silu(self.norm(self.mix(torch.cat([each, pooled.expand_as(each)], 2))))
        result: Tensor = self.last(hidden).squeeze(2)
        return result


@dataclass(frozen=True)
class Choices:
    """States of different sizes in one array: `x` (b, m, f), `prior` (b, m), and `mask` (b, m) of who is there."""

    x: Tensor
    prior: Tensor
    mask: Tensor

    @classmethod
    def of(cls, states: Sequence[tuple[Array, Array]]) -> Choices:
        most = max(len(prior) for _, prior in states)
        x = np.zeros((len(states), most, states[0][0].shape[1]), np.float32)
        prior, mask = np.zeros((len(states), most), np.float32), np.zeros((len(states), most), bool)
        for row, (told, odds) in enumerate(states):
            x[row, : len(odds)], prior[row, : len(odds)], mask[row, : len(odds)] = told, odds, True
        return cls(torch.from_numpy(x), torch.from_numpy(prior), torch.from_numpy(mask))


class ChoicePolicy:
    """Actor, twin critics with their targets, and the temperature.

    Args:
        n_in: numbers known of a candidate.
        seed: of the networks' start and of what batches are drawn.
        budget: mean divergence from the prior, in nats, that the temperature holds.
    """

    def __init__(
        self, n_in: int, seed: int, *, width: int = 48, lr: float = 1e-3, gamma: float = 0.5, budget: float = 0.5
    ) -> None:
        self.gamma, self.budget, self.tau = gamma, budget, 0.02
        self.actor = Scorer(n_in, width, seed, zero=True)
        self.critics = [Scorer(n_in, width, seed + 1 + k) for k in range(2)]
        self.targets = [Scorer(n_in, width, seed + 1 + k).requires_grad_(False) for k in range(2)]
        self.log_alpha = torch.zeros((), requires_grad=True)
        self.draw = np.random.default_rng(seed)
        self.optimizers = {
            "actor": Optimizer(self.actor.parameters(), lr, 1.0),
            "critics": Optimizer([p for q in self.critics for p in q.parameters()], lr, 1.0),
            "alpha": Optimizer([self.log_alpha], 10 * lr, math.inf),
        }

    # -- choosing ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_odds(self, x: Array, prior: Array) -> Array:
        """Log odds (m,) of a state's candidates."""
        states = Choices.of([(x, prior)])
        return np.asarray((states.prior + self.actor(states.x, states.mask))[0].numpy(), np.float64)

    @torch.no_grad()
    def least_values(self, x: Array, prior: Array) -> Array:
        """What the more careful of both critics expects of each candidate (m,)."""
        states = Choices.of([(x, prior)])
        return np.asarray(self._least(self.critics, states)[0].numpy(), np.float64)

    def sample(self, x: Array, prior: Array, draw: np.random.Generator) -> int:
        """A candidate by chance."""
        return int((self.log_odds(x, prior) + draw.gumbel(size=len(prior))).argmax())

    # -- learning ------------------------------------------------------------------------------------------------

    @staticmethod
    def _least(critics: Sequence[Scorer], states: Choices) -> Tensor:
        return torch.stack([q(states.x, states.mask) for q in critics]).amin(0)

    def _log_policy(self, states: Choices) -> tuple[Tensor, Tensor]:
        """log pi and log(pi / prior), both (b, m), 0 in the second where nobody is."""
        prior = states.prior.masked_fill(~states.mask, -1e9)
        log_pi = torch.log_softmax(prior + self.actor(states.x, states.mask), 1)
        return log_pi, (log_pi - torch.log_softmax(prior, 1)).masked_fill(~states.mask, 0.0)

    @torch.no_grad()
    def _following(self, steps: Sequence[Step]) -> Tensor:
        """The soft value (b,) of the choice that comes next; 0 where none does."""
        value = torch.zeros(len(steps))
        rows = [row for row, step in enumerate(steps) if step.next_x is not None]
        if rows:
            states = Choices.of([(steps[r].next_x, steps[r].next_prior) for r in rows])  # type: ignore[misc]
            log_pi, ratio = self._log_policy(states)
            worth = self._least(self.targets, states) - self.log_alpha.exp() * ratio
            value[rows] = (log_pi.exp() * worth).sum(1)
        return value

    def learn(self, steps: Sequence[Step], updates: int, batch: int = 64) -> dict[str, float]:
        """Take `updates` gradient steps on batches of `steps`; returns means over the last tenth of them."""
        rows: list[dict[str, float]] = []
        for _ in range(updates):
            some = self.draw.integers(len(steps), size=min(batch, len(steps)))
            rows.append(self._update([steps[i] for i in some]))
        tail = rows[-max(1, len(rows) // 10) :]
        return {name: float(np.mean([row[name] for row in tail])) for name in rows[0]} if rows else {}

    def _update(self, steps: Sequence[Step]) -> dict[str, float]:
        states = Choices.of([(step.x, step.prior) for step in steps])
        rewards = np.full(states.prior.shape, np.nan, np.float32)
        for row, step in enumerate(steps):
            rewards[row, : len(step.rewards)] = step.rewards
        paid = torch.from_numpy(rewards)
        known = ~torch.isnan(paid)
        target = (torch.nan_to_num(paid) + self.gamma * self._following(steps)[:, None])[known]
        values = [q(states.x, states.mask) for q in self.critics]
        loss_q = torch.stack([0.5 * F.smooth_l1_loss(q[known], target) for q in values]).sum()
        self.optimizers["critics"].add(loss_q)
        log_pi, ratio = self._log_policy(states)
        apart = (log_pi.exp() * ratio).sum(1)
        worth = (log_pi.exp() * torch.stack(values).amin(0).detach().masked_fill(~states.mask, 0.0)).sum(1)
        loss_pi = (self.log_alpha.exp().detach() * apart - worth).mean()
        self.optimizers["actor"].add(loss_pi)
        divergence = float(apart.detach().mean())
        self.optimizers["alpha"].add(temperature_loss(self.log_alpha, divergence, -self.budget))
        for optimizer in self.optimizers.values():
            optimizer.step()
        for target_net, critic in zip(self.targets, self.critics, strict=True):
            soft_update(target_net.parameters(), critic.parameters(), self.tau)
        alpha = float(self.log_alpha.exp().detach())
        return {"loss_q": float(loss_q.detach()), "divergence": divergence, "alpha": alpha}

    # -- keeping -------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Networks and temperature as safetensors."""
        state = {"log_alpha": self.log_alpha.detach().reshape(1)}
        for name, module in self._modules():
            state |= {f"{name}.{key}": value.contiguous() for key, value in module.state_dict().items()}
        save_file(state, path)

    def load(self, path: Path) -> None:
        """Inverse of `save`."""
        state = load_file(path)
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"][0])
        for name, module in self._modules():
            module.load_state_dict({key: state[f"{name}.{key}"] for key in module.state_dict()})

    def _modules(self) -> list[tuple[str, Scorer]]:
        twins = [(f"{kind}-{k}", q) for kind, both in (("critic", self.critics), ("target", self.targets))
                 for k, q in enumerate(both)]  # fmt: skip
        return [("actor", self.actor), *twins]
