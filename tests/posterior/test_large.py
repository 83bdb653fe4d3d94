"""The posterior of large pools against that of small ones, plain loops, and its own promises on memory."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.records import TextState
from psp_ray.neighbors import cells as cells_module
from psp_ray.neighbors.graph import Graph, class_masses
from psp_ray.posterior import mixture as mixture_module
from psp_ray.posterior import reached as reached_module
from psp_ray.posterior import sweep as sweep_module
from psp_ray.posterior.evidence import Bought
from psp_ray.posterior.large import LargeEvidence
from psp_ray.posterior.mixture import weighted_means
from psp_ray.posterior.opinions import add_sparse, class_means, graph_opinion
from psp_ray.posterior.sweep import LEAST, SLACK
from psp_ray.selftrain.records import KnownLabels, ScoreRequest
from psp_ray.selftrain.service import PseudoLabeler
from tests.helpers import ArrayPool
from tests.posterior.test_evidence import accuracy, background_world, evidence, make_world, purchases
from tests.selftrain.conftest import unit

FEW = SelfTrainingSettings(graph_limit=400)


@pytest.fixture
def small_bounds(monkeypatch):
    """Pools of more than 500 images are large, with few cells."""
    monkeypatch.setattr(cells_module, "LARGE_POOL", 500)
    monkeypatch.setattr(cells_module, "CELLS", 32)


@pytest.fixture
def world(small_bounds):
    pool, text, truth = make_world(n=2000, noise=0.25, teacher=1.0)
    return pool, text, truth, purchases(truth, 3, 20)


@pytest.mark.parametrize("exact_digits", [True, False])
def test_shares_of_masses_are_those_of_a_dense_solve(world, monkeypatch, exact_digits):
    if exact_digits:
        monkeypatch.setattr(reached_module, "TOLERANCE", 1e-5)
        monkeypatch.setattr(reached_module, "REACH", 0.0)
    pool, _, _, bought = world
    found = LargeEvidence(pool, FEW)
    graph = Graph(found.core.similarity.astype(np.float64))
    inside = Bought(*(part[np.isin(bought.positions, found.core.positions)] for part in vars(bought).values()))
    rows = np.searchsorted(found.core.positions, inside.positions)
    exact = np.exp(graph_opinion(class_masses(graph, rows, inside.labels, 6)))
    odds = found.spoken(inside, 6, 0.5).odds.toarray()
    shares = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    if exact_digits:
        np.testing.assert_allclose(shares, exact, atol=1e-3)
    else:
        assert np.mean(shares.argmax(axis=1) == exact.argmax(axis=1)) > 0.94
        assert np.abs(shares - exact).mean() < 0.03


def test_reach_is_the_same_label_by_label_and_together(world):
    pool, _, _, bought = world
    one, other = LargeEvidence(pool, FEW), LargeEvidence(pool, FEW)
    for count in (20, 40, 60):
        apart = one.spoken(bought.until(count), 6, 0.5)
    whole = other.spoken(bought, 6, 0.5)
    np.testing.assert_allclose(apart.odds.toarray(), whole.odds.toarray(), atol=0.02)
    assert apart.sure == pytest.approx(whole.sure, abs=1e-3)


def test_a_class_without_a_label_is_heard_from_the_teacher(small_bounds):
    pool, text, truth = make_world(n=2000, noise=0.3, teacher=0.3)
    bought = purchases(truth, 6, 24)
    kept = truth[bought.positions] != 1
    bought = Bought(*(part[kept] for part in vars(bought).values()))
    found = LargeEvidence(pool, FEW).infer(bought, text)
    mine = np.flatnonzero(truth == 1)
    assert (found.at(mine).argmax(axis=1) == 1).mean() > 0.8
    labels, _ = found.likeliest(mine)
    assert (labels == 1).mean() > 0.8


def test_weighted_means_of_equal_masses_are_class_means():
    draw = np.random.default_rng(0)
    places = unit(draw.normal(size=(80, 12))).astype(np.float32)
    teacher, prior = (draw.normal(size=(80, 5)).astype(np.float32) for _ in range(2))
    rows, labels = np.arange(0, 80, 9), draw.integers(0, 5, 9).astype(np.int32)
    expected, _ = class_means(prior, teacher, places, rows, labels, sharpness=20.0, label_weight=3.0, steps=4)
    owned = np.zeros((5, 12), np.float32)
    for row, label in zip(rows, labels, strict=True):
        owned[label] += 3.0 * places[row]
    mass, unknown = np.ones(80, np.float32), np.ones(80, np.float32)
    unknown[rows] = 0.0
    odds = np.exp(teacher.astype(np.float64))
    preferred = (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0)
    found = weighted_means(prior, places, mass, unknown, owned, preferred, sharpness=20.0, steps=4)
    np.testing.assert_allclose(found.means, expected.means, atol=1e-5)
    np.testing.assert_allclose(found.bias, expected.bias, atol=1e-5)


def test_sums_over_few_shares_are_products_over_all(monkeypatch):
    """Rows so sure that what is left out doesn't count, or all of them, some rows at a time."""
    monkeypatch.setattr(mixture_module, "_ENTRIES", 7 * 60)
    draw = np.random.default_rng(3)
    places = unit(draw.normal(size=(200, 60))).astype(np.float32)
    truth = draw.integers(0, 60, 200)
    mass, owned = draw.gamma(1.0, size=200).astype(np.float32), np.zeros((60, 60), np.float32)
    preferred = np.full(60, 1 / 60)
    found = {}
    for sharpness, height in ((14.0, 1), (14.0, 10**6), (0.5, 1), (0.5, 10**6)):
        monkeypatch.setattr(mixture_module, "SPARSE", height)  # 1: always single shares
        prior = (sharpness * np.eye(60)[truth]).astype(np.float32)
        found[sharpness, height] = weighted_means(prior, places, mass, mass, owned, preferred, sharpness=10.0, steps=3)
    for sharpness in (14.0, 0.5):
        one, other = found[sharpness, 1], found[sharpness, 10**6]
        assert np.abs((one.means * other.means).sum(axis=1) - 1).max() < 1e-3
        np.testing.assert_allclose(one.bias, other.bias, atol=1.5e-2)


def test_an_image_counts_as_many_as_it_stands_for():
    """Two copies of an image are one of mass two."""
    draw = np.random.default_rng(1)
    places = unit(draw.normal(size=(30, 6))).astype(np.float32)
    prior = draw.normal(size=(30, 3)).astype(np.float32)
    mass = draw.integers(1, 4, 30)
    copies = np.repeat(np.arange(30), mass)
    owned, even = np.zeros((3, 6), np.float32), np.full(3, 1 / 3)
    whole = mass.astype(np.float32)
    found = weighted_means(prior, places, whole, whole, owned, even, sharpness=10.0, steps=3)
    ones = np.ones(len(copies), np.float32)
    expected = weighted_means(prior[copies], places[copies], ones, ones, owned, even, sharpness=10.0, steps=3)
    np.testing.assert_allclose(found.means, expected.means, atol=1e-5)


def test_blocks_rows_and_the_pass_say_the_same(world):
    pool, text, _, bought = world
    posterior = LargeEvidence(pool, FEW).infer(bought, text)
    table = posterior.table()
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-5)
    some = np.array([3, 255, 256, 900, 1999])
    np.testing.assert_allclose(posterior.at(some), table[some], atol=1e-5)
    labels, confidence = posterior.likeliest(np.arange(pool.n))
    runner_up = np.sort(table, axis=1)[:, -2]
    clear = table.max(axis=1) > np.exp(2 * SLACK) * runner_up
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(labels[clear], table.argmax(axis=1)[clear])
    assert np.abs(np.log(confidence / table.max(axis=1))).max() < 2 * SLACK + 1e-4


def test_moments_equal_a_plain_loop(world):
    pool, text, _, bought = world
    posterior = LargeEvidence(pool, FEW).infer(bought, text)
    table, beside = posterior.table(), posterior.apart
    assert np.isin(bought.positions, beside).all()
    assert 400 < len(beside) < 500
    found = posterior.moments()
    count, first, second = np.zeros(6), np.zeros((6, pool.dim)), np.zeros((pool.dim, pool.dim))
    for position in np.setdiff1d(np.arange(2000), beside).tolist():
        f = pool.rows(np.array([position]))[0].astype(np.float64)
        for c in range(6):
            if table[position, c] > LEAST:
                count[c] += table[position, c]
                first[c] += table[position, c] * f
                second += table[position, c] * np.outer(f, f)
    np.testing.assert_allclose(found.count, count, atol=2e-2)
    np.testing.assert_allclose(found.first, first, atol=2e-2)
    np.testing.assert_allclose(found.second, second, atol=2e-2)


def test_members_tell_about_as_much_as_the_whole_pool(world):
    pool, text, truth, bought = world
    whole = evidence(pool, SelfTrainingSettings()).infer(bought, text)
    few = LargeEvidence(pool, FEW).infer(bought, text)
    assert accuracy(few.table(), truth, bought) > accuracy(whole.table(), truth, bought) - 0.03
    assert accuracy(few.table(), truth, bought) > np.mean(text.features.argmax(axis=0) >= 0) * 0.5


def test_nothing_bought_is_the_teacher(world):
    pool, text, _, bought = world
    found = LargeEvidence(pool, FEW).infer(bought.until(0), text).table()
    logits = text.logit_scale * unit(pool.rows(np.arange(pool.n)).astype(np.float32)) @ text.features.T
    np.testing.assert_array_equal(found.argmax(axis=1), logits.argmax(axis=1))


def test_held_out_labels_leave_no_trace_in_what_is_foretold_without_them(world):
    """The same kept labels, whatever the held ones say."""
    pool, text, _, bought = world
    labeler = PseudoLabeler(pool, FEW)
    said = []
    for turned in (False, True):
        labels = bought.labels.copy()
        if turned:
            labels[0::4] = (labels[0::4] + 1) % 6  # the first fold's
        known = KnownLabels(bought.positions, labels, bought.rounds)
        targets = labeler.soft_labels(text, known, 4)
        said.append(targets.held_out[0].probabilities.argmax(axis=1))
        assert len(targets.held_out) == 2
        assert targets.soft.rest is not None
    assert np.mean(said[0] == said[1]) > 0.97  # but for the three weights, which all labels tell


def test_pseudo_labels_come_from_everywhere(world):
    pool, text, truth, bought = world
    labeler = PseudoLabeler(pool, SelfTrainingSettings(graph_limit=200, pseudo_cap=0, confidence_min=0.5))
    known = KnownLabels(bought.positions, bought.labels, bought.rounds)
    rest = np.setdiff1d(np.arange(pool.n), bought.positions)
    found = labeler.select(labeler.score(ScoreRequest(4, text, rest)), known, bought.positions[-20:])
    assert len(found.positions) > 600
    assert not np.isin(bought.positions, found.positions).any()
    assert np.mean(truth[found.positions] == found.labels) > 0.8


def test_sparse_addition():
    draw = np.random.default_rng(2)
    table, dense = (draw.normal(size=(7, 5)).astype(np.float32) for _ in range(2))
    dense[draw.uniform(size=(7, 5)) < 0.5] = 0
    got = table.copy()
    add_sparse(got, sp.csr_array(dense), 2.0)
    np.testing.assert_allclose(got, table + 2 * dense, rtol=1e-6)


def test_memory_does_not_hold_a_table_of_the_pool(small_bounds, monkeypatch):
    """Bytes that are allocated, counted: 12,000 more images must not add the 39 MB of their probabilities."""
    monkeypatch.setattr(cells_module, "FITTED", 1024)
    monkeypatch.setattr(sweep_module, "_HELD", 1024 * 8)
    peaks = []
    for n in (4_096, 16_384):
        draw = np.random.default_rng(0)
        centers = unit(draw.normal(size=(800, 8)))
        truth = draw.integers(0, 800, n).astype(np.int32)
        pool = ArrayPool(unit(centers[truth] + 0.05 * draw.normal(size=(n, 8))), block_size=512)
        text = TextState(centers.astype(np.float32), 20.0)
        labeler = PseudoLabeler(pool, SelfTrainingSettings(graph_limit=500))
        tracemalloc.start()
        positions = np.arange(60)
        known = KnownLabels.at_once(positions, truth[:60])
        labeler.select(labeler.score(ScoreRequest(1, text, np.arange(60, n))), known, positions)
        labeler.soft_labels(text, known, 2)
        labeler.doubt(text, known)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (16_384 - 4_096) < 300


def test_a_graph_of_something_else_than_the_classes_is_doubted_in_a_large_pool_too(small_bounds):
    pool, text, truth = background_world(1)
    bought = purchases(truth, 1, 20, seed=1)
    everyone = SelfTrainingSettings(graph_limit=1000)
    small, large = evidence(pool).infer(bought, text), LargeEvidence(pool, everyone).infer(bought, text)
    assert small.weights.graph < 0.2
    assert large.weights.graph < 0.2
    assert accuracy(large.table(), truth, bought) > 0.8
