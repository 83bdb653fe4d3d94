"""Each loss against a slow loop in float64, and the gradients against what the equations say."""

import math

import numpy as np
import pytest
import torch

from psp_ray.config.kinds import ALIGNMENTS
from psp_ray.config.policy import PolicySettings
from psp_ray.policy import losses

ALPHA = 0.3


@pytest.fixture
def values():
    """q, v and log pi of 7 samples, float64, with gradients."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(7, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def test_value_loss(values):
    q, v, log_pi = values
    total = 0.0
    for i in range(7):
        total += 0.5 * (v[i].item() - (q[i].item() - ALPHA * log_pi[i].item())) ** 2
    loss = losses.value_loss(v, q, log_pi, ALPHA, 7)
    assert loss.item() == pytest.approx(total / 7, rel=1e-12)
    loss.backward()
    assert q.grad is None
    assert log_pi.grad is None  # the target is a constant
    np.testing.assert_allclose(v.grad, ((v - q + ALPHA * log_pi) / 7).detach(), rtol=1e-12)


def test_actor_loss(values):
    q, _, log_pi = values
    total = sum(ALPHA * log_pi[i].item() - q[i].item() for i in range(7))
    loss = losses.actor_loss(q, log_pi, ALPHA, 7)
    assert loss.item() == pytest.approx(total / 7, rel=1e-12)
    loss.backward()
    np.testing.assert_allclose(q.grad, np.full(7, -1 / 7))
    np.testing.assert_allclose(log_pi.grad, np.full(7, ALPHA / 7))


def test_parts_of_blocks_add_up(values):
    q, v, log_pi = values
    whole = losses.value_loss(v, q, log_pi, ALPHA, 7), losses.actor_loss(q, log_pi, ALPHA, 7)
    spans = (slice(0, 3), slice(3, 4), slice(4, 7))
    parts = [
        [losses.value_loss(v[s], q[s], log_pi[s], ALPHA, 7) for s in spans],
        [losses.actor_loss(q[s], log_pi[s], ALPHA, 7) for s in spans],
    ]
    for total, pieces in zip(whole, parts, strict=True):
        assert sum(pieces).item() == pytest.approx(total.item(), rel=1e-12)


def slow_critic_loss(align, q, reward, following, stayed, gamma=1e-9):
    """J_Q by the definition of each alignment, with loops."""
    n, target = len(q), [reward + value for value in following]
    if not target:
        return sum((value - reward) ** 2 for value in q) / (2 * n)
    if align == "pad":
        padded = target + [0.0] * (n - len(target))
        return sum((a - b) ** 2 for a, b in zip(q, padded, strict=True)) / (2 * n)
    if align == "id":
        left = iter(target)
        return sum((a - (next(left) if here else reward)) ** 2 for a, here in zip(q, stayed, strict=True)) / (2 * n)
    path = np.full((n + 1, len(target) + 1), np.inf)  # as smoothing vanishes: hard warping within the band
    path[0, 0] = 0.0
    for i in range(n):
        for j in range(len(target)):
            if 0 <= i - j <= n - len(target):
                path[i + 1, j + 1] = (q[i] - target[j]) ** 2 + min(path[i, j + 1], path[i, j], path[i + 1, j])
    return path[-1, -1] / (2 * n)


@pytest.mark.parametrize("align", ["softdtw", "id", "pad"])
@pytest.mark.parametrize("gone", [(), (2,), (0, 3, 6), tuple(range(7))])
def test_critic_loss(align, gone, values):
    q = values[0].detach()
    stayed = torch.tensor([i not in gone for i in range(7)])
    following = 0.9 * torch.randn(7 - len(gone), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    aligned = ALIGNMENTS.find(align)(7, PolicySettings(align=align, sdtw_gamma=1e-9), 0)
    found = losses.critic_loss(q, -0.4, following, stayed, aligned, 7)
    expected = slow_critic_loss(align, q.tolist(), -0.4, following.tolist(), stayed.tolist())
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_codes_are_compared_by_the_vaes_means(values):
    q = values[0].detach().float()
    aligned = ALIGNMENTS.find("vae")(7, PolicySettings(align="vae", vae_code=3), 0)
    target = q[:5] + 0.1
    layers = aligned.module.encoder

    def code(sequence):
        padded = torch.cat([sequence, torch.zeros(7 - len(sequence))])
        hidden = torch.nn.functional.silu(layers[0].weight @ padded + layers[0].bias)
        return (layers[2].weight @ hidden + layers[2].bias)[:3]

    expected = 7 * ((code(q) - code(target)) ** 2).sum().item() / 3
    found = aligned.loss(q, target, torch.ones(7, dtype=torch.bool), torch.zeros(7))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_mean_loss_has_the_gradient_of_the_squared_error_of_means(values):
    v = values[1]
    mean, target = v.mean().item(), 0.25
    losses.mean_loss(v[:3], mean, target, 7).backward()
    losses.mean_loss(v[3:], mean, target, 7).backward()
    twin = v.detach().clone().requires_grad_()
    (0.5 * (twin.mean() - target) ** 2).backward()
    np.testing.assert_allclose(v.grad, twin.grad, rtol=1e-12)


def test_temperature_rises_where_the_entropy_is_too_low():
    for log_pi in (0.4, 2.5):  # entropies -0.4 and -2.5, around a target of -1
        log_alpha = torch.tensor(math.log(0.2), dtype=torch.float64, requires_grad=True)
        loss = losses.temperature_loss(log_alpha, log_pi, -1.0)
        assert loss.item() == pytest.approx(-math.log(0.2) * (log_pi - 1.0))
        loss.backward()
        step = -float(log_alpha.grad)
        assert step == pytest.approx(log_pi - 1.0)
        assert (step > 0) == (-log_pi < -1.0)


def test_soft_update():
    generator = torch.Generator().manual_seed(0)
    slow, fast = ([torch.randn(k, generator=generator, dtype=torch.float64) for k in (3, 5)] for _ in range(2))
    expected = [0.9 * a.numpy() + 0.1 * b.numpy() for a, b in zip(slow, fast, strict=True)]
    losses.soft_update(slow, fast, 0.1)
    for found, wanted in zip(slow, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
