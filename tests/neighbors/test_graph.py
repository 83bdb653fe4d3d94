"""Label propagation against a dense solve and scikit-learn; neighbors against scikit-learn."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading

from psp_ray.neighbors import graph as graph_module
from psp_ray.neighbors.graph import class_masses, knn_graph, neighbor_graph, normalized, propagate, reach
from psp_ray.neighbors.space import ImageSpace, subset
from tests.helpers import ArrayPool
from tests.selftrain.conftest import make_pool


def features_of(pool):
    """Places in the image space, which `tests/neighbors/test_space.py` checks."""
    space = ImageSpace.fit(pool)
    return np.concatenate([space.embed(pool.block(i, views=space.views)) for i in range(pool.n_blocks)])


def raw_weights(features, k, power):
    """Edge weights straight from the definition, with loops."""
    cosine = (features @ features.T).astype(np.float64)
    n = len(features)
    weights = np.zeros((n, n))
    for i in range(n):
        near = sorted((-cosine[i, j], j) for j in range(n) if j != i)[:k]
        for negative, j in near:
            weights[i, j] = max(-negative, 0.0) ** power
    return weights + weights.T


def dense_graph(features, k, power):
    weights = raw_weights(features, k, power)
    degree = weights.sum(1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return scale[:, None] * weights * scale[None]


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("block_size", [50, 64, 4096])
def test_graph_equals_its_definition(power, block_size, monkeypatch):
    monkeypatch.setattr(graph_module, "BLOCK_SIZE", 37)  # targets in blocks that don't match the pool's
    pool, _, _ = make_pool(n=230, block_size=block_size)
    got = normalized(knn_graph(pool, neighbors=7, power=power).edges).similarity.toarray()
    np.testing.assert_allclose(got, dense_graph(features_of(pool), 7, power), atol=2e-6)
    np.testing.assert_allclose(got, got.T, atol=1e-15)


def test_neighbors_agree_with_scikit_learn():
    pool, _, _ = make_pool(n=300, d=32)
    features = features_of(pool)
    distances = 2.0 - features @ features.T  # rounded features are not quite of length 1, so no metric of theirs
    np.fill_diagonal(distances, 0.0)
    _, near = NearestNeighbors(n_neighbors=6, metric="precomputed").fit(distances).kneighbors(distances)
    expected = np.zeros((300, 300), bool)
    expected[np.arange(300)[:, None], near[:, 1:]] = True
    got = normalized(knn_graph(pool, neighbors=5, power=0).edges).similarity.toarray() > 0
    np.testing.assert_array_equal(got, expected | expected.T)


@pytest.mark.parametrize("alpha", [0.5, 0.9, 0.99])
def test_propagation_equals_a_dense_solve_and_scikit_learn(alpha):
    pool, _, truth = make_pool(n=250, noise=0.4)
    graph = normalized(knn_graph(pool, neighbors=6).edges)
    labeled = np.arange(0, 250, 12)
    labels = truth[labeled].astype(np.int32)
    seeds = np.zeros((250, 6))
    seeds[labeled, labels] = 1
    dense = graph.similarity.toarray()
    mass = np.linalg.solve(np.eye(250) - alpha * dense, (1 - alpha) * seeds)
    counts = np.bincount(labels)
    shares = {
        "halfway": np.sqrt(np.sqrt(counts + 1) * mass.sum(0)),
        "tempered": np.sqrt(counts + 1),
        "mass": np.ones(6),
        "none": mass.sum(0),
    }
    for balance, share in shares.items():
        shared = mass / mass.sum(0) * share
        got = propagate(graph, labeled, labels, alpha=alpha, balance=balance)
        np.testing.assert_array_equal(got.labels, shared.argmax(1))
        np.testing.assert_allclose(got.confidence, shared.max(1) / shared.sum(1), atol=1e-4)
    # scikit-learn gets our edge weights; normalization and iteration are its own.
    targets = np.full(250, -1)
    targets[labeled] = labels
    affinity = raw_weights(features_of(pool), 6, 3.0)
    theirs = LabelSpreading(kernel=lambda a, b: affinity, alpha=alpha, max_iter=5000, tol=1e-10)
    theirs.fit(features_of(pool).astype(np.float64), targets)
    np.testing.assert_array_equal(got.labels, theirs.transduction_)


@pytest.mark.parametrize("seed", range(3))
def test_a_small_class_keeps_to_its_size(seed):
    """Fourteen images in fifteen are of one class, and so are most labels; the other's must not take half."""
    rng = np.random.default_rng(seed)
    truth = (np.arange(600) >= 560).astype(np.int32)
    places = rng.standard_normal((600, 12)) + 1.3 * np.eye(12)[truth]
    graph = neighbor_graph((places / np.linalg.norm(places, axis=1, keepdims=True)).astype(np.float32))
    labeled = np.sort(np.concatenate([rng.choice(560, 18, replace=False), 560 + rng.choice(40, 2, replace=False)]))
    found = {
        balance: propagate(graph, labeled, truth[labeled], balance=balance).labels
        for balance in ("mass", "tempered", "halfway")
    }
    right = {balance: (labels == truth).mean() for balance, labels in found.items()}
    assert right["halfway"] > right["tempered"] + 0.01 > right["mass"] + 0.1


def test_graph_of_places_in_memory_and_all_masses():
    pool, _, truth = make_pool(n=200)
    graph = normalized(knn_graph(pool).edges)
    same = neighbor_graph(features_of(pool))
    np.testing.assert_allclose(graph.similarity.toarray(), same.similarity.toarray(), atol=2e-6)
    labeled = np.arange(0, 200, 9)
    labels = truth[labeled].astype(np.int32)
    mass = class_masses(graph, labeled, labels, 8)
    opinion = propagate(graph, labeled, labels)
    np.testing.assert_array_equal(mass.argmax(1), opinion.labels)
    np.testing.assert_allclose(mass.max(1) / mass.sum(1), opinion.confidence, atol=1e-6)
    assert mass.shape == (200, 8)
    assert (mass[:, 6:] == 0).all(), "classes without labels have no mass"


def test_columns_in_parts_give_the_same_opinion(monkeypatch):
    pool, _, truth = make_pool(n=200)
    graph = normalized(knn_graph(pool).edges)
    labeled = np.arange(0, 200, 9)
    whole = propagate(graph, labeled, truth[labeled].astype(np.int32))
    monkeypatch.setattr(graph_module, "_COLUMN_ENTRIES", 400)
    parts = propagate(graph, labeled, truth[labeled].astype(np.int32))
    np.testing.assert_array_equal(whole.labels, parts.labels)
    np.testing.assert_allclose(whole.confidence, parts.confidence, atol=1e-6)


def test_reach_is_the_correlation_of_propagation():
    places = np.random.default_rng(3).normal(size=(60, 8)).astype(np.float32)
    places /= np.linalg.norm(places, axis=1, keepdims=True)
    graph = neighbor_graph(places, neighbors=6)
    inverse = np.linalg.inv(np.eye(60) - 0.8 * graph.similarity.toarray())
    scale = np.sqrt(np.diag(inverse))
    np.testing.assert_allclose(reach(graph, alpha=0.8), inverse / np.outer(scale, scale), atol=1e-5)
    alone = normalized(sp.csr_array((3, 3), dtype=np.float64))
    np.testing.assert_array_equal(reach(alone), np.eye(3, dtype=np.float32))


def test_unreached_samples_have_no_opinion():
    """Two separate pairs and a loner; only one pair holds a label."""
    links = sp.csr_array(([1.0, 1.0], ([0, 2], [1, 3])), shape=(5, 5))
    got = propagate(normalized(links), np.array([0]), np.array([4], np.int32))
    assert got.labels.tolist() == [4, 4, -1, -1, -1]
    assert got.confidence.tolist() == [1, 1, 0, 0, 0]


def test_ties_go_to_the_lower_class():
    links = sp.csr_array(([1.0, 1.0], ([0, 1], [1, 2])), shape=(3, 3))
    got = propagate(normalized(links), np.array([0, 2]), np.array([3, 1], np.int32))
    assert got.labels.tolist() == [3, 1, 1]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(2, 40), alpha=st.floats(0.05, 0.99))
def test_random_graphs_against_a_dense_solve(seed, n, alpha):
    draw = np.random.default_rng(seed)
    directed = np.where(draw.random((n, n)) < 0.2, draw.random((n, n)), 0.0)
    np.fill_diagonal(directed, 0)
    graph = normalized(sp.csr_array(directed))
    labeled = draw.choice(n, 2, replace=False)
    labels = np.array([0, 1], np.int32)
    seeds = np.zeros((n, 2))
    seeds[labeled, labels] = 1 - alpha
    mass = np.linalg.solve(np.eye(n) - alpha * graph.similarity.toarray(), seeds)
    got = propagate(graph, labeled, labels, alpha=alpha)
    mass *= np.sqrt(np.sqrt(2) / mass.sum(0))
    clear = np.abs(mass[:, 0] - mass[:, 1]) > 1e-6 * mass.max()
    np.testing.assert_array_equal(got.labels[clear], mass.argmax(1)[clear])


def test_large_pools_keep_to_a_sample_of_names_and_take_the_labeled_in():
    pool, _, truth = make_pool(n=400, noise=0.3)
    kept = subset(pool, np.arange(400), 100, "graph-targets")
    graph = knn_graph(pool, neighbors=5, limit=100)
    np.testing.assert_array_equal(graph.positions, kept)
    labeled = np.arange(0, 400, 10)
    whole, rows = graph.with_labeled(labeled)
    outside = np.setdiff1d(labeled, kept)
    assert 0 < len(outside) < len(labeled)
    nodes = np.concatenate([kept, outside])
    np.testing.assert_array_equal(nodes[rows], labeled)
    # By definition: among the kept ones, and from each visitor to its nearest kept ones.
    places = features_of(pool)
    directed = np.zeros((len(nodes), len(nodes)))
    for i, position in enumerate(nodes):
        cosine = places[kept] @ places[position]
        near = sorted((-c, j) for j, c in enumerate(cosine.tolist()) if kept[j] != position)[:5]
        for negative, j in near:
            directed[i, j] = max(-negative, 0.0) ** 3
    expected = normalized(sp.csr_array(directed)).similarity.toarray()
    np.testing.assert_allclose(whole.similarity.toarray(), expected, atol=2e-5)
    got = propagate(whole, rows, truth[labeled].astype(np.int32))
    assert (got.labels[:100] == truth[kept]).mean() > 0.7
    everyone, same = graph.with_labeled(kept[:7])
    assert everyone.n == 100
    assert same.tolist() == list(range(7))
    ids = [f"sample-{i}" for i in range(400)]
    moved = np.random.default_rng(0).permutation(400)
    shuffled = ArrayPool(places[moved], ids=[ids[i] for i in moved], block_size=64)
    assert set(moved[subset(shuffled, np.arange(400), 100, "graph-targets")]) == set(kept), "by name, not by place"


def test_duplicates_and_empty_pools():
    one = np.eye(4)[:1]
    pool = ArrayPool(np.repeat(one, 6, 0), block_size=4)
    graph = normalized(knn_graph(pool, neighbors=2, power=1).edges)
    assert sorted(np.flatnonzero(graph.similarity.toarray()[5])) == [0, 1], "ties to the lower position"
    assert propagate(graph, np.array([3]), np.array([2], np.int32)).labels.tolist() == [2] * 6
    assert normalized(knn_graph(ArrayPool(np.zeros((0, 4)))).edges).n == 0
    lonely = normalized(knn_graph(ArrayPool(one)).edges)
    assert propagate(lonely, np.array([0]), np.array([1], np.int32)).labels.tolist() == [1]


def test_reach_is_the_correlation_of_a_dense_inverse_in_any_tiles(monkeypatch):
    draw = np.random.default_rng(4)
    places = draw.normal(size=(150, 6)).astype(np.float32)
    graph = neighbor_graph(places / np.linalg.norm(places, axis=1, keepdims=True))
    inverse = np.linalg.inv(np.eye(150) - 0.9 * graph.similarity.toarray())
    expected = inverse / np.sqrt(np.outer(np.diag(inverse), np.diag(inverse)))
    whole = reach(graph)
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    assert whole.min() >= 0
    monkeypatch.setattr(graph_module, "_TILE", 32)
    np.testing.assert_array_equal(reach(graph), whole)
