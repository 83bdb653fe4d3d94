"""k-means++ and greedy k-center on factors, against materialized embeddings and plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psp_ray.acquisition._baseline import probabilities
from psp_ray.acquisition._distances import Points, gradient_factors, k_center, k_means_pp, squared_distances
from scipy.spatial.distance import cdist
from scipy.stats import chisquare
from sklearn.metrics.pairwise import euclidean_distances

from psp_ray.acquisition import _distances, create
from psp_ray.config.config import Config
from psp_ray.core.records import PoolState, TextState
from tests.helpers import ArrayPool
from tests.policy.worlds import World


def half(x):
    return np.asarray(x, np.float16).astype(np.float32)


def dense(f, w):
    """The (n, C * d) matrix that is never built elsewhere."""
    return np.einsum("nc,nd->ncd", w.astype(np.float64), f.astype(np.float64)).reshape(len(f), -1)


def points_of(x, block_size=7, limit=1 << 30, factors=lambda f: (f,)):
    return Points(ArrayPool(x, block_size=block_size), np.arange(len(x)), factors, limit)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 9), st.integers(1, 6))
def test_distances_of_factors_are_those_of_the_outer_products(seed, n, d, c):
    rng = np.random.default_rng(seed)
    f, w = rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(n, c)).astype(np.float32)
    s = dense(f, w)
    norms = _distances.squared_norms((f, w))
    np.testing.assert_allclose(norms, (s * s).sum(1), rtol=1e-5)
    got = squared_distances((f, w), norms, (f[:2], w[:2]), norms[:2])
    np.testing.assert_allclose(got, euclidean_distances(s, s[:2], squared=True), atol=1e-4 * norms.max())
    assert (got >= 0).all()
    assert got[0, 0] == 0
    assert got[1, 1] == 0


def test_gradient_factors_are_the_gradient_of_the_cross_entropy():
    """Against autograd: d loss / d class embeddings = logit_scale * (p - e_y) (x) f at the predicted class y."""
    import torch

    world = World(n=12, n_classes=4, dim=6)
    f, w = gradient_factors(world.text, 20.0)(world.features)
    for i in range(12):
        text = torch.tensor(world.text, dtype=torch.float64, requires_grad=True)
        logits = 20.0 * text @ torch.tensor(world.features[i], dtype=torch.float64)
        torch.nn.functional.cross_entropy(logits[None], logits.argmax()[None]).backward()
        np.testing.assert_allclose(np.outer(w[i], f[i]), -text.grad.numpy() / 20.0, atol=1e-6)


def plain_k_center(x, count, centers):
    distances = cdist(x, centers).min(axis=1)
    chosen = []
    for _ in range(count):
        best = int(np.argmax(distances))
        chosen.append(best)
        distances = np.minimum(distances, cdist(x, x[[best]])[:, 0])
        distances[chosen] = -1.0
    return chosen


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_k_center_is_the_plain_greedy_loop(n, limit):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = half(rng.normal(size=(n, 5)))
        points = Points(ArrayPool(x, block_size=64), np.arange(5, n), lambda f: (f,), limit)
        got = k_center(points, n // 2, np.arange(5), rng)
        assert got.tolist() == plain_k_center(x[5:].astype(np.float64), n // 2, x[:5].astype(np.float64))


def test_k_center_without_centers_starts_anywhere_and_goes_on_greedily():
    x = half(np.random.default_rng(0).normal(size=(60, 4)))
    starts = set()
    for seed in range(30):
        got = k_center(points_of(x), 10, np.zeros(0, np.int64), np.random.default_rng(seed)).tolist()
        assert got[1:] == plain_k_center(x.astype(np.float64), 10, x[got[:1]].astype(np.float64))[:9]
        starts.add(got[0])
    assert len(starts) > 15


def test_k_center_by_hand():
    x = np.array([[0.0], [1.0], [2.0], [10.0], [4.0]])
    got = k_center(points_of(x), 4, np.array([0]), np.random.default_rng(0))
    assert got.tolist() == [3, 4, 2, 1]  # 10 away; then 4 (4 from 0, 6 from 10); then 2; then 1


def first_two(odds_of, count, draws=3000):
    counts = np.zeros(count)
    for seed in range(draws):
        counts[odds_of(np.random.default_rng(seed))[1]] += 1
    return counts


def test_k_means_pp_draws_in_proportion_to_squared_distance():
    x = np.array([[9.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 4.0], [9.0, 0.0], [8.0, 0.0]])
    counts = first_two(lambda rng: k_means_pp(points_of(x), 2, rng), len(x))
    expected = cdist(x, x[:1])[:, 0] ** 2
    assert counts[expected == 0].sum() == 0  # the first center, and its copy
    mask = expected > 0
    assert chisquare(counts[mask], expected[mask] / expected.sum() * counts.sum()).pvalue > 1e-3


@pytest.mark.parametrize("batch", [1, 64])
def test_k_means_pp_later_draws_have_the_odds_of_a_plain_loop(monkeypatch, batch):
    """Stale distances must not show: the third center's odds, given the first two."""
    monkeypatch.setattr(_distances, "_BATCH", batch)
    x = half(np.array([[5.0, 5.0], [0.0, 1.0], [1.0, 0.0], [4.0, 1.0], [1.0, 4.0], [2.0, 2.0]]))
    counts: dict[int, np.ndarray] = {}
    for seed in range(6000):
        _, second, third = k_means_pp(points_of(x), 3, np.random.default_rng(seed)).tolist()
        counts.setdefault(second, np.zeros(len(x)))[third] += 1
    for second, found in counts.items():
        if found.sum() < 200:
            continue
        odds = cdist(x, x[[0, second]]).min(axis=1) ** 2
        mask = odds > 0
        assert found[~mask].sum() == 0
        assert chisquare(found[mask], odds[mask] / odds.sum() * found.sum()).pvalue > 1e-4


def plain_potential(s, chosen):
    return float((cdist(s, s[chosen]).min(axis=1) ** 2).sum())


def test_badge_covers_a_materialized_embedding_as_well_as_scikit_learn():
    """Mean k-means potential over seeds of BADGE's picks and of sklearn's k-means++ on the dense matrix."""
    from sklearn.cluster import kmeans_plusplus

    world = World(n=150, n_classes=6, dim=8, block_size=64)
    features = half(world.features)
    p = probabilities(features, world.text, 50.0)
    w = -p
    w[np.arange(len(w)), p.argmax(1)] += 1
    s = dense(features, w)
    ours, theirs = [], []
    for seed in range(60):
        chosen = create("badge", world.pool, Config().policy).propose(world.state(n_query=12, seed=seed)).positions
        assert chosen[0] == np.argmax((s * s).sum(1))
        ours.append(plain_potential(s, chosen))
        _, indices = kmeans_plusplus(s, 12, random_state=seed, n_local_trials=1)
        theirs.append(plain_potential(s, indices))
    error = np.hypot(np.std(ours), np.std(theirs)) / np.sqrt(60)
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error


def test_many_centers_pass_through_several_batches():
    x = half(np.random.default_rng(0).normal(size=(400, 6)))
    for limit in (0, 1 << 30):
        got = k_means_pp(points_of(x, 64, limit), 300, np.random.default_rng(1))
        assert len(set(got.tolist())) == 300


def test_copies_are_taken_last():
    x = np.repeat(half(np.random.default_rng(0).normal(size=(8, 4))), 5, axis=0)
    for chosen in (
        k_means_pp(points_of(x), 40, np.random.default_rng(0)),
        k_center(points_of(x), 40, np.zeros(0, np.int64), np.random.default_rng(0)),
    ):
        assert sorted(chosen.tolist()) == list(range(40))
        assert len(np.unique(chosen[:8] // 5)) == 8


def test_coreset_and_pcoreset_are_greedy_in_their_spaces():
    world = World(n=120, n_classes=4, dim=6, block_size=50)
    labeled = np.array([1, 60, 100])
    rest = np.setdiff1d(np.arange(120), labeled)
    state = world.state(2, 20, rest, labeled, world.truth[labeled])
    features = half(world.features).astype(np.float64)
    got = create("coreset", world.pool, Config().policy).propose(state).positions
    assert got.tolist() == rest[plain_k_center(features[rest], 20, features[labeled])].tolist()
    # At a scale of 50 most distances are the square root of 2 but for rounding.
    soft = PoolState(**{**vars(state), "text": TextState(world.text, 5.0)})
    p = probabilities(half(world.features), world.text, 5.0)
    got = create("pcoreset", world.pool, Config().policy).propose(soft).positions
    assert got.tolist() == rest[plain_k_center(p[rest], 20, p[labeled])].tolist()
    f, w = gradient_factors(world.text, 50.0)(half(world.features))
    s = dense(f, w)
    got = create("coreset", world.pool, Config(coreset_space="gradients").policy).propose(state).positions
    assert got.tolist() == rest[plain_k_center(s[rest], 20, s[labeled])].tolist()
