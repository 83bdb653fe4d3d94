"""The pass over a large pool: groups of like lengths against two products, fused rows against scipy."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from psp_ray.core.records import TextState
from psp_ray.neighbors.attach import Attached
from psp_ray.neighbors.space import ImageSpace
from psp_ray.posterior import sweep as sweep_module
from psp_ray.posterior.evidence import Weights
from psp_ray.posterior.fused import Heard, read
from psp_ray.posterior.members import PlaceSource
from psp_ray.posterior.opinions import ClassMeans
from psp_ray.posterior.sweep import LEAST, SLACK, Lengths, Opinions, sweep
from tests.helpers import ArrayPool
from tests.selftrain.conftest import unit


def world(n=1500, dim=12, n_classes=7, seed=0, sharpness=40.0, views=None):
    draw = np.random.default_rng(seed)
    rows = unit(draw.normal(size=(n, dim)) + draw.normal(size=dim))
    seen = None if views is None else unit(draw.normal(size=(n * views, dim))).reshape(n, views, dim)
    pool = ArrayPool(rows, seen, block_size=256)
    space = ImageSpace.fit(pool, whitening=0.85, shrinkage=0.1)
    text = TextState(
        unit(draw.normal(size=(n_classes, dim))).astype(np.float32),
        20.0,
        draw.normal(size=n_classes).astype(np.float32),
    )
    means = unit(draw.normal(size=(n_classes, dim))).astype(np.float32)
    bias = draw.normal(size=n_classes).astype(np.float32)
    weights = Weights(float(draw.uniform(0.3, 3)), 0.4, float(draw.uniform(0.2, 1)))
    return PlaceSource(pool, space), text, ClassMeans(means, bias, sharpness), weights, draw


def plain(source, text, means, weights):
    """Log odds (n, C) of all images, in float64."""
    encodings = np.concatenate([source.block(i)[0] for i in range(source.pool.n_blocks)]).astype(np.float64)
    moved = (encodings - source.space.mean) @ source.space.axes
    logits = weights.teacher * (text.logit_scale * encodings @ text.features.T + text.bias)
    if means is not None:
        places = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        logits += means.sharpness * places @ means.means.T + means.bias
    return weights.temperature * logits


@pytest.mark.parametrize("seed", range(4))
def test_groups_of_like_lengths_keep_to_the_slack(seed, monkeypatch):
    monkeypatch.setattr(sweep_module, "ALONE", 2)
    source, text, means, weights, _ = world(seed=seed, sharpness=5.0)
    opinions = Opinions(weights, text, means, source.space)
    encodings = np.concatenate([source.block(i)[0] for i in range(source.pool.n_blocks)])
    lengths = Lengths.unknown(source.pool.n).of(encodings, np.arange(source.pool.n), source.space)
    order, groups = opinions.groups(lengths)
    assert np.array_equal(np.sort(order), np.arange(source.pool.n))
    assert sum(span.stop - span.start for span, _ in groups) == source.pool.n
    expected, together = plain(source, text, means, weights), 0
    for span, length in groups:
        rows = order[span]
        if length is None:
            found = opinions.exact(encodings[rows])
            np.testing.assert_allclose(found, expected[rows], atol=1e-3)
            continue
        together += len(rows)
        matrix, bias = opinions.matrix(length)
        found = encodings[rows] @ matrix + bias
        assert np.abs(found - expected[rows]).max() < SLACK + 1e-3
    assert together > 0.5 * source.pool.n


@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("known", [True, False])
def test_a_pass_is_a_softmax_of_everything(views, known, monkeypatch):
    monkeypatch.setattr(sweep_module, "_HELD", 512 * 12)
    monkeypatch.setattr(sweep_module, "_AVERAGED", 512 * 12)
    monkeypatch.setattr(sweep_module, "_CACHED", 70)
    source, text, means, weights, draw = world(views=views, sharpness=5.0)
    pool, apart = source.pool, np.arange(3, 1500, 11)
    given = means if known else None
    heard, graph = Heard.nothing(pool.n), np.zeros((pool.n, 7))
    if known:
        odds = sp.random_array((30, 7), density=0.4, rng=draw, dtype=np.float32).tocsr()
        attached = Attached(
            draw.integers(0, 30, (pool.n, 3)).astype(np.int32), draw.uniform(size=(pool.n, 3)).astype(np.float16)
        )
        heard = Heard.of(attached, odds, 0.7)
        for row in range(pool.n):
            for member, share in zip(attached.members[row], attached.weights[row], strict=True):
                graph[row] += 0.7 * float(share) * odds[[int(member)]].toarray()[0]
    expected = softmax(plain(source, text, given, weights) + graph, axis=1)
    lengths = Lengths.unknown(pool.n)
    for _ in range(2):  # lengths are to be found, then known
        found, moments = sweep(source, Opinions(weights, text, given, source.space), heard, lengths, apart)
        high = expected.max(axis=1)
        np.testing.assert_allclose(found.confidence, high, rtol=2 * SLACK)
        sure = high > 1.05 * np.sort(expected, axis=1)[:, -2]
        assert np.array_equal(found.labels[sure], expected.argmax(axis=1)[sure])
        rest = np.setdiff1d(np.arange(pool.n), apart)
        kept = np.where(expected[rest] > LEAST, expected[rest], 0.0)
        features = pool.rows(rest).astype(np.float64)
        np.testing.assert_allclose(moments.count, kept.sum(axis=0), rtol=5e-3)
        np.testing.assert_allclose(moments.first, kept.T @ features, atol=5e-3 * len(rest))
        whole = (features * kept.sum(axis=1)[:, None]).T @ features
        np.testing.assert_allclose(moments.second, whole, atol=5e-3 * len(rest))
        np.testing.assert_array_equal(moments.second, moments.second.T)


def test_images_in_the_middle_of_the_pool_have_no_direction(monkeypatch):
    """Their place is zero, as everywhere; their length divides nothing, however many they are."""
    monkeypatch.setattr(sweep_module, "ALONE", 2)
    source, text, means, weights, _ = world(n=300)
    middle = np.eye(1, 12, dtype=np.float32)
    pool = ArrayPool(np.concatenate([np.repeat(middle, 100, axis=0), source.pool.rows(np.arange(300))]))
    space = ImageSpace(middle[0], source.space.axes, False)
    found, _ = sweep(
        PlaceSource(pool, space),
        *(Opinions(weights, text, means, space), Heard.nothing(400), Lengths.unknown(400), np.zeros(0, np.int64)),
    )
    logits = weights.teacher * (text.logit_scale * text.features[:, 0] + text.bias) + means.bias
    expected = softmax(weights.temperature * logits)
    np.testing.assert_allclose(found.confidence[:100], expected.max(), rtol=1e-3)
    np.testing.assert_array_equal(found.labels[:100], expected.argmax())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 200), st.floats(0.01, 200), st.booleans(), st.integers(0, 2**32 - 1))
def test_rows_are_read_as_scipy_reads_them(m, n_classes, spread, moved, seed):
    """With a scale for each row and a bias for each class, and without."""
    draw = np.random.default_rng(seed)
    logits = (spread * draw.normal(size=(m, n_classes))).astype(np.float32)
    least = (LEAST * draw.uniform(0.5, 2.0, n_classes)).astype(np.float32)
    given_too, odds = {}, logits
    if moved:
        scale = draw.uniform(0.5, 2.0, m).astype(np.float32)
        bias = draw.normal(size=n_classes).astype(np.float32)
        given_too, odds = {"scale": scale, "bias": bias}, scale[:, None] * logits + bias
    expected = softmax(odds.astype(np.float64), axis=1)
    known = read(logits.copy(), Heard.nothing(m), np.arange(m), least, **given_too)
    high = expected.max(axis=1)
    np.testing.assert_allclose(expected[np.arange(m), known.labels], high, rtol=2e-4)
    np.testing.assert_allclose(known.confidence, high, rtol=2e-4)
    got = np.zeros((m, n_classes))
    got[known.rows, known.classes] = known.values
    np.testing.assert_allclose(got, np.where(got > 0, expected, 0), rtol=2e-4)
    edge = np.abs(expected / least - 1.0) < 1e-3
    np.testing.assert_array_equal((got > 0)[~edge], (expected > least)[~edge])


def test_ties_go_to_the_lower_class():
    known = read(np.zeros((3, 5), np.float32), Heard.nothing(3), np.arange(3), np.full(5, LEAST, np.float32))
    np.testing.assert_array_equal(known.labels, 0)
    np.testing.assert_allclose(known.confidence, 0.2, rtol=1e-5)
