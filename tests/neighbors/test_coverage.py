"""The prior `coverage` against plain greedy loops."""

import tracemalloc
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.semi_supervised import LabelSpreading

from psp_ray.acquisition.base import create
from psp_ray.config.policy import PolicySettings
from psp_ray.core.errors import DatasetError
from psp_ray.core.records import TextState
from psp_ray.neighbors import coverage as module
from psp_ray.neighbors.coverage import Coverage, disagreement, greedy
from psp_ray.neighbors.space import ImageSpace
from tests.helpers import ArrayPool
from tests.policy.worlds import World

SMALL = {"hidden": 8, "rank_image": 4, "rank_class": 4, "update_steps": 2}


def slow_greedy(similar, weight, covered, k):
    """By definition, with loops; gains in float64."""
    similar, covered = similar.astype(np.float64), covered.astype(np.float64)
    chosen = []
    while len(chosen) < min(k, similar.shape[1]):
        gains = [
            -1.0 if s in chosen else sum(weight * np.maximum(similar[:, s] - covered, 0)) for s in range(len(similar.T))
        ]
        chosen.append(int(np.argmax(gains)))
        covered = np.maximum(covered, similar[:, chosen[-1]])
    return chosen


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), m=st.integers(1, 25), extra=st.integers(0, 4), k=st.integers(1, 30))
def test_lazy_greedy_equals_plain_greedy(seed, m, extra, k):
    draw = np.random.default_rng(seed)
    similar = draw.random((m + extra, m)).astype(np.float32)
    weight = draw.random(m + extra).astype(np.float32)
    covered = (0.6 * draw.random(m + extra)).astype(np.float32)
    got = greedy(similar, weight, covered, k)
    gained = [
        np.sum(weight * np.maximum(covered, similar[:, list(c)].max(1)))
        for c in (got, slow_greedy(similar, weight, covered, k))
    ]
    assert len(set(got.tolist())) == min(k, m)
    np.testing.assert_allclose(gained[0], gained[1], rtol=1e-5)


def test_ties_and_what_is_covered_already():
    similar = np.eye(4, dtype=np.float32)
    ones = np.ones(4, np.float32)
    assert greedy(similar, ones, np.zeros(4, np.float32), 4).tolist() == [0, 1, 2, 3]
    assert greedy(similar, ones, np.array([1, 0, 0, 0], np.float32), 2).tolist() == [1, 2]
    assert greedy(similar, np.array([1, 1, 9, 1], np.float32), np.zeros(4, np.float32), 1).tolist() == [2]


def state_of(world, labeled=(), round=1, n_query=5):
    labeled = np.asarray(labeled, np.int64)
    rest = np.setdiff1d(np.arange(world.n), labeled)
    state = world.state(round, n_query, rest, labeled, world.truth[labeled])
    return replace(state, text=TextState(world.text, 20.0))


def test_first_choices_cover_the_clusters():
    world = World(n=300, spread=0.25)
    order = Coverage(world.pool, PolicySettings()).order(state_of(world), 5)
    assert sorted(world.truth[order].tolist()) == [0, 1, 2, 3, 4]


def kernels(world):
    """By definition, in float64: the reach over the graph and the kernel of distances, each with a mean of 1."""
    places = ImageSpace.fit(world.pool).place(world.features).astype(np.float64)
    graph = module.neighbor_graph(places.astype(np.float32))
    inverse = np.linalg.inv(np.eye(len(places)) - 0.9 * graph.similarity.toarray())
    reach = inverse / np.sqrt(np.outer(np.diag(inverse), np.diag(inverse)))
    distance = np.maximum(1 - places @ places.T, 0)
    rank = module.SPREAD_NEIGHBOR
    near = np.exp(-distance / (2 * np.partition(distance, rank, axis=1)[:, rank].mean()))
    return {"reach": reach / reach.mean(), "distance": near / near.mean()}


@pytest.mark.parametrize("kernel", ["both", "reach", "distance"])
def test_first_choices_by_their_definition(kernel):
    world = World(n=80, spread=0.5)
    coverage = Coverage(world.pool, PolicySettings(coverage_first_width=1.5, coverage_kernel=kernel))
    rows = world.features.astype(np.float64)
    distance = 1 - rows @ rows.T
    wide = np.exp(-distance / (1.5 * distance.mean()))
    wide /= (wide - wide.min(1, keepdims=True)).mean()
    known = kernels(world)
    near = known["reach" if kernel == "both" else kernel]
    expected = slow_greedy(wide + 0.1 * near, np.ones(80), np.zeros(80), 8)
    assert coverage.order(state_of(world), 8).tolist() == expected


@pytest.mark.parametrize("limit", [6000, 60])
@pytest.mark.parametrize("kernel", ["both", "reach", "distance"])
def test_later_choices_cover_what_labels_do_not_reach(kernel, limit):
    world = World(n=80, spread=0.5)
    settings = PolicySettings(coverage_weight="uniform", coverage_limit=limit, coverage_kernel=kernel)
    known = kernels(world)
    near = known["reach"] + known["distance"] if kernel == "both" else known[kernel]
    expected = [20 + i for i in slow_greedy(near[20:, 20:], np.ones(60), near[20:, :20].max(1), 8)]
    chosen = Coverage(world.pool, settings).order(state_of(world, np.arange(20)), 8).tolist()
    assert chosen[:5] == expected[:5]  # later gains can be closer together than float32 tells apart
    covered = [near[20:, [*range(20), *columns]].max(1).sum() for columns in (chosen, expected)]
    np.testing.assert_allclose(covered[0], covered[1], rtol=1e-4)


def test_without_a_wide_kernel_the_first_round_is_like_the_others():
    world = World(n=80, spread=0.5)
    known = kernels(world)
    expected = slow_greedy(known["reach"] + known["distance"], np.ones(80), np.zeros(80), 8)
    settings = PolicySettings(coverage_first_width=0)
    assert Coverage(world.pool, settings).order(state_of(world), 8).tolist() == expected


def test_disagreement_is_the_chance_of_different_classes():
    world = World(n=60)
    places, labels = world.features, world.truth[50:].astype(np.int32)
    graph = module.neighbor_graph(places)
    got = disagreement(graph, world.features, TextState(world.text, 20.0), np.arange(50, 60), labels)
    teacher = softmax(20.0 * world.features @ world.text.T, axis=1)
    # scikit-learn's spreading: its own normalization and iteration on our affinities, then our balance of classes
    spread = LabelSpreading(kernel=lambda a, b: graph.similarity.toarray(), alpha=0.9, max_iter=3000, tol=1e-12)
    spread.fit(places, np.concatenate([np.full(50, -1), labels]))
    mass = module.class_masses(graph, np.arange(50, 60), labels, 5)
    opinion = mass / np.maximum(mass.sum(1, keepdims=True), 1e-300)
    np.testing.assert_allclose(got, 1 - (teacher * opinion).sum(1), atol=1e-6)
    assert got.min() >= 0
    assert got.max() <= 1 + 1e-9


def test_plan_gives_anchors_that_outweigh_the_pool():
    world = World(n=200)
    options = PolicySettings(prior_weight=2.0, coverage_fade=3.0)
    coverage = Coverage(world.pool, options)
    state = state_of(world, [1, 5, 9], round=2, n_query=6)
    positions, odds = coverage.plan(state)
    order = coverage.order(state, 12)
    assert positions.tolist() == sorted(order.tolist())
    assert set(order) <= set(state.unlabeled)
    expected = dict(zip(order.tolist(), np.log(197) + 2.0 - 3.0 * np.r_[np.zeros(6), np.arange(1, 7) / 6], strict=True))
    np.testing.assert_allclose(odds, [expected[p] for p in positions.tolist()])


def test_large_pools_are_judged_on_a_sample_that_changes_with_the_round():
    world = World(n=300, block_size=64)
    coverage = Coverage(world.pool, PolicySettings(coverage_limit=50))
    first, again, second = (coverage.order(state_of(world, round=r), 5) for r in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("labeled", [(), (2, 3, 4)])
def test_draws_prefer_anchors_and_can_leave_them(labeled):
    world = World(n=150)
    share = {}
    for seed, weight in product(range(15), (5.0, 1.0)):
        strategy = create("vssp", world.pool, PolicySettings(**SMALL, prior_weight=weight))
        state = world.state(
            n_query=6, seed=seed, unlabeled=np.setdiff1d(np.arange(150), labeled), labeled=labeled,
            labels=world.truth[list(labeled)],
        )  # fmt: skip
        positions = strategy.propose(state).positions
        anchors = strategy.view(state).anchors
        assert len(positions) == 6
        share.setdefault(weight, []).append(np.isin(positions, anchors).mean())
    assert np.mean(share[5.0]) > 0.95
    assert 0.6 < np.mean(share[1.0]) < np.mean(share[5.0]), "the weaker the preference, the more others are drawn"


@pytest.mark.parametrize("limit", [20, 6000])
def test_features_that_are_not_finite_are_named_whatever_the_size(limit):
    world = World(n=60)
    world.features[7, 2] = np.nan
    strategy = create("vssp", ArrayPool(world.features), PolicySettings(**SMALL, coverage_limit=limit))
    with pytest.raises(DatasetError, match="sample 7"):
        strategy.propose(world.state(n_query=5))


@pytest.mark.parametrize(("n", "n_query", "labeled"), [(1, 1, 0), (2, 1, 1), (9, 9, 0), (12, 11, 1)])
def test_the_smallest_pools_are_no_trouble(n, n_query, labeled):
    world = World(n=n, n_classes=2)
    strategy = create("vssp", world.pool, PolicySettings(**SMALL))
    state = world.state(
        n_query=n_query, unlabeled=np.arange(labeled, n), labeled=np.arange(labeled), labels=world.truth[:labeled]
    )
    assert len(np.unique(strategy.propose(state).positions)) == n_query


def test_many_labels_cost_no_more_than_the_limit_and_all_of_them_cover():
    world = World(n=3000, spread=0.1)
    labeled = np.flatnonzero(world.truth != 4)[:2000]
    settings = PolicySettings(coverage_limit=200, coverage_weight="uniform")
    tracemalloc.start()
    order = Coverage(world.pool, settings).order(state_of(world, labeled), 250)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 300**2 + 4 * 4096 * (300 + 8 * world.pool.dim)
    assert len(order) == 200  # not more than are looked at
    assert set(world.truth[order[:20]]) == {4}  # the class without a label


def test_what_the_posterior_doubts_is_covered_first():
    """Doubt in one region only draws the choices there; without a posterior nothing changes."""
    world = World(n=400, spread=0.2)
    labeled = np.array([int(np.flatnonzero(world.truth == c)[0]) for c in np.unique(world.truth)])
    plain = state_of(world, labeled)
    doubt = np.where(world.truth == 1, 0.9, 1e-6).astype(np.float32)
    by_posterior = Coverage(world.pool, PolicySettings(coverage_weight="posterior"))
    chosen = by_posterior.order(replace(plain, doubt=doubt), 8)
    share = np.mean(world.truth[by_posterior.order(plain, 8)] == 1)
    assert np.mean(world.truth[chosen] == 1) > max(0.7, share)
    unknown = Coverage(world.pool, PolicySettings(coverage_weight="disagreement"))
    np.testing.assert_array_equal(by_posterior.order(plain, 8), unknown.order(replace(plain, doubt=doubt), 8))
