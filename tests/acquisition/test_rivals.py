"""The closest rivals against their papers: cases whose answer the rule determines, and plain slow loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import chisquare
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors

from psp_ray.acquisition import _cluster, _cover, create
from psp_ray.acquisition.cbsq import by_share, thresholds
from psp_ray.acquisition.dropquery import mask
from psp_ray.acquisition.pcb import balanced_as_released
from psp_ray.acquisition.probcover import other_kind, pure_radius
from psp_ray.acquisition.typiclust import turn_order
from psp_ray.acquisition.uherding import bandwidth, best_temperature, calibration_error, uncertainty
from psp_ray.config.acquisition import MaxHerdingSettings, ProbCoverSettings
from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import Feedback
from tests.acquisition.test_baselines import blobs, half, propose, state_of
from tests.helpers import ArrayPool
from tests.policy.worlds import World, unit

# -- TypiClust -------------------------------------------------------------------------------------------------------


def test_typiclust_takes_the_densest_point_of_the_largest_blobs_without_labels():
    sizes = [30, 20, 12, 40]
    x, which = blobs(sizes)
    labeled = [int(np.flatnonzero(which == 3)[0])]
    state = state_of(len(x), np.eye(5), 3, labeled, [0], round=2)
    chosen = propose("typiclust", x, state, 32)
    assert which[chosen].tolist() == [0, 1, 2]  # 4 clusters, the largest of those without a label first
    for index, pick in enumerate(chosen):
        members = np.flatnonzero(which == index)
        k = min(20, len(members) // 2)
        distance = NearestNeighbors(n_neighbors=k + 1).fit(half(x[members])).kneighbors(half(x[members]))[0]
        assert pick == members[distance[:, 1:].mean(axis=1).argmin()]


def test_typiclust_s_neighbors_are_those_without_a_label():
    """Six samples of one cluster, three of them bought: the densest of the others, by their own distances."""
    angle = np.array([0.0, 0.01, 0.02, 0.3, 0.4, 0.42, 0.9])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    state = state_of(7, np.eye(2), 1, [0, 1, 2], [0, 0, 0], round=2)
    # one cluster: alone, sample 1 is the densest; of 3, 4, 5, 6 with two neighbors each, 4 is
    assert propose("typiclust", x, state, typiclust_clusters=1) == [4]


def test_typiclust_serves_clusters_in_an_order_that_is_fixed_beforehand():
    sizes, labeled = [7, 9, 6, 3], [2, 0, 0, 0]
    labels = np.repeat([0, 1, 2, 3], sizes)
    free = np.ones(25, bool)
    free[: labeled[0]] = False
    # 1, 2 (no label, larger first), 0, and again; 3 is too small to be served before they are empty
    expected = [1, 2, 0] * 5 + [1, 2] + [1, 1, 1] + [3, 3, 3]
    assert turn_order(labels, free, 23, 5).tolist() == expected
    assert turn_order(labels, free, 4, 5).tolist() == [1, 2, 0, 1]


# -- CB+SQ -----------------------------------------------------------------------------------------------------------


def test_cbsq_s_first_batch_is_the_nearest_to_each_center_of_images_with_their_text():
    sizes = [25, 15]
    x, which = blobs(sizes, spread=0.1)
    text = np.eye(3)[:2]
    chosen = propose("cbsq", x, state_of(40, text, 2))
    assert which[chosen].tolist() == [0, 1]
    guided = unit(np.concatenate([half(x), softmax(10.0 * half(x) @ text.T, axis=1) @ text], axis=1))
    for index, pick in enumerate(chosen):
        members = np.flatnonzero(which == index)
        distances = cdist(guided[members], guided[members].mean(axis=0, keepdims=True), "cosine")
        assert pick == members[distances.argmin()]


def test_text_separates_what_images_do_not():
    """Images of two classes in one blob, told apart by the prompt: each class is one cluster."""
    rng = np.random.default_rng(0)
    x = unit(np.array([1.0, 0.0, 0.0]) + np.array([0.0, 0.02, 0.0]) * np.sign(rng.normal(size=(60, 1))))
    text = np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    chosen = propose("cbsq", x, state_of(60, text, 2, scale=200.0))
    assert x[chosen, 1].prod() < 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_cbsq_serves_the_smallest_share_and_of_equals_the_largest_cluster(seed):
    """Against the plain loop: as many turns as there are samples, each looking at all clusters."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    labels = rng.integers(int(rng.integers(1, 8)), size=n)
    found = _cluster.Clusters(labels, rng.random(n), np.zeros((0, 0), np.float32))
    free = rng.random(n) < 0.7
    served = {c: int(((labels == c) & ~free).sum()) for c in np.unique(labels)}
    size = {c: int((labels == c).sum()) for c in served}
    left = {c: sorted(np.flatnonzero((labels == c) & free), key=lambda i: found.distances[i]) for c in served}
    expected = []
    while any(left.values()):
        c = min((c for c in left if left[c]), key=lambda c: (served[c] / size[c], -size[c], c))
        expected.append(int(left[c].pop(0)))
        served[c] += 1
    assert list(by_share(found, free)) == expected


def test_thresholds_are_of_the_true_class_whatever_is_predicted():
    p = np.array([[0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    got = thresholds(p, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(got, [0.8, 0.7, np.inf])  # the third is of class 1, taken for class 0 with 0.6


def test_cbsq_passes_over_the_sure_until_nothing_else_is_left():
    text = np.eye(2)
    angle = np.concatenate([np.linspace(0.02, 0.1, 10), np.linspace(0.5, 0.7, 10)])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # ten surely class 0, ten not so
    state = state_of(20, text, 8, labeled=[0, 10], labels=[0, 0], round=2)
    p = softmax(10.0 * half(x) @ text.T, axis=1)
    sure = np.flatnonzero(p[:, 0] >= p[[0, 10], 0].mean())
    chosen = propose("cbsq", x, state)
    assert not set(chosen) & set(sure)
    everything = propose("cbsq", x, state_of(20, text, 18, [0, 10], [0, 0], round=2))
    last = [i for i in everything if i in sure]
    assert everything[-len(last) :] == last  # asked about after all others, least sure first
    assert last == sorted(last, key=lambda i: p[i, 0])
    assert set(propose("cbsq", x, state, cbsq_selective=False)) & set(sure)


# -- PCB as released -------------------------------------------------------------------------------------------------


def released(predicted, counts, n_query, rng):
    """The rule in words, one draw at a time."""
    counts, chosen = counts.copy(), []
    for _ in range(n_query):
        least = int(np.argmin(counts))
        open_ = [i for i in range(len(predicted)) if i not in chosen]
        fitting = [i for i in open_ if predicted[i] == least]
        chosen.append(int(rng.choice(fitting or open_)))
        counts[least] += bool(fitting)
    return chosen


def test_released_draws_uncounted_samples_from_all_that_are_left():
    """Class 2 never occurs, so that three of five picks are uncounted: how often each sample is taken."""
    predicted, counts = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.zeros(3, int)
    rng = np.random.default_rng(0)
    ours, theirs = np.zeros(8), np.zeros(8)
    for _ in range(4000):
        orders = rng.permutation(8), rng.permutation(8)
        ours[balanced_as_released(predicted, counts, 5, *orders)[2:]] += 1
        theirs[released(predicted, counts, 5, rng)[2:]] += 1
    np.testing.assert_allclose(ours.sum(), theirs.sum())
    assert chisquare(ours, np.full(8, ours.mean())).pvalue > 1e-3
    assert chisquare(theirs, np.full(8, theirs.mean())).pvalue > 1e-3


def test_a_class_that_was_served_is_not_drawn_less_often():
    """One candidate of class 0 is served; class 2 has none, so that the rest is drawn from 19 and 20."""
    predicted, counts = np.repeat([0, 1], [20, 20]), np.array([0, 5, 1])
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(3000):
        chosen = balanced_as_released(predicted, counts, 11, rng.permutation(40), rng.permutation(40))
        assert predicted[chosen[0]] == 0
        shares.append((predicted[chosen[1:]] == 0).sum())
    first = [released(predicted, counts, 11, rng) for _ in range(1000)]
    expected = np.mean([(predicted[c[1:]] == 0).sum() for c in first])
    assert np.mean(shares) == pytest.approx(expected, abs=0.2)


# -- covers ----------------------------------------------------------------------------------------------------------


def plain_greedy(kernel, weights, covered, count, keys):
    """All gains anew for every pick; ties to the smaller key."""
    chosen = []
    for _ in range(count):
        gains = weights @ np.maximum(kernel - covered[:, None], 0.0)
        order = np.lexsort((keys, -np.round(gains, 5)))
        best = next(int(i) for i in order if i not in chosen)
        chosen.append(best)
        covered = np.maximum(covered, kernel[:, best])
    return chosen


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["smooth", "hat"]))
def test_the_lazy_greedy_is_the_plain_one(seed, kind):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(2, 70))
    x = unit(rng.normal(size=(m, 4))).astype(np.float32)
    width = float(rng.uniform(0.2, 1.5))
    kernel = _cover.gaussian(width) if kind == "smooth" else _cover.top_hat(width)
    weights, keys = rng.random(m), rng.permutation(m).astype(np.uint64)
    distances = cdist(x.astype(np.float64), x.astype(np.float64))
    dense = np.exp(-((distances / width) ** 2)) if kind == "smooth" else (distances < width).astype(float)
    centers = x[rng.integers(m, size=int(rng.integers(0, 4)))]
    cover = _cover.Cover(x, kernel, weights)
    cover.add(centers)
    start = np.zeros(m)
    for center in centers:
        away = np.linalg.norm(x - center, axis=1)
        start = np.maximum(start, np.exp(-((away / width) ** 2)) if kind == "smooth" else away < width)
    count = int(rng.integers(1, m + 1))
    got = _cover.greedy(cover, count, keys)
    assert len(set(got.tolist())) == count
    expected = plain_greedy(dense, weights, start, count, keys)
    if kind == "hat":
        assert got.tolist() == expected
    else:  # gains a rounding apart may change places: both cover as much after each pick

        def coverage(chosen):
            return [weights @ np.maximum(start, dense[:, chosen[: k + 1]].max(axis=1)) for k in range(count)]

        np.testing.assert_allclose(coverage(got.tolist()), coverage(expected), atol=2e-4)


def test_maxherding_is_the_plain_greedy_of_scikit_learn_s_kernel():
    world = World(n=150, n_classes=5, dim=12, block_size=64)
    labeled = np.array([4, 60, 120])
    state = world.state(2, 9, np.setdiff1d(np.arange(150), labeled), labeled, world.truth[labeled])
    got = create("maxherding", world.pool, Config().policy).propose(state).positions
    x = half(world.features)
    rest = state.unlabeled
    covered = rbf_kernel(x[rest], x[labeled], gamma=1.0).max(axis=1)
    kernel = rbf_kernel(x[rest], gamma=1.0)
    keys = np.concatenate([world.pool.block(i).keys for i in range(world.pool.n_blocks)])[rest]
    assert got.tolist() == rest[plain_greedy(kernel, np.ones(len(rest)), covered, 9, keys)].tolist()


def test_maxherding_starts_in_the_densest_place_and_goes_on_elsewhere():
    x, which = blobs([40, 25, 10])
    chosen = create("maxherding", ArrayPool(x), MaxHerdingSettings(maxherding_bandwidth=0.5)).propose(
        state_of(75, np.eye(4), 3)
    )
    assert which[chosen.positions].tolist() == [0, 1, 2]


def test_large_pools_are_covered_in_part(monkeypatch):
    monkeypatch.setattr(_cover, "WITHIN", 60)
    world = World(n=200, block_size=64)
    for name in ("maxherding", "probcover", "uherding"):
        strategy = create(name, world.pool, Config().policy)
        for state in (world.state(n_query=5), world.state(1, 80)):  # a query larger than the part enlarges it
            assert len(set(strategy.propose(state).positions.tolist())) == state.n_query


def test_probcover_s_radius_is_the_largest_at_which_balls_are_pure():
    rng = np.random.default_rng(0)
    x, kinds = rng.normal(size=(200, 3)), rng.integers(3, size=200)
    x[:, 0] += 2.0 * kinds
    distances = cdist(x, x)
    limits = other_kind(x.astype(np.float32), kinds)
    np.testing.assert_allclose(
        limits, np.where(kinds[:, None] != kinds[None], distances, np.inf).min(axis=1), rtol=1e-4
    )

    def purity(radius):
        inside = distances < radius
        return np.mean([len(set(kinds[row])) == 1 for row in inside])

    for wanted in (0.95, 0.8, 0.5, 1.0):
        radius = pure_radius(x.astype(np.float32), kinds, wanted)
        assert purity(radius) >= wanted
        assert purity(radius * 1.0003) < wanted
    assert pure_radius(x.astype(np.float32), np.zeros(200, int), 0.95) == np.inf


def test_probcover_by_hand():
    """Balls of radius 0.15 on a circle: six, then three samples; what a label covers counts no more."""
    angle = np.array([0.0, 0.05, 0.1, 0.1, 0.15, 0.2, 1.0, 1.05, 1.1, 2.0])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    pool = ArrayPool(x)
    settings_ = ProbCoverSettings(probcover_delta=0.15)
    text = np.eye(2)
    chosen = create("probcover", pool, settings_).propose(state_of(10, text, 3)).positions.tolist()
    assert chosen[0] in (2, 3)  # the only ones within 0.15 of all six; 1 and 4 reach five
    assert chosen[1] in (6, 7, 8)
    assert chosen[2] == 9
    later = state_of(10, text, 2, labeled=[7], labels=[0], round=2)
    chosen = create("probcover", pool, settings_).propose(later).positions.tolist()
    assert chosen[0] in (2, 3)
    assert chosen[1] == 9


def test_probcover_finds_its_radius_by_clusters_and_covers_blob_after_blob():
    x, which = blobs([50, 30, 20])
    chosen = propose("probcover", x, state_of(100, np.eye(4)[:3], 3))
    assert which[chosen].tolist() == [0, 1, 2]


# -- UHerding --------------------------------------------------------------------------------------------------------


def test_uncertainty_and_bandwidth_by_hand():
    np.testing.assert_allclose(uncertainty(np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]])), [0.5, 1.0])
    np.testing.assert_array_equal(uncertainty(np.ones((3, 1))), 0.0)
    x = np.array([[0.0, 0.0], [0.0, 0.0], [0.3, 0.0], [1.0, 0.0]], np.float32)
    assert bandwidth(x) == pytest.approx(0.3)  # the copies don't count
    assert bandwidth(x[:2]) == bandwidth(x[:1]) == 1.0


def test_calibration_error_by_a_plain_loop():
    rng = np.random.default_rng(0)
    confidence, right = rng.uniform(0.05, 1.0, 200), rng.random(200) < 0.6
    confidence[:3] = 0.25, 0.5, 1.0  # bins are closed above
    expected = 0.0
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (confidence > low) & (confidence <= low + 0.25)
        expected += abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
    assert calibration_error(confidence, right, 4) == pytest.approx(expected)


def test_the_temperature_of_logits_three_times_too_large_is_three():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5))
    labels = (np.cumsum(softmax(logits, axis=1), axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    assert best_temperature(3.0 * logits, labels) == pytest.approx(3.0, abs=0.3)
    assert best_temperature(np.zeros((0, 5)), np.zeros(0, int)) == 1.0


def test_uherding_without_labels_is_maxherding():
    world = World(n=120)
    state = world.state(n_query=6)
    positions = [create(n, world.pool, Config().policy).propose(state).positions for n in ("maxherding", "uherding")]
    np.testing.assert_array_equal(*positions)


def test_uherding_weighs_by_the_calibrated_margin_and_narrows_its_kernel():
    world = World(n=120, n_classes=4, dim=8, block_size=50)
    labeled = np.array([0, 30, 60, 90])
    first = world.state(1, 4)
    strategy = create("uherding", world.pool, Config().policy)
    proposal = strategy.propose(first)
    feedback = Feedback(
        **{**vars(world.feedback(first, proposal)), "labels": (world.truth[proposal.positions] + 1) % 4}
    )
    strategy.observe(feedback)  # four wrong labels: the prompt is far too sure
    assert float(strategy.state_dict()["temperature"]) > 15
    state = world.state(2, 5, np.setdiff1d(np.arange(120), labeled), labeled, world.truth[labeled])
    got = strategy.propose(state).positions
    x, rest = half(world.features), state.unlabeled
    p = softmax(50.0 / float(strategy.state_dict()["temperature"]) * x[rest] @ world.text.T.astype(float), axis=1)
    top = np.sort(p, axis=1)
    width = cdist(x[labeled], x[labeled])[np.triu_indices(4, 1)].min()
    covered = np.exp(-((cdist(x[rest], x[labeled]) / width) ** 2)).max(axis=1)
    keys = np.concatenate([world.pool.block(i).keys for i in range(world.pool.n_blocks)])[rest]
    kernel = np.exp(-((cdist(x[rest], x[rest]) / width) ** 2))
    expected = plain_greedy(kernel, 1 - (top[:, -1] - top[:, -2]), covered, 5, keys)
    assert got.tolist() == rest[expected].tolist()


# -- DropQuery and k-means -------------------------------------------------------------------------------------------


def test_dropout_masks_keep_their_share_and_belong_to_the_sample():
    keys = np.arange(1000, dtype=np.uint64)
    kept = mask(keys, 30, 0.75, seed=3)
    assert kept.shape == (1000, 30)
    assert kept.mean() == pytest.approx(0.25, abs=0.01)
    assert np.abs(kept.mean(axis=0) - 0.25).max() < 0.06
    assert np.abs(np.corrcoef(kept.T) - np.eye(30)).max() < 0.15
    np.testing.assert_array_equal(mask(keys[500:], 30, 0.75, seed=3), kept[500:])
    assert mask(keys, 30, 0.0, seed=3).all()


def test_dropquery_asks_where_dropout_changes_the_class_and_once_in_each_cluster():
    """Features of one entry lose their class with it; those that say it in 32 entries don't."""
    rng = np.random.default_rng(0)
    text = np.zeros((2, 66))
    text[0, :32], text[1, 32:64] = 32**-0.5, 32**-0.5
    sure = np.repeat(text, 40, axis=0) + 0.001 * rng.normal(size=(80, 66))
    near = 0.5 * (text[0] + text[1])
    torn = [near + 0.8 * sign * np.eye(66)[64] + 0.01 * rng.normal(size=66) for sign in (-1, 1) for _ in range(20)]
    x = unit(np.concatenate([sure, torn]))
    state = state_of(120, text, 2, labeled=[0, 40], labels=[0, 1], round=2)
    chosen = propose("dropquery", x, state)
    assert np.sign(np.round(x[chosen, 64], 1)).tolist() in ([1, -1], [-1, 1])
    many = propose("dropquery", x, state_of(120, text, 60, [0, 40], [0, 1], round=2))
    assert len(set(many)) == 60  # more than there are candidates: the rest by the changes seen
    first = propose("dropquery", x, state_of(120, text, 2))
    assert len({int(i) // 40 for i in first}) == 2  # without labels: one of each of two clusters of all


def test_dropquery_without_dropout_has_no_candidates_and_goes_by_keys():
    world = World(n=60)
    state = world.state(2, 7, np.arange(5, 60), np.arange(5), world.truth[:5])
    chosen = create("dropquery", world.pool, Config(dropquery_rate=0.0).policy).propose(state).positions
    keys = world.pool.block(0).keys[5:]
    assert chosen.tolist() == (5 + np.argsort(keys)[:7]).tolist()


def test_kmeans_takes_what_is_nearest_to_the_centers_of_clusters_without_labels():
    x, which = blobs([30, 20, 40, 10])
    assert sorted(which[propose("kmeans", x, state_of(100, np.eye(5), 4))].tolist()) == [0, 1, 2, 3]
    labeled = [int(np.flatnonzero(which == b)[0]) for b in (0, 2)]
    chosen = propose("kmeans", x, state_of(100, np.eye(5), 2, labeled, [0, 0], round=2))
    assert which[chosen].tolist() == [1, 3]  # four clusters, two of them known
    for pick in chosen:
        members = np.flatnonzero(which == which[pick])
        center = half(x[members]).mean(axis=0)
        assert pick == members[np.linalg.norm(half(x[members]) - center, axis=1).argmin()]


# -- names -----------------------------------------------------------------------------------------------------------


def test_the_old_name_says_the_new_one():
    pool = ArrayPool(np.eye(3))
    with pytest.raises(ConfigError, match="'trustset' is called 'el2n-policy' now"):
        create("trustset", pool)
    with pytest.raises(ConfigError, match="'el2n-policy' now"):
        create("trustset+pcb", pool)


def test_pcoreset_goes_by_probabilities_and_not_by_labels():
    """Two samples of equal prediction far apart in the image space: one of them is enough."""
    text = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    x = unit(np.array([[1.0, 0, 0.9], [1.0, 0, -0.9], [0, 1.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.88]]))
    state = state_of(5, text, 2, labeled=[0], labels=[1], round=2, scale=5.0)  # the label is 1, the prediction 0
    assert create("pcoreset", ArrayPool(x), Config().policy).propose(state).positions.tolist() == [2, 3]
