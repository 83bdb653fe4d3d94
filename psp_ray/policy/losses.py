"""The losses of the soft actor-critic update as plain functions (method.md, step 9).

A loss over n samples is computed block by block; each function gives its block's part, and the parts add up to

    J_V  = mean_i 1/2 (V(s_i) - [Q(s_i, u_i) - alpha log pi(u_i)])^2          fresh actions u
    J_Q  = 1/(2n) align(Q(s_t, u_t), r_t + gamma V_bar(s_{t+1}))              stored actions u_t
    J_pi = mean_i (alpha log pi(u_i) - Q(s_i, u_i))                           fresh actions, reparametrized
    J(alpha) = -log alpha (mean_i log pi(u_i) + target entropy)

Source: Haarnoja et al., "Soft actor-critic", ICML 2018 (V, Q and a target of V), with the temperature of their
"Soft actor-critic algorithms and applications" (2018). Values, actions' log densities and rewards are (m,) float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from psp_ray.policy.alignment import Alignment


def soft_value(q: Tensor, log_pi: Tensor, alpha: float) -> Tensor:
    """What V is to be: `Q(s_i, u_i) - alpha log pi(u_i)`, a constant (m,)."""
    return (q - alpha * log_pi).detach()


def value_loss(v: Tensor, q: Tensor, log_pi: Tensor, alpha: float, n: int) -> Tensor:
    """A block's part of J_V; no gradient reaches Q or the policy."""
    return 0.5 * ((v - soft_value(q, log_pi, alpha)) ** 2).sum() / n


def critic_loss(q: Tensor, reward: float, following: Tensor, stayed: Tensor, aligned: Alignment, n: int) -> Tensor:
    """A block's part of J_Q for one Q network.

    `following` (m',) = gamma V_bar of the samples that are left in the next state, in the order of `q` (m,); `stayed`
    (m,) bool says which those are. Where none is left, the target is the reward, whatever the alignment.
    """
    rewards = torch.full_like(q, reward).detach()
    if not len(following):
        return ((q - rewards) ** 2).sum() / (2 * n)
    return aligned.loss(q, reward + following, stayed, rewards) / (2 * n)


def end_loss(q: Tensor, target: Tensor, n: int) -> Tensor:
    """`reward_form: per-sample` (ours): the part of J_Q of n bought samples at one end of the action, with two ends."""
    return ((q - target) ** 2).sum() / (4 * n)


def actor_loss(q: Tensor, log_pi: Tensor, alpha: float, n: int) -> Tensor:
    """A block's part of J_pi."""
    return (alpha * log_pi - q).sum() / n


def mean_loss(values: Tensor, mean: float, target: float, n: int) -> Tensor:
    """`critic: scalar`: a block's part of a loss with the value of 0 but the gradient of `1/2 (mean - target)^2`.

    `mean` is over all n samples, this block's `values` (m,) among them; the gradient is handed out to the samples.
    """
    return (mean - target) * values.sum() / n


def temperature_loss(log_alpha: Tensor, log_pi: float, target_entropy: float) -> Tensor:
    """J(alpha); `log_pi` is the mean over the samples."""
    return -log_alpha * (log_pi + target_entropy)


@torch.no_grad()
def soft_update(target: Iterable[Tensor], source: Iterable[Tensor], tau: float) -> None:
    """`psi_bar <- tau psi + (1 - tau) psi_bar`, in place."""
    for slow, fast in zip(target, source, strict=True):
        slow.mul_(1.0 - tau).add_(fast, alpha=tau)
