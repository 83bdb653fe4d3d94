"""The strategies that draw with known odds: VSSP and uniform selection."""

import numpy as np
import pytest
from scipy.stats import chisquare, multinomial

from psp_ray.acquisition import create, validate_proposal
from psp_ray.acquisition.vssp import VSSP
from psp_ray.config.policy import PSP_PAPER, PolicySettings
from psp_ray.core.errors import DatasetError, UserError
from psp_ray.core.records import PoolState, TextState
from psp_ray.posterior.inclusion import inclusion_probabilities
from tests.acquisition.test_contract import FreshCopies
from tests.helpers import ArrayPool
from tests.policy.worlds import World

SMALL = {"hidden": 16, "rank_image": 4, "rank_class": 4, "update_steps": 3}
OURS = ["random", "vssp"]


def build(name, world, **settings):
    return create(name, world.pool, PolicySettings(**{**SMALL, **settings}))


def same(a, b):
    np.testing.assert_array_equal(a.positions, b.positions)
    np.testing.assert_array_equal(a.log_prob, b.log_prob)
    np.testing.assert_array_equal(a.next_key, b.next_key)
    np.testing.assert_array_equal(a.ms_indicator, b.ms_indicator)


@pytest.mark.parametrize("name", OURS)
def test_proposals_are_valid_repeatable_and_change_with_seed_and_round(name):
    world = World(n=200, block_size=64)
    strategy = build(name, world)
    state = world.state(n_query=12, unlabeled=np.arange(0, 200, 2))
    proposal = strategy.propose(state)
    validate_proposal(proposal, state)
    same(proposal, strategy.propose(state))
    same(proposal, build(name, world).propose(state))
    for other in (world.state(2, 12, state.unlabeled), world.state(1, 12, state.unlabeled, seed=1)):
        assert set(build(name, world).propose(other).positions) != set(proposal.positions)


@pytest.mark.parametrize("name", OURS)
def test_log_prob_next_key_and_indicator_belong_together(name):
    world = World(n=100)
    proposal = build(name, world).propose(world.state(n_query=8))
    q = inclusion_probabilities(proposal.log_prob, proposal.next_key)
    assert np.all((q > 0) & (q < 1))
    a = np.append(np.exp(proposal.log_prob), 1 - np.exp(proposal.log_prob).sum())
    expected = multinomial.logpmf([1] * 8 + [0], 8, a)
    assert proposal.ms_indicator == pytest.approx(expected, rel=1e-9)
    if name == "random":
        np.testing.assert_allclose(proposal.log_prob, -np.log(100))


@pytest.mark.parametrize("name", OURS)
def test_drawing_all_that_is_left(name):
    world = World(n=30)
    proposal = build(name, world).propose(world.state(n_query=4, unlabeled=[3, 8, 20, 29]))
    assert sorted(proposal.positions) == [3, 8, 20, 29]
    np.testing.assert_array_equal(inclusion_probabilities(proposal.log_prob, proposal.next_key), 1.0)


def test_random_is_uniform():
    world = World(n=20)
    strategy = build("random", world)
    counts = np.zeros(20)
    for round in range(1500):
        counts[strategy.propose(world.state(round, n_query=4)).positions] += 1
    assert chisquare(counts).pvalue > 1e-3


def test_untrained_vssp_is_nearly_uniform_over_seeds():
    world = World(n=20)
    counts = np.zeros(20)
    for seed in range(200):
        counts[build("vssp", world, prior="none").propose(world.state(n_query=4, seed=seed)).positions] += 1
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("cut", [16, 64, 200])
def test_vssp_streams_any_blocks_to_nearly_the_same_and_the_same_blocks_to_the_bit(cut):
    whole, parts = World(n=200), World(n=200, block_size=cut)
    state = whole.state(n_query=10)
    mine, theirs = (build("vssp", world) for world in (whole, parts))
    a, b = mine.propose(state), theirs.propose(state)
    np.testing.assert_array_equal(a.positions, b.positions)
    np.testing.assert_allclose(a.log_prob, b.log_prob, atol=1e-4)  # products of other shapes round otherwise
    same(b, build("vssp", World(n=200, block_size=cut)).propose(state))


VARIANTS = [
    {},
    PSP_PAPER,
    {"align": "vae"},
    {"critic": "scalar", "reward_form": "scalar", "q_input": "log-odds", "prior": "margin"},
    {"reward_form": "per-sample", "n_critics": 2, "align": "id", "reward_gap": "closed"},
    {"update_sample": 2, "sampling": "topk", "ms": "plackett-luce"},
]


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("open_round", [False, True])
def test_resumed_equals_uninterrupted_to_the_bit(settings, open_round):
    world = World(n=150, block_size=40)
    straight = build("vssp", world, **settings)
    log = list(world.rounds(straight, 4))
    first = build("vssp", world, **settings)
    half = list(world.rounds(first, 2))
    state = world.next
    if open_round:
        first.propose(state)  # a checkpoint between a proposal and its labels
    saved = {name: np.array(value) for name, value in first.state_dict().items()}
    resumed = create("vssp", FreshCopies(world.pool), first.settings)
    resumed.load_state_dict(saved)
    assert resumed.state_dict().keys() == saved.keys()
    rest = list(world.rounds(resumed, 2, first=state))
    assert len(half) == len(rest) == 2
    for (_, a, x), (_, b, y) in zip(log, [*half, *rest], strict=True):
        same(a, b)
        assert x.reward == y.reward
        for name, column in x.updates.items():
            np.testing.assert_array_equal(column, y.updates[name], err_msg=name)
    for name, value in straight.state_dict().items():
        np.testing.assert_array_equal(value, resumed.state_dict()[name], err_msg=name)


def test_observing_a_proposal_of_another_process_recomputes_its_actions():
    world = World(n=80)
    one, other = build("vssp", world), build("vssp", world)
    state = world.state()
    proposal = one.propose(state)
    feedback = world.feedback(state, proposal)
    one.observe(feedback)
    other.observe(feedback)
    for name, value in one.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[name], err_msg=name)


def test_state_is_plain_arrays_and_small():
    world = World(n=4000)
    strategy = build("vssp", world)
    list(world.rounds(strategy, 1))
    state = strategy.state_dict()
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in state.values())
    replay = sum(value.nbytes for name, value in state.items() if name.startswith("replay."))
    assert replay < 4000 * 4 + 4000 / 8 + 4000  # u, packed bits and a little; not n x C


def test_a_checkpoint_of_other_settings_is_refused():
    world = World(n=60)
    strategy = build("vssp", world)
    list(world.rounds(strategy, 1))
    for change in ({"hidden": 8}, {"n_critics": 2}, {"state_features": False}):
        with pytest.raises(UserError, match="resume with the settings of the run"):
            build("vssp", world, **change).load_state_dict(strategy.state_dict())
    empty = build("vssp", world)
    empty.load_state_dict({})
    same(empty.propose(world.state()), build("vssp", world).propose(world.state()))


def test_topk_takes_the_most_probable_and_claims_no_inclusion_probability():
    world = World(n=100)
    strategy = build("vssp", world, sampling="topk", prior="none")
    proposal = strategy.propose(world.state(n_query=6))
    assert np.isnan(proposal.next_key)
    np.testing.assert_array_equal(np.sort(proposal.positions), np.sort(np.argsort(-strategy.actions.u)[:6]))
    assert np.all(np.diff(proposal.log_prob) <= 0)


@pytest.mark.parametrize("kind", ["identical", "one class", "one sample", "zero"])
@pytest.mark.parametrize("settings", [{}, PSP_PAPER, {"reward_form": "per-sample", "prior": "entropy"}])
def test_degenerate_pools_run(kind, settings):
    world = World(n=1 if kind == "one sample" else 40, n_classes=1 if kind == "one class" else 3)
    if kind in ("identical", "zero"):
        world.features = np.repeat(world.features[:1], 40, axis=0) * (kind == "identical")
        world.pool = ArrayPool(world.features)
    strategy = create("vssp", world.pool, PolicySettings(**{**SMALL, **settings}))
    count = 1 if kind == "one sample" else 3
    for state, proposal, observation in world.rounds(strategy, count, first=world.state(n_query=1)):
        validate_proposal(proposal, state)
        assert np.isfinite(observation.reward)
        assert all(np.isfinite(column).all() for column in observation.updates.values())


def test_the_last_samples_of_a_pool_can_be_bought():
    world = World(n=11)
    strategy = build("vssp", world)
    log = list(world.rounds(strategy, 2, first=world.state(n_query=5)))
    state = world.next
    assert len(state.unlabeled) == 1
    last = PoolState(**{**vars(state), "n_query": 1})
    list(world.rounds(strategy, 1, first=last))
    assert strategy.replay.transitions[-1].final
    assert len(log) == 2


def test_not_finite_input_is_named():
    world = World(n=20)
    features = world.features.copy()
    features[7] = np.inf
    with pytest.raises(DatasetError, match="pool sample 7"):
        VSSP(ArrayPool(features)).propose(world.state())
    text = np.full_like(world.text, np.nan)
    with pytest.raises(DatasetError, match="not finite"):
        VSSP(world.pool).propose(PoolState(**{**vars(world.state()), "text": TextState(text, 50.0)}))


def test_more_classes_than_the_policy_was_built_for():
    world = World(n=40)
    strategy = build("vssp", world)
    strategy.propose(world.state())
    with pytest.raises(UserError, match="built for 5 classes, not 6"):
        strategy.propose(PoolState(**{**vars(world.state()), "n_classes": 6}))
