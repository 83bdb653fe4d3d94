"""Pseudo-labels by the posterior: a slow BPLS on its probabilities, and its ways to the same result."""

import numpy as np
import pytest

from psp_ray.core.records import TextState
from psp_ray.posterior.evidence import Evidence
from psp_ray.selftrain import KnownLabels, PseudoLabeler, ScoreRequest, SelfTrainingSettings
from psp_ray.selftrain import service as service_module
from tests.helpers import ArrayPool
from tests.selftrain.conftest import make_pool, slow_bpls
from tests.selftrain.test_service import NOBODY, all_views, assert_same, check


def setting(**options):
    pool, text, truth = make_pool(n=260, block_size=64, noise=0.6, seed=4)
    order = np.random.default_rng(1).permutation(pool.n)[:24]
    bought = KnownLabels(order, truth[order].astype(np.int32), np.repeat([1, 2, 3, 4], 6))
    open_to_all = {"pseudo_source": "posterior", "confidence_min": 0.0, "uncertainty_max": 1.0, "pseudo_cap": 0}
    return pool, text, truth, bought, SelfTrainingSettings(**open_to_all | options)


def first(known, count):
    return KnownLabels(known.positions[:count], known.labels[:count], known.rounds[:count])


def label(labeler, text, positions, known, taken=NOBODY, views=None):
    """Pseudo-labels in one go."""
    return labeler.select(labeler.score(ScoreRequest(5, text, positions), views), known, taken, views)


def rest_of(pool, bought):
    return np.setdiff1d(np.arange(pool.n), bought.positions)


@pytest.mark.parametrize("floor", [0, 4])
@pytest.mark.parametrize("kind", ["confidence", "averaged-class"])
def test_equals_the_slow_bpls_on_the_posterior(kind, floor, monkeypatch):
    monkeypatch.setattr(service_module, "FILL_SPARE", 0)
    bounds = {"confidence_min": 0.8, "uncertainty_max": 0.15, "pseudo_cap": 9, "pseudo_floor": floor}
    pool, text, _, bought, options = setting(uncertainty=kind, **bounds)
    rest = rest_of(pool, bought)
    labeler = PseudoLabeler(pool, options)
    got = label(labeler, text, rest, bought)
    posterior = labeler.posterior(text, bought)
    table = posterior.table()
    seen = posterior.of_views(all_views(pool).astype(np.float32), np.arange(pool.n)).astype(np.float64)
    labels = table.argmax(1)
    spread = seen.max(2).std(1) if kind == "confidence" else seen[np.arange(pool.n), :, labels].std(1)
    slow = slow_bpls(rest, labels[rest], table.max(1)[rest], spread[rest], table[rest], options)
    check(got, slow)
    assert 0 < len(got.positions) < len(rest)


def test_taking_equals_leaving_out_and_waits_for_labels():
    pool, text, _, bought, options = setting(confidence_min=0.5)
    query = bought.positions[18:]
    unlabeled = np.setdiff1d(np.arange(pool.n), bought.positions[:18])
    labeler = PseudoLabeler(pool, options)
    scores = labeler.score(ScoreRequest(4, text, unlabeled))
    before = labeler.select(scores, first(bought, 18), NOBODY)
    late = labeler.select(scores, bought, query[::-1])
    assert_same(late, label(PseudoLabeler(pool, options), text, np.setdiff1d(unlabeled, query), bought))
    assert_same(before, label(PseudoLabeler(pool, options), text, unlabeled, first(bought, 18)))
    assert len(late.positions) > 100
    assert np.isin(before.positions, unlabeled).all()
    assert np.isin(query, before.positions).any()
    assert not np.isin(late.positions, query).any()


def test_fresh_views_say_how_uncertain():
    pool, text, _, bought, options = setting()
    rest = rest_of(pool, bought)
    views = all_views(pool)
    blind = ArrayPool(np.concatenate([pool.block(i).features for i in range(pool.n_blocks)]), block_size=64)
    with_views = label(PseudoLabeler(blind, options), text, rest, bought, views=lambda positions: views[positions])
    without = label(PseudoLabeler(blind, options), text, rest, bought)
    np.testing.assert_array_equal(with_views.labels, without.labels)
    assert without.uncertainty.max() == 0.0
    assert with_views.uncertainty.min() > 0.0
    # The farther views lie from their image, the less sure they agree with it.
    spread = np.linalg.norm(views[rest].astype(float) - views[rest].astype(float).mean(1, keepdims=True), axis=2).mean(
        1
    )
    assert np.corrcoef(spread, with_views.uncertainty)[0, 1] > 0.0


def test_nothing_bought_keeps_nothing():
    pool, text, _, _, options = setting()
    labeler = PseudoLabeler(pool, options)
    for taken in (NOBODY, np.array([3])):
        assert len(label(labeler, text, np.arange(pool.n), KnownLabels.none(), taken).positions) == 0


def test_labels_known_at_once_are_one_purchase():
    """Rounds tell who may judge whom; which numbers they have doesn't matter."""
    pool, text, _, bought, options = setting()
    rest = rest_of(pool, bought)
    once = label(PseudoLabeler(pool, options), text, rest, KnownLabels.at_once(bought.positions, bought.labels))
    given = KnownLabels(bought.positions, bought.labels, np.full(24, 7))
    assert_same(once, label(PseudoLabeler(pool, options), text, rest, given))
    renamed = KnownLabels(bought.positions, bought.labels, bought.rounds * 3 - 2)
    in_rounds = label(PseudoLabeler(pool, options), text, rest, bought)
    assert_same(in_rounds, label(PseudoLabeler(pool, options), text, rest, renamed))
    assert (in_rounds.confidence != once.confidence).any()


def test_it_beats_the_graph_alone_and_the_teacher_alone():
    pool, text, truth, bought, options = setting()
    rest = rest_of(pool, bought)
    right = {}
    for source in ("posterior", "graph", "prompt"):
        labeler = PseudoLabeler(pool, options.model_copy(update={"pseudo_source": source}))
        found = label(labeler, text, rest, bought)
        right[source] = (found.labels == truth[found.positions]).sum()
    assert right["posterior"] >= max(right["graph"], right["prompt"])


def test_likeliest_is_the_table_read_in_parts():
    pool, text, _, bought, options = setting()
    labeler = PseudoLabeler(pool, options)
    posterior = labeler.posterior(text, bought)
    some = np.array([0, 63, 64, 200, 259])
    labels, confidence = posterior.likeliest(some)
    np.testing.assert_array_equal(labels, posterior.table().argmax(1)[some])
    np.testing.assert_array_equal(confidence, posterior.table().max(1)[some])


# ---- the posterior that is kept ----------------------------------------------------------------------------------


def changed(known, text):
    """Labels and teachers that differ in a single place from those given."""
    labels, rounds, positions = known.labels.copy(), known.rounds.copy(), known.positions.copy()
    labels[-1] = (labels[-1] + 1) % len(text.features)
    rounds[-6:] = rounds[0]
    rounds.sort()
    positions[[0, 23]] = positions[[23, 0]]
    features = text.features.copy()
    features[2] = -features[2]
    yield known, text
    yield KnownLabels(known.positions, labels, known.rounds), text
    yield KnownLabels(known.positions, known.labels, rounds), text
    yield KnownLabels(positions, known.labels, known.rounds), text
    yield first(known, 23), text
    yield known, TextState(features, text.logit_scale)
    yield known, TextState(text.features, 2 * text.logit_scale)
    yield known, TextState(text.features, text.logit_scale, np.linspace(-3, 3, len(text.features)).astype(np.float32))


def test_what_is_kept_changes_no_posterior():
    """Asked there and back, each is what one that has never been asked before infers; and all of them differ."""
    pool, text, _, bought, options = setting()
    labeler = PseudoLabeler(pool, options)
    asked = list(changed(bought, text))
    fresh = [PseudoLabeler(pool, options).posterior(teacher, known).table() for known, teacher in asked]
    for index in (*range(len(asked)), *reversed(range(len(asked))), 0):
        known, teacher = asked[index]
        for _ in range(2):
            np.testing.assert_array_equal(labeler.posterior(teacher, known).table(), fresh[index])
    assert all((a != b).any() for i, a in enumerate(fresh) for b in fresh[:i])


def test_choosing_and_learning_share_one_posterior(monkeypatch):
    inferred = []
    infer = Evidence.infer
    monkeypatch.setattr(Evidence, "infer", lambda *asked: (inferred.append(1), infer(*asked))[1])
    pool, text, _, bought, options = setting()
    labeler = PseudoLabeler(pool, options)
    chosen = label(labeler, text, rest_of(pool, bought), bought)
    targets = labeler.soft_labels(text, bought, 3)
    assert len(inferred) == 1 + 3, "all labels once, and once without each part"
    assert_same(chosen, label(labeler, text, rest_of(pool, bought), bought))
    assert len(inferred) == 1 + 3
    alone = PseudoLabeler(pool, options).soft_labels(text, bought, 3)
    np.testing.assert_array_equal(targets.soft.probabilities, alone.soft.probabilities)
    for one, other in zip(targets.held_out, alone.held_out, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    np.testing.assert_array_equal(chosen.labels, targets.soft.probabilities[chosen.positions].argmax(1))


def test_a_teachers_bias_counts_like_a_dimension_that_all_images_share():
    """A bias is a class's weight on a feature that is the same everywhere: images with it appended, no bias."""
    pool, text, _, bought, options = setting()
    bias = np.linspace(-2, 2, len(text.features)).astype(np.float32)
    labeler = PseudoLabeler(pool, options)
    with_bias = labeler.posterior(TextState(text.features, text.logit_scale, bias), bought)
    odds = {}
    for name, scale in (("plain", 0.0), ("biased", 1.0)):
        teacher = TextState(text.features, text.logit_scale, scale * bias)
        odds[name] = np.log(labeler.posterior(teacher, KnownLabels.none()).table().astype(np.float64))
    moved = odds["biased"] - odds["plain"]
    np.testing.assert_allclose(moved - moved[:, :1], np.tile(bias - bias[0], (pool.n, 1)), atol=1e-3)
    assert (with_bias.table() != labeler.posterior(text, bought).table()).any()
