"""Pools, teachers and a slow, plain BPLS for the tests."""

import numpy as np
import pytest
from scipy.special import softmax

from psp_ray.core.records import TextState
from tests.helpers import ArrayPool


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make_pool(n=300, d=12, n_views=3, n_classes=6, seed=0, block_size=64, scale=8.0, noise=0.5):
    """A pool around class directions, with views, and a teacher that is right more often than not."""
    draw = np.random.default_rng(seed)
    centers = unit(draw.normal(size=(n_classes, d)))
    truth = draw.integers(0, n_classes, n)
    features = unit(centers[truth] + noise * draw.normal(size=(n, d)))
    views = unit(features[:, None] + 0.3 * noise * draw.normal(size=(n, n_views, d)))
    text = TextState(unit(centers + 0.3 * draw.normal(size=centers.shape)).astype(np.float32), scale)
    return ArrayPool(features, views if n_views else None, block_size=block_size), text, truth


@pytest.fixture
def pool():
    return make_pool()


def slow_scores(views, text):
    """From the definition in float64: averaged-logit probabilities (n, C), per-view probabilities (n, L, C)."""
    logits = text.logit_scale * np.asarray(views, np.float64) @ text.features.T.astype(np.float64)
    return softmax(logits.mean(axis=1), axis=-1), softmax(logits, axis=-1)


def slow_bpls(positions, labels, confidence, uncertainty, probabilities, settings):
    """BPLS with loops over lists. Returns {position: (label, confidence)}."""
    rows = range(len(positions))
    kept = {
        i: (int(labels[i]), float(confidence[i]))
        for i in rows
        if confidence[i] >= np.float32(settings.confidence_min)
        and uncertainty[i] <= np.float32(settings.uncertainty_max)
    }
    n_classes = probabilities.shape[1]
    missing = [max(0, settings.pseudo_floor - sum(c == label for label, _ in kept.values())) for c in range(n_classes)]
    pairs = [(-probabilities[i, c], c, positions[i], i) for c in range(n_classes) if missing[c] for i in rows]
    filled = {}
    for negative, c, _, i in sorted(pairs):
        if missing[c] and i not in kept and i not in filled:
            filled[i] = (c, -negative)
            missing[c] -= 1
    result = dict(filled)
    for c in range(n_classes):
        mine = sorted((-p, positions[i], i) for i, (label, p) in kept.items() if label == c)
        for _, _, i in mine[: settings.pseudo_cap or None]:
            result[i] = kept[i]
    return {int(positions[i]): value for i, value in result.items()}
