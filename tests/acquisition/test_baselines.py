"""Each strategy on cases small enough to answer by hand or by brute force."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from psp_ray.acquisition import _cluster, create
from psp_ray.acquisition.alfa_mix import caps, class_means
from psp_ray.acquisition.bandit import Bandit
from psp_ray.acquisition.el2n_policy import context, train, worth_it
from psp_ray.config.acquisition import BanditSettings
from psp_ray.config.config import Config
from psp_ray.core.errors import UserError
from psp_ray.core.records import PoolState, TextState
from tests.helpers import ArrayPool
from tests.policy.worlds import World, unit


def half(x):
    return np.asarray(x, np.float16).astype(np.float64)


def state_of(n, text, n_query, labeled=(), labels=(), round=1, scale=10.0, seed=0):
    labeled = np.asarray(labeled, np.int64)
    return PoolState(
        round=round,
        seed=seed,
        n_query=n_query,
        n_classes=len(text),
        text=TextState(np.asarray(text, np.float32), scale),
        unlabeled=np.setdiff1d(np.arange(n), labeled),
        labeled=labeled,
        labels=np.asarray(labels, np.int32),
    )


def propose(name, x, state, block_size=4096, **settings):
    return (
        create(name, ArrayPool(x, block_size=block_size), Config(**settings).policy).propose(state).positions.tolist()
    )


# -- uncertainty -----------------------------------------------------------------------------------------------------


def test_entropy_and_margin_against_scipy():
    world = World(n=200, n_classes=6, block_size=64)
    p = softmax(50.0 * half(world.features) @ world.text.astype(np.float64).T, axis=1)
    state = world.state(n_query=15)
    by_entropy = np.argsort(-scipy_entropy(p, axis=1))[:15]
    assert propose("entropy", world.features, state, 64) == by_entropy.tolist()
    top = np.sort(p, axis=1)
    assert propose("margin", world.features, state, 64) == np.argsort(top[:, -1] - top[:, -2])[:15].tolist()


def test_entropy_and_margin_differ_where_they_should():
    """A sample between two of three classes has the smaller margin, one near all three the larger entropy."""
    text = np.eye(3)
    x = np.array([[0.705, 0.705, 0.0], [0.60, 0.56, 0.57], [1.0, 0.0, 0.0]])
    state = state_of(3, text, 1)
    assert propose("margin", x, state) == [0]
    assert propose("entropy", x, state) == [1]


def test_ties_do_not_depend_on_blocks():
    x = np.tile(unit(np.ones((1, 4))), (50, 1))
    state = state_of(50, unit(np.random.default_rng(0).normal(size=(3, 4))), 10)
    for name in ("entropy", "margin"):
        assert propose(name, x, state, 7) == propose(name, x, state, 50)


# -- clusters --------------------------------------------------------------------------------------------------------


def blobs(sizes, seed=0, spread=0.02):
    """Tight blobs along the axes; returns (features, blob of each)."""
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(len(sizes)), sizes)
    return unit(np.eye(len(sizes) + 1)[which] + spread * rng.normal(size=(len(which), len(sizes) + 1))), which


def test_neighbor_distances_against_scikit_learn(monkeypatch):
    x = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    keys = np.arange(300, dtype=np.uint64)
    expected = NearestNeighbors(n_neighbors=8).fit(x).kneighbors(x)[0][:, 1:].mean(axis=1)
    np.testing.assert_allclose(_cluster.mean_neighbor_distance(x, 7, keys, 0), expected, rtol=1e-4)
    np.testing.assert_array_equal(_cluster.mean_neighbor_distance(x[:1], 7, keys[:1], 0), [0.0])
    monkeypatch.setattr(_cluster, "NEIGHBORS_AMONG", 200)
    part = _cluster.mean_neighbor_distance(x, 7, keys, 0)
    assert np.corrcoef(part, expected)[0, 1] > 0.9
    assert (part >= expected - 1e-5).all()


@pytest.mark.parametrize("sample", [20_000, 60])
def test_clusters_find_blobs_and_nearest_centers(monkeypatch, sample):
    monkeypatch.setattr(_cluster, "SAMPLE", sample)
    x, which = blobs([40, 30, 50])
    found = _cluster.cluster(ArrayPool(x, block_size=32), np.arange(120), 3, seed=1)
    assert len({(a, b) for a, b in zip(found.labels, which, strict=True)}) == 3
    distances = np.linalg.norm(half(x)[:, None] - found.centers[None], axis=2)
    np.testing.assert_array_equal(found.labels, distances.argmin(1))
    np.testing.assert_allclose(found.distances, distances.min(1), atol=1e-3)


def test_clusters_are_the_same_for_any_number_of_threads():
    from threadpoolctl import threadpool_limits

    x = np.random.default_rng(0).normal(size=(3000, 16))
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            results.append(_cluster.centers_of(x.astype(np.float32), 20, 0))
    np.testing.assert_array_equal(*results)


def test_coverage_serves_the_cluster_with_fewest_labels_and_of_those_the_largest():
    coverage = _cluster.Coverage(np.repeat([0, 1, 2], [4, 9, 6]), np.ones(19, bool), np.arange(19) == 18)
    order = []
    while (index := coverage.next()) >= 0:
        order.append(index)
        coverage.take(index)
    assert order[:5] == [1, 0, 1, 2, 0]  # cluster 2 has a label; then all have one: by size
    assert np.bincount(order).tolist() == [4, 9, 6]


# -- ALFA-Mix --------------------------------------------------------------------------------------------------------


def test_caps_are_where_the_paper_s_mix_flips_the_prediction():
    """The closed-form ratio and the mix itself, computed anchor by anchor, at caps around the one found."""
    world = World(n=60, n_classes=4, dim=8, spread=1.5)
    z, text = world.features.astype(np.float64), world.text.astype(np.float64)
    anchors = class_means(world.features[:20], world.truth[:20])
    got = caps(world.features, world.text, 50.0, anchors)
    p = softmax(50.0 * z @ text.T, axis=1)
    y = p.argmax(axis=1)
    p[np.arange(60), y] -= 1.0
    gradient = p @ text

    def flips(cap):
        result = np.zeros(60, bool)
        for anchor in anchors.astype(np.float64):
            gap = anchor - z
            norm = np.linalg.norm(gap, axis=1, keepdims=True) / np.linalg.norm(gradient, axis=1, keepdims=True)
            alpha = cap / np.sqrt(8) * norm * gradient / gap
            mix = (1 - alpha) * z + alpha * anchor
            result |= (mix @ text.T).argmax(axis=1) != y
        return result

    assert (got < 1).sum() > 5
    for cap in np.quantile(got, [0.05, 0.2, 0.4, 0.6]):
        np.testing.assert_array_equal(flips(cap * 1.001), got <= cap * 1.001)


def test_class_means_by_hand():
    got = class_means(np.array([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]], np.float32), np.array([2, 2, 0]))
    np.testing.assert_array_equal(got, [[5.0, 5.0], [2.0, 1.0]])


def test_alfa_mix_chooses_among_candidates_and_fills_up_at_random():
    world = World(n=80, n_classes=4, dim=8)
    labeled = np.arange(8)
    state = world.state(2, 6, np.arange(8, 80), labeled, world.truth[:8])
    needed = caps(world.features[8:], world.text, 50.0, class_means(world.features[:8], world.truth[:8]))
    cap = next(c for c in (0.2, 0.4, 0.6, 0.8, 1.0) if (needed <= c).sum() > 6 or c == 1.0)
    chosen = create("alfa-mix", world.pool, Config().policy).propose(state).positions
    near = set((np.flatnonzero(needed <= cap * 1.01) + 8).tolist())
    assert set(chosen.tolist()) <= near
    sure = World(n=80, n_classes=2, dim=8)
    sure.features = unit(sure.text[sure.truth] + 1e-3).astype(np.float32)
    state = PoolState(**{**vars(sure.state(2, 30, np.arange(8, 80), labeled, sure.truth[:8]))})
    one = create("alfa-mix", ArrayPool(sure.features), Config(alfa_mix_cap=0.01).policy).propose(state)
    assert len(set(one.positions.tolist())) == 30


def test_alfa_mix_starts_like_random():
    world = World(n=50)
    first = create("alfa-mix", world.pool, Config().policy).propose(world.state())
    random = create("random", world.pool, Config().policy).propose(world.state())
    np.testing.assert_array_equal(first.positions, random.positions)
    assert np.isfinite(first.log_prob).all()


# -- those that learn ------------------------------------------------------------------------------------------------


def test_the_bandit_finds_the_cluster_where_the_prompt_errs():
    x, which = blobs([100, 100, 100, 100])
    text = np.eye(5)[:4]
    truth = which.copy()
    truth[which == 2] = 0  # the prompt takes all of blob 2 for class 2
    world = World(n=400, n_classes=4, dim=5)
    world.features, world.truth, world.text = x.astype(np.float32), truth.astype(np.int32), text.astype(np.float32)
    world.pool = ArrayPool(x)
    world.student = lambda round: world.text
    bandit = Bandit(world.pool, BanditSettings(bandit_arms=4, bandit_memory=1.0))
    rounds = list(world.rounds(bandit, 12, first=world.state(n_query=2)))
    late = np.concatenate([proposal.positions for _, proposal, _ in rounds[6:]])
    assert (which[late] == 2).mean() > 0.45  # of two arms a round one is always blob 2
    assert (which[late] == 2).mean() <= 0.5
    assert bandit.wins.sum() == sum(2 * observation.reward for _, _, observation in rounds)


def test_the_bandit_serves_each_arm_before_any_twice():
    x, which = blobs([10, 10, 10])
    state = state_of(30, np.eye(4)[:3], 7)
    chosen = propose("bandit", x, state, bandit_arms=3)
    assert sorted(which[chosen[:3]]) == [0, 1, 2]
    assert sorted(which[chosen[3:6]]) == [0, 1, 2]


def test_the_bandit_forgets_and_refuses_other_arms():
    bandit = Bandit(ArrayPool(np.eye(4)), BanditSettings(bandit_arms=2, bandit_memory=0.5))
    np.testing.assert_array_equal(bandit._updated(np.array([4.0, 0.0]), np.array([1, 1, 0]), np.ones(3)), [3.0, 2.0])
    with pytest.raises(UserError, match="--bandit-arms 2: the checkpoint's bandit has 3 arms"):
        bandit.load_state_dict({"wins": np.zeros(3), "losses": np.zeros(3), "seed": np.asarray(0)})


def test_labels_worth_it_by_hand():
    x = np.array([[0.0], [0.1], [5.0], [1.0], [2.0]], np.float32)
    worth = np.array([1.0, 0.9, 0.5, 0.2, 0.3])
    labels = np.array([0, 0, 0, 1, 1])
    # class 0 keeps 2 of 3: the worthiest, then 0.5 * 5 beats 0.9 * 0.1; class 1 keeps the worthier
    assert worth_it(x, worth, labels, 0.67).tolist() == [True, False, True, False, True]
    assert worth_it(x, worth, labels, 1.0).all()
    assert worth_it(np.zeros((3, 1), np.float32), np.zeros(3), np.zeros(3, int), 0.67).sum() == 2


def test_the_trained_policy_points_where_logistic_regression_does():
    rng = np.random.default_rng(0)
    phi = np.column_stack([np.ones(300), rng.normal(size=(300, 3))])
    reward = np.where(phi @ [0.2, 2.0, -1.0, 0.0] + rng.normal(size=300) > 0, 1.0, -1.0)
    theta, gained = train(phi, reward, 0.3, 300)
    other = LogisticRegression(class_weight="balanced").fit(phi[:, 1:], reward).coef_[0]
    assert np.dot(theta[1:], other) / np.linalg.norm(theta[1:]) / np.linalg.norm(other) > 0.98
    assert gained > 0.2


def test_training_goes_up_the_stated_objective():
    rng = np.random.default_rng(1)
    phi = rng.normal(size=(80, 4))
    reward = np.where(rng.random(80) < 0.5, 1.0, -1.0)
    reward[:2] = 1.0, -1.0

    def objective(theta):
        weight = np.where(reward > 0, 40 / (reward > 0).sum(), 40 / (reward < 0).sum())
        q = 1 / (1 + np.exp(-phi @ theta))
        bonus = -q * np.log(q) - (1 - q) * np.log(1 - q)
        return np.mean(weight * (q * reward + 0.3 * bonus)) - 0.3 / 160 * theta @ theta

    theta, _ = train(phi, reward, 0.3, 2000)
    for direction in np.eye(4):
        assert objective(theta) >= objective(theta + 1e-3 * direction) - 1e-9
        assert objective(theta) >= objective(theta - 1e-3 * direction) - 1e-9


def test_contexts_are_standardized_and_say_what_they_say():
    world = World(n=100, block_size=32)
    state = world.state(2, 5, np.arange(10, 100), np.arange(10), world.truth[:10])
    phi, keys = context(world.pool, state)
    assert phi.shape == (90, 8)
    assert (phi[:, 0] == 1).all()
    np.testing.assert_allclose(phi[:, 1:].mean(0), 0, atol=0.05)
    x = half(world.features)
    near = (x[10:] @ x[:10].T).max(axis=1)
    assert np.corrcoef(phi[:, 6], near)[0, 1] > 0.999
    assert len(keys) == 90


def test_the_el2n_policy_learns_to_prefer_what_the_prompt_gets_wrong():
    """Labels are worth much where the prompt is unsure: after some rounds the policy asks there more than at first."""
    world = World(n=400, n_classes=4, spread=2.0)
    strategy = create("el2n-policy", world.pool, Config().policy)
    log = list(world.rounds(strategy, 8, first=world.state(n_query=16)))

    def unsure(state, positions):
        p = np.sort(softmax(50.0 * half(world.features[positions]) @ state.text.features.T, axis=1), axis=1)
        return 1 - p[:, -1].mean()

    late = np.mean([unsure(s, p.positions) - unsure(s, s.unlabeled) for s, p, _ in log[3:]])
    assert late > 0.05
    assert np.isfinite(log[-1][1].log_prob).all()
