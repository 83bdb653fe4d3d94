"""The update: each loss against the formula, each align mode learns, and the policy finds what it is paid for."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from psp_ray.acquisition.vssp import VSSP
from psp_ray.config.kinds import ALIGNMENTS, PRIORS
from psp_ray.config.policy import PSP_PAPER, PolicySettings
from psp_ray.core import noise
from psp_ray.policy.losses import critic_loss
from psp_ray.policy.optim import Optimizer
from psp_ray.policy.sac import Lesson, choose_batch, gradient_step, next_values, reward_scaling
from psp_ray.policy.sequence_vae import SequenceVAE
from psp_ray.policy.state import PoolView
from psp_ray.run.resolve import resolve
from tests.policy.worlds import World

SCALAR = {"reward_gap": "after", "reward_form": "scalar"}
SMALL = {"hidden": 16, "rank_image": 4, "rank_class": 4, "update_steps": 2, **SCALAR}


def played(world, settings, count=2, **options):
    strategy = VSSP(world.pool, settings)
    log = list(world.rounds(strategy, count, **options))
    return strategy, log


def trial_values(policy, item, settings, step_seed):
    """Q, V, V_bar and log pi of a transition, over the whole pool in one go."""
    reader = policy.reader
    view = PoolView(item.text, item.unlabeled, item.labeled, item.labels)
    block = reader.read(view, 0)
    eps = noise.normal(policy.seed, "vssp-update", block.keys, round=step_seed[0], draw=step_seed[1])
    with torch.no_grad():
        u, log_pi = policy.actor(block, torch.from_numpy(eps.astype(np.float32)))
        old = torch.from_numpy(item.u)
        next_view = PoolView(item.next_text, item.unlabeled_next, *item.labeled_next)
        following = policy.value_target(reader.read(next_view, 0))
        return {
            "q_old": policy.critics[0](block, old).double(),
            "q_new": policy.critics[0](block, u).double(),
            "v": policy.value(block).double(),
            "v_next": following.double(),
            "log_pi": log_pi.double(),
        }


@pytest.mark.parametrize("align", ["id", "pad", "softdtw"])
def test_losses_equal_the_formulas(align):
    world = World(n=60)
    settings = PolicySettings(align=align, **{**SMALL, "update_steps": 0}, alpha=0.2, sdtw_gamma=1e-7)
    strategy, _ = played(world, settings, 1)
    policy, item = strategy.agent, strategy.replay.transitions[0]
    values = trial_values(policy, item, settings, (9, 0))
    shift, factor = reward_scaling(policy, strategy.replay)
    row = gradient_step(policy, Lesson.of(policy, item, shift, factor), 9, 0)
    r, n = (item.reward - shift) * factor, len(item.unlabeled)
    v_target = values["q_new"] - 0.2 * values["log_pi"]
    assert row["loss_v"] == pytest.approx(float(0.5 * ((values["v"] - v_target) ** 2).mean()), rel=1e-4)
    assert row["loss_pi"] == pytest.approx(float((0.2 * values["log_pi"] - values["q_new"]).mean()), rel=1e-4)
    assert row["entropy"] == pytest.approx(float(-values["log_pi"].mean()), rel=1e-4)
    target = r + settings.gamma * values["v_next"]
    if align == "pad":
        expected = float(
            ((values["q_old"][: len(target)] - target) ** 2).sum() + (values["q_old"][len(target) :] ** 2).sum()
        )
    elif align == "id":
        whole = torch.full((n,), r, dtype=torch.float64)
        whole[torch.from_numpy(~np.isin(item.unlabeled, item.removed))] = target
        expected = float(((values["q_old"] - whole) ** 2).sum())
    else:  # as the smoothing vanishes: plain dynamic time warping within the band
        cost = (values["q_old"][:, None] - target[None, :]).numpy() ** 2
        offset = np.arange(n)[:, None] - np.arange(len(target))[None, :]
        cost[(offset < 0) | (offset > n - len(target))] = np.inf
        path = np.full((n + 1, len(target) + 1), np.inf)
        path[0, 0] = 0
        for i in range(n):
            for j in range(len(target)):
                path[i + 1, j + 1] = cost[i, j] + min(path[i, j + 1], path[i, j], path[i + 1, j])
        expected = path[-1, -1]
    assert row["loss_q"] == pytest.approx(expected / (2 * n), rel=1e-3)


@pytest.mark.parametrize("align", ["id", "pad", "softdtw", "vae"])
def test_final_round_fits_the_reward_alone(align):
    world = World(n=60)
    settings = PolicySettings(align=align, reward_centered=False, **{**SMALL, "update_steps": 0})
    strategy, _ = played(world, settings, 1, last_is_final=True)
    policy, item = strategy.agent, strategy.replay.transitions[0]
    block = policy.reader.read(PoolView(item.text, item.unlabeled, item.labeled, item.labels), 0)
    with torch.no_grad():
        q = policy.critics[0](block, torch.from_numpy(item.u)).double()
    shift, factor = reward_scaling(policy, strategy.replay)
    row = gradient_step(policy, Lesson.of(policy, item, shift, factor), 9, 0)
    assert row["loss_q"] == pytest.approx(float(((q - item.reward * factor) ** 2).mean()) / 2, rel=1e-4)


def test_scalar_critic_compares_pool_means():
    world = World(n=60, block_size=25)
    settings = PolicySettings(critic="scalar", **{**SMALL, "update_steps": 0}, alpha=0.2)
    strategy, _ = played(World(n=60), settings, 1)  # one block, to compute the reference at once
    item = strategy.replay.transitions[0]
    values = trial_values(strategy.agent, item, settings, (9, 0))
    expected_q = 0.5 * float(values["q_old"].mean() - (0.9 * values["v_next"].mean())) ** 2
    expected_v = 0.5 * float(values["v"].mean() - (values["q_new"] - 0.2 * values["log_pi"]).mean()) ** 2
    cut, _ = played(world, settings, 1)  # the same in three blocks: centered rewards make r = 0
    rows = []
    for one in (strategy, cut):
        policy = one.agent
        shift, factor = reward_scaling(policy, one.replay)
        rows.append(gradient_step(policy, Lesson.of(policy, one.replay.transitions[0], shift, factor), 9, 0))
    for row in rows:
        assert row["loss_q"] == pytest.approx(expected_q, rel=1e-3)
        assert row["loss_v"] == pytest.approx(expected_v, rel=1e-3)
    for mine, theirs in zip(strategy.agent.critics[0].parameters(), cut.agent.critics[0].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("align", ["id", "pad"])
def test_gradients_of_blocks_add_up_to_those_of_the_whole(align):
    settings = PolicySettings(align=align, **{**SMALL, "update_steps": 0}, update_sample=0)

    def keep(captured, name, optimizer):
        captured[name] = [g.clone() for g in optimizer.gradients]

    grads = []
    for size in (4096, 25):
        strategy, _ = played(World(n=60, block_size=size), settings, 1)
        policy, item = strategy.agent, strategy.replay.transitions[0]
        captured = {}
        for name, optimizer in policy.optimizers.items():
            optimizer.step = partial(keep, captured, name, optimizer)
        gradient_step(policy, Lesson.of(policy, item, 0.0, 1.0), 9, 0)
        grads.append(captured)
    # pad zeroes the end of every block, so there only the other losses agree
    for name in ("actor", "value", "alpha") + (("critics",) if align == "id" else ()):
        for a, b in zip(*(g[name] for g in grads), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("align", ["softdtw", "id", "pad", "vae"])
def test_every_alignment_teaches_q_a_fixed_target(align):
    rng = np.random.default_rng(0)
    settings = PolicySettings(align=align)
    inputs = torch.from_numpy(np.sort(rng.uniform(-2, 2, 80))).float()[:, None]
    network = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    stayed = torch.ones(80, dtype=torch.bool)
    stayed[[3, 40, 41, 77]] = False
    target = (torch.sin(2 * inputs[:, 0]) + 0.5)[stayed]
    alignment = ALIGNMENTS.find(align)(80, settings, 0)
    optimizer = Optimizer(network.parameters(), 1e-2, 10.0)

    def loss():
        return critic_loss(network(inputs)[:, 0], 0.5, target - 0.5, stayed, alignment, 80)

    def distance():
        with torch.no_grad():
            return float(((network(inputs)[:, 0][stayed] - target) ** 2).mean())

    first, first_distance = float(loss().detach()), distance()
    for _ in range(200):
        optimizer.add(loss())
        optimizer.step()
    assert float(loss().detach()) < 0.3 * first
    if align in ("softdtw", "id"):  # padding can't know where the gaps are, a code keeps only a summary
        assert distance() < 0.3 * first_distance


def test_softdtw_loss_finds_the_shift_that_padding_misses():
    kinds = {align: ALIGNMENTS.find(align)(100, PolicySettings(align=align), 0) for align in ("softdtw", "pad")}
    q = torch.from_numpy(np.repeat(np.random.default_rng(0).normal(size=20), 5))
    stayed = torch.ones(100, dtype=torch.bool)
    stayed[[10, 30, 31, 70]] = False
    args = (q, q[stayed], stayed, torch.zeros(100, dtype=torch.float64))
    warped, padded = (float(kinds[a].loss(*args)) for a in ("softdtw", "pad"))
    assert warped < 0.1 < 1.0 < padded


def test_vae_learns_to_rebuild_sequences():
    settings = PolicySettings(align="vae")
    vae = SequenceVAE(40, settings, 0)
    optimizer = Optimizer(vae.parameters(), 3e-3, 10.0)
    sequences = [torch.sin(torch.arange(k) * 0.3) * 2 for k in (40, 36, 38)]
    losses = []
    for step in range(150):
        loss = vae.loss(sequences, 0, step)
        losses.append(float(loss.detach()))
        optimizer.add(loss)
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def test_target_critic_follows_by_tau():
    world = World(n=60)
    strategy, _ = played(world, PolicySettings(tau=0.25, **{**SMALL, "update_steps": 1}), 1)
    policy = strategy.agent
    fresh = VSSP(world.pool, strategy.settings)
    fresh.propose(world.state())
    start = dict(fresh.agent.value.named_parameters())
    now = dict(policy.value.named_parameters())
    for name, target in policy.value_target.named_parameters():
        torch.testing.assert_close(target, 0.25 * now[name] + 0.75 * start[name], atol=1e-7, rtol=1e-5)


def test_alpha_aims_at_the_target_entropy():
    world = World(n=120)
    for target in (-3.0, 0.6):
        settings = PolicySettings(**{**SMALL, "update_steps": 60}, target_entropy=target, alpha_start=0.05)
        _, log = played(world, settings, 1)
        updates = log[0][2].updates
        moved = updates["alpha"][-1] - updates["alpha"][0]
        assert np.sign(moved) == np.sign(target - updates["entropy"][:30].mean())
    _, log = played(world, PolicySettings(alpha=0.3, **SMALL), 2)
    assert set(np.round(log[1][2].updates["alpha"], 12)) == {0.3}


def test_log_odds_input_is_log_n_a():
    world = World(n=80)
    settings = PolicySettings(q_input="log-odds", prior="entropy", prior_weight=1.0, **SMALL)
    strategy = VSSP(world.pool, settings)
    state = world.state()
    strategy.propose(state)
    policy, actions = strategy.agent, strategy.actions
    block = policy.reader.read(strategy.view(state), 0)
    found = policy.action_input(torch.from_numpy(actions.u), block, actions.normalizer, 80)
    logits = settings.kappa * actions.u.astype(np.float64) + block.prior
    a = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(found.numpy(), np.log(80 * a), atol=1e-4)
    u = torch.zeros(80, requires_grad=True)
    policy.action_input(u, block, actions.normalizer, 80).sum().backward()
    assert float(u.grad.min()) > 0.1  # a gradient reaches the actor


@pytest.mark.parametrize("options", [{"n_critics": 2}, {"q_input": "log-odds"}, {"critic": "scalar"}, PSP_PAPER])
def test_variants_update_every_network(options):
    world = World(n=120, block_size=50)
    settings = PolicySettings(**{**SMALL, **options, "update_steps": 2})
    strategy, log = played(world, settings, 2)
    fresh = VSSP(world.pool, settings)
    fresh.propose(world.state())
    for name, module in strategy.agent.modules.items():
        before = dict(fresh.agent.modules[name].named_parameters())
        moved = [not torch.equal(p, before[k]) for k, p in module.named_parameters()]
        assert np.mean(moved) > 0.9, name
    for _, _, observation in log:
        assert {len(column) for column in observation.updates.values()} == {2}
        assert all(np.isfinite(column).all() for column in observation.updates.values())


def test_blocks_whose_samples_all_left_have_no_next_state():
    world = World(n=90, block_size=30)
    settings = PolicySettings(**SMALL)
    strategy = VSSP(world.pool, settings)
    state = world.state(n_query=40)
    proposal = strategy.propose(state)
    chosen = np.concatenate([np.arange(30, 60), np.arange(10)])  # block 1 entirely
    feedback = world.feedback(state, type(proposal)(chosen, np.full(40, -math.log(90))))
    observation = strategy.observe(feedback)
    assert all(np.isfinite(column).all() for column in observation.updates.values())
    policy, item = strategy.agent, strategy.replay.transitions[0]
    step = Lesson.of(policy, item, 0.0, 1.0)
    assert [len(next_values(policy, step, b)) for b in range(3)] == [20, 0, 30]


def test_update_sample_uses_that_many_blocks():
    world = World(n=300, block_size=30)
    settings = PolicySettings(**SMALL, update_sample=3)
    strategy, _ = played(world, settings, 1)
    policy = strategy.agent
    step = Lesson.of(policy, strategy.replay.transitions[0], 0.0, 1.0)
    picks = [tuple(choose_batch(policy, step, 1, number).blocks) for number in range(40)]
    assert all(len(set(p)) == 3 and list(p) == sorted(p) for p in picks)
    assert set().union(*picks) == set(range(10))
    assert picks == [tuple(choose_batch(policy, step, 1, number).blocks) for number in range(40)]


@pytest.mark.parametrize("gap", ["good-low", "good-high"])
def test_policy_moves_mass_to_what_it_is_paid_for(gap):
    """A bandit: two of six classes carry no gap (or the others don't); the policy must find them from 30 labels."""
    world = World(n=400, n_classes=6, dim=24, seed=3)
    settings = PolicySettings(reward_form="per-sample", reward_gap="after", prior="none", kappa=5.0, update_steps=40)
    strategy = VSSP(world.pool, settings)
    good = np.isin(world.truth, (0, 1)) if gap == "good-low" else ~np.isin(world.truth, (0, 1))
    shares = []
    for state, _, _ in world.rounds(
        strategy, 5, gap=lambda labels: np.where(np.isin(labels, (0, 1)) == (gap == "good-low"), 0.0, 0.1)
    ):
        del state
        strategy.propose(world.next)
        weight = np.exp(settings.kappa * strategy.actions.u.astype(float))
        paying = good[world.next.unlabeled]
        shares.append((weight[paying].sum() / weight.sum()) / paying.mean())
    best = 1 / good.mean()
    assert shares[-1] > 1 + 0.6 * (best - 1)


class Closing(World):
    """Labels of two classes of six close the student's gap, those of the others leave it as it was."""

    def feedback(self, state, proposal, gap=None, final=False):
        found = super().feedback(state, proposal, lambda labels: np.where(np.isin(labels, (0, 1)), 0.0, 0.1), final)
        same = np.full(3, 0.05, np.float32)
        before = np.full(len(found.labels), 0.1, np.float32)
        outcome = replace(found.outcome, gap_new_before=before, gap_pseudo=same, gap_pseudo_before=same)
        return replace(found, outcome=outcome)


def test_the_preset_without_its_plan_learns_who_pays():
    """`psp` as it is shipped but for the plan, sharp enough to say so, after eight rounds; uniform is 1, 3 the most."""
    settings = resolve({"strategy": "psp", "dataset": "digits", "prior": "none", "kappa": 5}).policy
    ratios = []
    for seed in (3, 4):
        world = Closing(n=400, n_classes=6, dim=24, seed=seed)
        strategy, _ = played(world, settings, 8)
        strategy.propose(world.next)
        weight = np.exp(settings.kappa * strategy.actions.u.astype(float))
        paying = np.isin(world.truth, (0, 1))[world.next.unlabeled]
        ratios.append(weight[paying].sum() / weight.sum() / paying.mean())
    assert np.mean(ratios) > 1.4
    assert min(ratios) > 1.2


def test_a_query_set_says_what_plan_and_policy_thought_of_it():
    """Without a prior a = softmax(kappa u), so the weight is n a; with one, odds are the plan's times the weight."""
    world = World(n=120)
    alone = VSSP(world.pool, PolicySettings(prior="none", kappa=3.0, **SMALL)).propose(world.state())
    assert alone.grounds.policy_weight == pytest.approx(120 * np.exp(alone.log_prob), rel=1e-5)
    assert np.isnan(alone.grounds.behind_plan).all()
    settings = PolicySettings(prior="coverage", prior_weight=0.0, kappa=1.0, **SMALL)
    state = world.state(n_query=12)
    both = VSSP(world.pool, settings).propose(state)
    anchors, odds = PRIORS.find("coverage")(world.pool, settings).anchors(state)
    given = dict(zip(anchors.tolist(), odds.tolist(), strict=True))
    prior = np.array([given.get(position, 0.0) for position in both.positions.tolist()])
    assert (both.grounds.behind_plan == np.where(prior > 0, odds.max() - prior, np.inf)).all()
    own = both.log_prob - prior - np.log(both.grounds.policy_weight)
    assert own == pytest.approx(np.full(12, own[0]), abs=1e-5)
