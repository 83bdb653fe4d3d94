"""Schedules: who is in a batch, and at which learning rate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.config.base import option_name
from psp_ray.core.errors import ConfigError
from psp_ray.learn import LearnSettings
from psp_ray.learn.schedule import _stratified, count_steps, make_optimizer, model_unit, pull, steps


def run(config, n_labeled, pseudo, seed=0):
    return list(steps(config, n_labeled, np.asarray(pseudo, np.int32), np.random.default_rng(seed)))


def test_short_sees_all_labels_in_every_step():
    config = LearnSettings(learning_steps=7, pseudo_batch=4)
    done = run(config, 20, [0, 0, 1])
    assert len(done) == count_steps(config, 20, 3) == 7
    assert all(step.labeled is None and step.pseudo is None for step in done)
    assert done[0].rate == 1.0
    assert 0 < done[-1].rate < 0.06
    assert all(len(step.labeled) == 0 for step in run(config, 0, [0, 1]))
    assert all(len(step.pseudo) == 0 for step in run(config, 3, []))


def test_too_many_labels_pass_in_batches():
    done = run(LearnSettings(learning_steps=6, label_batch=4), 12, [])
    seen = np.concatenate([step.labeled for step in done[:3]])
    assert sorted(seen) == list(range(12))
    assert all(len(step.labeled) == 4 for step in done)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 60), st.integers(0, 99))
def test_stratified_batches_are_as_even_as_they_can_be(counts, size, seed):
    size = min(size, sum(counts))
    bounds = np.cumsum([0, *counts])
    strata = [np.arange(a, b) for a, b in itertools.pairwise(bounds)]
    rows = _stratified(strata, size, np.random.default_rng(seed))
    assert len(rows) == len(set(rows.tolist())) == size
    taken = np.array([np.isin(stratum, rows).sum() for stratum in strata])
    short = taken < np.array(counts)
    if short.any():  # whoever could have given more gave as much as anyone, up to one
        assert taken[short].min() >= taken.max() - 1


def test_pcb_protocol():
    config = LearnSettings(protocol="pcb", pseudo_weight=1.0)
    done = run(config, 50, np.zeros(20))
    per_epoch = 70 // 32
    assert len(done) == count_steps(config, 50, 20) == 200 * per_epoch
    first, second, last = done[0], done[per_epoch], done[-1]
    assert first.rate * 0.002 == pytest.approx(1e-5)
    assert second.rate == pytest.approx(1.0)
    assert last.rate == pytest.approx(0.5 * (1 + np.cos(np.pi * 198 / 200)))
    for step in done:
        assert len(step.labeled) + len(step.pseudo) == 32
        assert step.labeled_weight == pytest.approx(len(step.labeled) / 32)
        assert step.pseudo_weight == pytest.approx(len(step.pseudo) / 32)
    epoch = done[:per_epoch]
    everyone = np.concatenate([np.r_[step.labeled, step.pseudo + 50] for step in epoch])
    assert len(set(everyone.tolist())) == 64
    few = run(config, 5, [])
    assert len(few) == 200
    assert len(few[0].labeled) == 5


def test_pcb_learning_rates_equal_torchs_schedulers():
    config = LearnSettings(protocol="pcb")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.002)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    expected = [1e-5]
    for _ in range(199):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    rates = [step.rate * 0.002 for step in run(config, 32, [])]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_optimizers():
    contexts = torch.zeros(2, requires_grad=True)
    pcb = make_optimizer(LearnSettings(protocol="pcb", learning_rate=9.0), contexts, 1.0)
    assert isinstance(pcb, torch.optim.SGD)
    assert {key: pcb.defaults[key] for key in ("lr", "momentum", "weight_decay", "nesterov", "dampening")} == {
        "lr": 0.002,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "nesterov": False,
        "dampening": 0,
    }
    adam = make_optimizer(LearnSettings(learning_rate=0.5, weight_decay=0.1, optimizer="adam"), contexts, 0.3)
    assert isinstance(adam, torch.optim.AdamW)
    assert adam.defaults["lr"] == pytest.approx(0.15)
    assert isinstance(make_optimizer(LearnSettings(optimizer="sgd"), contexts, 1.0), torch.optim.SGD)


@pytest.mark.parametrize(
    "bad",
    [
        {"context": "both"},
        {"protocol": "long"},
        {"optimizer": "lion"},
        {"descriptions": "as"},
        {"class_token_position": "back"},
        {"context_length": 0},
        {"learning_steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
        {"averaging": 1.5},
        {"context_init": " "},
        {"threads": -1},
    ],
)
def test_bad_settings_are_named(bad):
    with pytest.raises(ConfigError, match=option_name(next(iter(bad)))):
        LearnSettings(**bad)


def test_decay_towards_the_start_is_decoupled_and_stays_between():
    start, contexts = torch.zeros(2, 3), torch.ones(2, 3, requires_grad=True)
    config = LearnSettings(weight_decay=4.0, decay_towards="start")
    pull(config, contexts, start, 0.05)
    assert contexts.detach().numpy() == pytest.approx(1.0 - 0.05 * 4.0)
    pull(config, contexts, start, 10.0)  # never beyond
    assert contexts.detach().numpy() == pytest.approx(0.0)
    for other in (LearnSettings(decay_towards="zero"), LearnSettings(protocol="pcb"), LearnSettings(weight_decay=0.0)):
        contexts = torch.ones(2, 3, requires_grad=True)
        pull(other, contexts, start, 0.05)
        assert (contexts == 1).all()
    assert make_optimizer(config, contexts, 1.0).defaults["weight_decay"] == 0.0
    assert make_optimizer(LearnSettings(decay_towards="zero"), contexts, 1.0).defaults["weight_decay"] == 4.0


def test_the_models_unit_keeps_a_step_the_same_share_of_a_token_and_of_the_logits():
    assert model_unit(0.0507, 15.5) == pytest.approx(1.0)
    assert model_unit(2 * 0.0507, 15.5) == pytest.approx(2.0)
    assert model_unit(0.0507, 100.0) == pytest.approx(0.155)
    contexts = torch.zeros(2, requires_grad=True)
    assert make_optimizer(LearnSettings(learning_rate=0.5), contexts, 0.3, 0.2).defaults["lr"] == pytest.approx(0.03)
