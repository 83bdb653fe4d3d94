"""Pseudo-labels by the posterior: a slow BPLS on its probabilities, and its ways to the same result."""

import numpy as np
import pytest

from psp_ray.selftrain import PseudoLabeler, SelfTrainingSettings
from psp_ray.selftrain import service as service_module
from tests.helpers import ArrayPool
from tests.selftrain.conftest import make_pool, slow_bpls
from tests.selftrain.test_service import all_views, assert_same, check


def setting(**options):
    pool, text, truth = make_pool(n=260, block_size=64, noise=0.6, seed=4)
    order = np.random.default_rng(1).permutation(pool.n)[:24]
    bought = {"labeled": order, "labels": truth[order].astype(np.int32), "rounds": np.repeat([1, 2, 3, 4], 6)}
    open_to_all = {"pseudo_source": "posterior", "confidence_min": 0.0, "uncertainty_max": 1.0, "pseudo_cap": 0}
    return pool, text, truth, bought, SelfTrainingSettings(**open_to_all | options)


@pytest.mark.parametrize("floor", [0, 4])
@pytest.mark.parametrize("kind", ["confidence", "averaged-class"])
def test_equals_the_slow_bpls_on_the_posterior(kind, floor, monkeypatch):
    monkeypatch.setattr(service_module, "FILL_SPARE", 0)
    bounds = {"confidence_min": 0.8, "uncertainty_max": 0.15, "pseudo_cap": 9, "pseudo_floor": floor}
    pool, text, _, bought, options = setting(uncertainty=kind, **bounds)
    rest = np.setdiff1d(np.arange(pool.n), bought["labeled"])
    labeler = PseudoLabeler(pool, options)
    got = labeler.label(text, rest, 5, **bought)
    posterior = labeler.posterior(text, **bought)
    table = posterior.table()
    seen = posterior.of_views(all_views(pool).astype(np.float32), np.arange(pool.n)).astype(np.float64)
    label = table.argmax(1)
    spread = seen.max(2).std(1) if kind == "confidence" else seen[np.arange(pool.n), :, label].std(1)
    slow = slow_bpls(rest, label[rest], table.max(1)[rest], spread[rest], table[rest], options)
    check(got, slow)
    assert 0 < len(got.positions) < len(rest)


def test_dropping_equals_leaving_out_and_waits_for_labels():
    pool, text, _, bought, options = setting(confidence_min=0.5)
    query = bought["labeled"][18:]
    unlabeled = np.setdiff1d(np.arange(pool.n), bought["labeled"][:18])
    labeler = PseudoLabeler(pool, options)
    earlier = {key: value[:18] for key, value in bought.items()}
    before = labeler.label(text, unlabeled, 4, **earlier)
    dropped = labeler.drop(query[::-1], 4, **bought)
    direct = PseudoLabeler(pool, options).label(text, np.setdiff1d(unlabeled, query), 4, **bought)
    assert_same(dropped, direct)
    assert len(dropped.positions) > 100
    assert np.isin(before.positions, unlabeled).all()
    assert not np.isin(dropped.positions, query).any()


@pytest.mark.parametrize("as_function", [True, False])
def test_fresh_views_say_how_uncertain(as_function):
    pool, text, _, bought, options = setting()
    rest = np.setdiff1d(np.arange(pool.n), bought["labeled"])
    views = all_views(pool)
    blind = ArrayPool(np.concatenate([pool.block(i).features for i in range(pool.n_blocks)]), block_size=64)
    fresh = (lambda positions: views[positions]) if as_function else views[rest]
    with_views = PseudoLabeler(blind, options).label(text, rest, 5, views=fresh, **bought)
    without = PseudoLabeler(blind, options).label(text, rest, 5, **bought)
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
    assert len(labeler.label(text, np.arange(pool.n), 1).positions) == 0
    assert len(labeler.drop(np.array([3]), 1).positions) == 0


def test_without_rounds_all_purchases_are_one():
    pool, text, _, bought, options = setting()
    rest = np.setdiff1d(np.arange(pool.n), bought["labeled"])
    plain = PseudoLabeler(pool, options).label(text, rest, 5, bought["labeled"], bought["labels"])
    once = PseudoLabeler(pool, options).label(text, rest, 5, **bought | {"rounds": np.ones(24, np.int64)})
    assert_same(plain, once)


def test_it_beats_the_graph_alone_and_the_teacher_alone():
    pool, text, truth, bought, options = setting()
    rest = np.setdiff1d(np.arange(pool.n), bought["labeled"])
    right = {}
    for source in ("posterior", "graph", "prompt"):
        labeler = PseudoLabeler(pool, options.model_copy(update={"pseudo_source": source}))
        found = labeler.label(text, rest, 5, **bought)
        right[source] = (found.labels == truth[found.positions]).sum()
    assert right["posterior"] >= max(right["graph"], right["prompt"])


def test_likeliest_is_the_table_read_in_parts():
    pool, text, _, bought, options = setting()
    labeler = PseudoLabeler(pool, options)
    posterior = labeler.posterior(text, **bought)
    some = np.array([0, 63, 64, 200, 259])
    labels, confidence = posterior.likeliest(some)
    np.testing.assert_array_equal(labels, posterior.table().argmax(1)[some])
    np.testing.assert_array_equal(confidence, posterior.table().max(1)[some])
