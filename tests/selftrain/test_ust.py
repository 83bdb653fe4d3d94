"""UST scores against their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from psp_ray.core.records import TextState
from psp_ray.selftrain import ust
from psp_ray.selftrain.ust import score_views
from tests.selftrain.conftest import make_pool, slow_scores, unit


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 9),
    n_views=st.integers(1, 5),
    n_classes=st.integers(1, 7),
    scale=st.floats(1, 100),
    seed=st.integers(0, 2**16),
)
def test_scores_equal_their_definition(m, n_views, n_classes, scale, seed):
    draw = np.random.default_rng(seed)
    views = unit(draw.normal(size=(m, n_views, 8))).astype(np.float16)
    text = TextState(unit(draw.normal(size=(n_classes, 8))).astype(np.float32), scale)
    average, per_view = slow_scores(views, text)
    for mode in ("confidence", "averaged-class"):
        got = score_views(views, text, uncertainty=mode, probabilities=True)
        best = average.argmax(1)
        np.testing.assert_array_equal(got.labels, best)
        np.testing.assert_allclose(got.confidence, average.max(1), atol=2e-5)
        np.testing.assert_allclose(got.probabilities, average, atol=2e-5)
        chosen = per_view.max(2) if mode == "confidence" else per_view[np.arange(m), :, best]
        np.testing.assert_allclose(got.uncertainty, chosen.std(axis=1), atol=2e-5)
    assert got.labels.dtype == np.int32
    assert got.confidence.dtype == got.uncertainty.dtype == np.float32
    np.testing.assert_allclose(got.probabilities.sum(1), 1.0, rtol=1e-12)


def test_probabilities_agree_with_scipy_at_large_logits():
    views = np.eye(4, dtype=np.float32)[:, None, :]
    text = TextState(np.eye(4, dtype=np.float32), 1000.0)
    got = score_views(views, text, probabilities=True)
    np.testing.assert_allclose(got.probabilities, softmax(1000.0 * np.eye(4), axis=1))
    np.testing.assert_array_equal(got.confidence, 1.0)


def test_the_two_uncertainties_differ_where_views_disagree():
    """Two views, each sure of another class: their own confidences agree, the averaged class's probability does not."""
    views = np.eye(2, dtype=np.float32)[None]
    text = TextState(np.eye(2, dtype=np.float32), 50.0)
    assert score_views(views, text, uncertainty="confidence").uncertainty[0] == pytest.approx(0.0, abs=1e-6)
    assert score_views(views, text, uncertainty="averaged-class").uncertainty[0] == pytest.approx(0.5, abs=1e-6)


def test_ties_go_to_the_lowest_class():
    text = TextState(np.ones((5, 4), np.float32) / 2, 10.0)
    assert score_views(np.full((3, 2, 4), 0.5, np.float16), text).labels.tolist() == [0, 0, 0]


def test_bits_do_not_depend_on_chunks_asked_for(monkeypatch):
    """Rows of a block are scored in fixed chunks: asking for some of them gives the same bits."""
    pool, text, _ = make_pool(n=200, n_views=3)
    views = np.concatenate([pool.block(i, views=True).views for i in range(pool.n_blocks)])
    monkeypatch.setattr(ust, "_CHUNK_LOGITS", 3 * 6 * 32)
    whole = score_views(views, text, probabilities=True)
    wanted = np.zeros(200, bool)
    wanted[[3, 70, 71, 199]] = True
    some = score_views(views, text, probabilities=True, wanted=wanted)
    for name in ("labels", "confidence", "uncertainty", "probabilities"):
        np.testing.assert_array_equal(getattr(some, name)[wanted], getattr(whole, name)[wanted])
    assert not some.confidence[100:128].any(), "a chunk without wanted rows is not computed"
