"""VSSP and its plan in large pools: candidates from everywhere, the same draw again, a policy that stays small."""

import numpy as np
import pytest

from psp_ray.acquisition import create
from psp_ray.acquisition import vssp as vssp_module
from psp_ray.config.policy import PolicySettings
from psp_ray.core.records import Feedback, LearnOutcome, PoolState, TextState
from psp_ray.neighbors import cells as cells_module
from psp_ray.neighbors.coverage import Coverage
from tests.helpers import ArrayPool
from tests.selftrain.conftest import unit

N, CLASSES = 3000, 6
SMALL = {"hidden": 8, "rank_image": 4, "rank_class": 3, "update_steps": 3, "align": "id"}


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch):
    monkeypatch.setattr(cells_module, "LARGE_POOL", 1000)
    monkeypatch.setattr(cells_module, "CELLS", 24)
    monkeypatch.setattr(vssp_module, "FEWEST", 256)
    monkeypatch.setattr(vssp_module, "LOOKED", 300 * CLASSES)


@pytest.fixture(scope="module")
def world():
    """3,000 images of six classes; the last one has 15."""
    draw = np.random.default_rng(0)
    centers = unit(draw.normal(size=(CLASSES, 12)))
    truth = draw.integers(0, CLASSES - 1, N).astype(np.int32)
    truth[draw.choice(N, 15, replace=False)] = CLASSES - 1
    pool = ArrayPool(unit(centers[truth] + 0.1 * draw.normal(size=(N, 12))), block_size=256)
    return pool, TextState(centers.astype(np.float32), 20.0), truth


def state_of(world, labeled=(), round=1, n_query=12, doubt=None):
    pool, text, truth = world
    labeled = np.asarray(labeled, np.int64)
    rest = np.setdiff1d(np.arange(pool.n), labeled)
    return PoolState(round, 3, n_query, CLASSES, text, rest, labeled, truth[labeled], doubt)


def feedback_of(world, state, proposal):
    gap = np.linspace(0, 0.2, len(proposal.positions)).astype(np.float32)
    none = np.zeros(0, np.float32)
    outcome = LearnOutcome(world[1], np.zeros((1, 1), np.float32), gap, none, gap[::-1].copy(), none, 0.0, 1, 0)
    left = np.setdiff1d(state.unlabeled, proposal.positions)
    return Feedback(state, proposal, world[2][proposal.positions], outcome, left, False)


def test_a_small_group_that_is_doubted_is_found(world):
    """15 of 3,000 images, looked at through 100: by chance alone none of them need be among these."""
    pool, _, truth = world
    labeled = np.flatnonzero(truth < CLASSES - 1)[:40]
    doubt = np.where(truth == CLASSES - 1, 0.9, 0.001).astype(np.float32)
    coverage = Coverage(pool, PolicySettings(coverage_limit=100))
    order = coverage.order(state_of(world, labeled, 2, doubt=doubt), 4)
    assert truth[order[0]] == CLASSES - 1
    assert not np.isin(order, labeled).any()


def test_the_first_plan_shows_every_large_group(world):
    pool, _, truth = world
    order = Coverage(pool, PolicySettings(coverage_limit=120)).order(state_of(world), 10)
    assert set(truth[order]) >= set(range(CLASSES - 1))
    assert len(set(order.tolist())) == 10


def test_a_round_can_be_repeated_and_resumed(world):
    pool, _, _ = world
    settings = PolicySettings(**SMALL, coverage_limit=80)
    state, one = state_of(world), create("vssp", pool, settings)
    proposal = one.propose(state)
    assert len(np.unique(proposal.positions)) == 12
    saved = one.state_dict()
    first = one.observe(feedback_of(world, state, proposal))
    other = create("vssp", ArrayPool(pool.rows(np.arange(N)), block_size=256), settings)
    other.load_state_dict(saved)
    again = other.observe(feedback_of(world, state, proposal))
    assert first.reward == again.reward
    for name, values in first.updates.items():
        np.testing.assert_array_equal(values, again.updates[name])
    later = state_of(world, proposal.positions, 2)
    np.testing.assert_array_equal(one.propose(later).positions, other.propose(later).positions)


def test_what_is_remembered_of_a_round_does_not_grow_with_the_pool(world):
    """Probabilities of what was looked at sum to one, the rest has none; the replay holds only these."""
    pool, _, _ = world
    strategy = create("vssp", pool, PolicySettings(**SMALL, coverage_limit=80))
    state = state_of(world)
    utilities = strategy.utilities(state)
    looked = np.isfinite(utilities)
    assert utilities.shape == state.unlabeled.shape
    assert 256 <= looked.sum() < 500
    assert np.exp(utilities[looked]).sum() == pytest.approx(1.0)
    proposal = strategy.propose(state)
    assert looked[np.searchsorted(state.unlabeled, proposal.positions)].all()
    strategy.observe(feedback_of(world, state, proposal))
    assert len(strategy.replay.transitions[0].u) == looked.sum()
