"""The pseudo-labeler against a slow BPLS, and its ways to the same result."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.core.errors import ConfigError
from psp_ray.neighbors.graph import propagate
from psp_ray.selftrain import KnownLabels, PseudoLabeler, ScoreRequest, SelfTrainingSettings
from psp_ray.selftrain import service as service_module
from psp_ray.selftrain.ust import score_views
from tests.helpers import ArrayPool
from tests.selftrain.conftest import make_pool, slow_bpls, slow_scores, unit

NOBODY = np.zeros(0, np.int64)
LITERAL = {
    "pseudo_source": "prompt",
    "confidence_min": 0.7,
    "uncertainty_max": 0.05,
    "uncertainty": "confidence",
    "pseudo_cap": 0,
}
GRAPH = {"pseudo_source": "graph", "confidence_min": 0.0, "uncertainty_max": 1.0}


def all_views(pool):
    return np.concatenate([pool.block(i, views=True).views for i in range(pool.n_blocks)])


def label(labeler, text, positions, bought=None, classes=None, views=None):
    """Pseudo-labels in one go: scored, and chosen with what was bought."""
    scores = labeler.score(ScoreRequest(1, text, np.asarray(positions)), views)
    return labeler.select(scores, known(bought, classes), NOBODY, views)


def known(bought=None, classes=None):
    return KnownLabels.none() if bought is None else KnownLabels.at_once(bought, classes)


def assert_same(a, b):
    for name in ("positions", "labels", "confidence", "uncertainty"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def expected(pool, text, unlabeled, options):
    """Slow BPLS on the same scores (their own correctness is tested in test_ust)."""
    scores = score_views(all_views(pool), text, uncertainty=options.uncertainty, probabilities=True)
    return slow_bpls(
        unlabeled,
        scores.labels[unlabeled],
        scores.confidence[unlabeled],
        scores.uncertainty[unlabeled],
        scores.probabilities[unlabeled],
        options,
    )


def check(result, slow):
    assert dict(zip(result.positions.tolist(), result.labels.tolist(), strict=True)) == {
        position: label for position, (label, _) in slow.items()
    }
    for position, confidence in zip(result.positions.tolist(), result.confidence.tolist(), strict=True):
        assert confidence == pytest.approx(slow[position][1], abs=1e-5)
    assert (np.diff(result.positions) > 0).all()


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(0, 90),
    confidence_min=st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]),
    uncertainty_max=st.sampled_from([0.0, 0.02, 0.1, 1.0]),
    uncertainty=st.sampled_from(["confidence", "averaged-class"]),
    cap=st.sampled_from([0, 3, 10]),
    floor=st.integers(0, 3),
    spare=st.sampled_from([0, 2, 32]),
    n_classes=st.integers(2, 8),
    block_size=st.sampled_from([7, 32, 4096]),
)
def test_equals_the_slow_bpls_and_dropping_equals_leaving_out(
    seed, n, confidence_min, uncertainty_max, uncertainty, cap, floor, spare, n_classes, block_size
):
    pool, text, _ = make_pool(n=n, n_classes=n_classes, seed=seed, block_size=block_size, n_views=2)
    options = SelfTrainingSettings(
        pseudo_source="prompt",
        confidence_min=confidence_min,
        uncertainty_max=uncertainty_max,
        uncertainty=uncertainty,
        pseudo_cap=cap,
        pseudo_floor=floor,
    )
    draw = np.random.default_rng(seed)
    unlabeled = np.flatnonzero(draw.random(n) < 0.8)
    query = unlabeled[draw.random(len(unlabeled)) < 0.3]
    rest = np.setdiff1d(unlabeled, query)
    spare_before, service_module.FILL_SPARE = service_module.FILL_SPARE, spare
    try:
        labeler = PseudoLabeler(pool, options)
        scores = labeler.score(ScoreRequest(1, text, unlabeled))
        dropped = labeler.select(scores, known(), draw.permutation(query))
        whole = labeler.select(scores, known(), NOBODY)
        direct = label(PseudoLabeler(pool, options), text, rest)
    finally:
        service_module.FILL_SPARE = spare_before
    assert_same(dropped, direct)
    if n:
        check(whole, expected(pool, text, unlabeled, options))
        check(direct, expected(pool, text, rest, options))
    assert not np.isin(dropped.positions, query).any()


def test_thresholds_against_scores_in_double_precision(pool):
    """End to end from raw views, without our own scoring."""
    pool, text, _ = pool
    average, per_view = slow_scores(all_views(pool), text)
    keep = (average.max(1) >= 0.7) & (per_view.max(2).std(1) <= 0.05)
    result = label(PseudoLabeler(pool, SelfTrainingSettings(**LITERAL)), text, np.arange(pool.n))
    np.testing.assert_array_equal(result.positions, np.flatnonzero(keep))
    np.testing.assert_array_equal(result.labels, average.argmax(1)[keep])
    assert 0 < keep.sum() < pool.n


def test_lists_that_run_out_are_asked_for_again(monkeypatch):
    """All of the best candidates of every class are the same samples, and the best of them are bought."""
    draw = np.random.default_rng(0)
    n, n_classes = 400, 8
    features = unit(draw.normal(size=(n, 10)))
    one = unit(draw.normal(size=10))
    text = type(make_pool()[1])(unit(one + 0.02 * draw.normal(size=(n_classes, 10))).astype(np.float32), 10.0)
    pool = ArrayPool(features, features[:, None], block_size=64)
    options = SelfTrainingSettings(pseudo_source="prompt", confidence_min=1, pseudo_floor=5, pseudo_cap=0)
    monkeypatch.setattr(service_module, "FILL_SPARE", 0)
    labeler = PseudoLabeler(pool, options)
    read = []
    block = pool.block
    monkeypatch.setattr(pool, "block", lambda index, **k: (read.append(index), block(index, **k))[1])
    unlabeled = np.arange(n)
    scores = labeler.score(ScoreRequest(1, text, unlabeled))
    result = labeler.select(scores, known(), NOBODY)
    assert read.count(0) > 1, "the case does not test what it should"
    check(result, expected(pool, text, unlabeled, options))
    assert np.bincount(result.labels, minlength=n_classes).tolist() == [5] * n_classes
    best = result.positions[:20]
    check(labeler.select(scores, known(), best), expected(pool, text, np.setdiff1d(unlabeled, best), options))


def test_shards_and_repeats_give_the_same_bits(pool):
    pool, text, _ = pool
    options = SelfTrainingSettings(
        pseudo_source="prompt", confidence_min=0.5, uncertainty_max=0.2, pseudo_floor=4, pseudo_cap=9
    )
    unlabeled = np.arange(0, pool.n, 2)
    labeler = PseudoLabeler(pool, options)
    first = label(labeler, text, unlabeled)
    assert_same(first, label(labeler, text, unlabeled))
    assert_same(first, label(PseudoLabeler(pool, options), text, unlabeled))
    assert len(first.positions) > 0


def test_fresh_views_replace_the_pools(pool):
    pool, text, _ = pool
    options = SelfTrainingSettings(pseudo_source="prompt", confidence_min=0.4, uncertainty_max=0.3, pseudo_floor=3)
    other, _, _ = make_pool(seed=5)
    fresh = all_views(other)
    unlabeled = np.arange(7, 251)
    bare = ArrayPool(np.concatenate([pool.block(i).features for i in range(pool.n_blocks)]), block_size=64)
    result = label(PseudoLabeler(bare, options), text, unlabeled, views=lambda positions: fresh[positions])
    cached = ArrayPool(np.zeros((pool.n, pool.dim)), fresh, block_size=64)
    assert_same(result, label(PseudoLabeler(cached, options), text, unlabeled))
    assert len(result.positions) > 0


def test_center_as_a_view(pool):
    pool, text, _ = pool
    features = np.concatenate([pool.block(i).features for i in range(pool.n_blocks)])
    options = {"confidence_min": 0.4, "uncertainty_max": 0.3}
    with_center = PseudoLabeler(pool, SelfTrainingSettings(pseudo_source="prompt", include_center=True, **options))
    joined = ArrayPool(features, np.concatenate([features[:, None], all_views(pool)], 1), block_size=64)
    plain = PseudoLabeler(joined, SelfTrainingSettings(pseudo_source="prompt", **options))
    everything = np.arange(pool.n)
    assert_same(label(with_center, text, everything), label(plain, text, everything))
    alone = PseudoLabeler(
        ArrayPool(features), SelfTrainingSettings(pseudo_source="prompt", include_center=True, **options)
    )
    assert (label(alone, text, everything).uncertainty == 0).all()


def test_broken_features_are_never_kept():
    pool, text, _ = make_pool(n=40, n_views=2)
    views = all_views(pool)
    views[[3, 20]] = np.nan
    broken = ArrayPool(np.zeros((40, pool.dim)), views, block_size=16)
    options = SelfTrainingSettings(
        pseudo_source="prompt", confidence_min=0, uncertainty_max=1, pseudo_floor=10, pseudo_cap=0
    )
    result = label(PseudoLabeler(broken, options), text, np.arange(40))
    assert sorted(result.positions) == [i for i in range(40) if i not in (3, 20)]


def test_no_views_is_an_error_that_says_what_to_do(pool):
    pool, text, _ = pool
    bare = ArrayPool(np.zeros((5, pool.dim)))
    with pytest.raises(ConfigError, match="set views to 5"):
        label(PseudoLabeler(bare, SelfTrainingSettings(pseudo_source="graph")), text, np.arange(5))


@pytest.mark.parametrize("source", ["prompt", "graph", "both", "posterior"])
def test_calls_in_any_order_depend_on_their_arguments_alone(pool, source):
    """Labels left out leave no trace, whatever was asked before."""
    pool, text, truth = pool
    settings = SelfTrainingSettings(pseudo_source=source, confidence_min=0.3, pseudo_floor=2)
    query, rest = np.arange(0, pool.n, 9), np.setdiff1d(np.arange(pool.n), np.arange(0, pool.n, 9))
    all_of_it = KnownLabels.at_once(query, truth[query].astype(np.int32))
    half = KnownLabels.at_once(query[::2], all_of_it.labels[::2])
    labeler, request = PseudoLabeler(pool, settings), ScoreRequest(1, text, np.arange(pool.n))
    scores = labeler.score(request)
    first, second = labeler.select(scores, all_of_it, query), labeler.select(scores, half, query)
    labeler.score(ScoreRequest(2, text, rest[:50]))
    assert_same(labeler.select(scores, all_of_it, query), first)
    for part, found in ((half, second), (all_of_it, first)):
        fresh = PseudoLabeler(pool, settings)
        assert_same(fresh.select(fresh.score(request), part, query), found)
    differ = len(first.positions) != len(second.positions) or (first.confidence != second.confidence).any()
    assert differ == (source != "prompt")


def test_positions_are_checked(pool):
    pool, text, _ = pool
    labeler = PseudoLabeler(pool, SelfTrainingSettings())
    for wrong in ([2, 1], [1, 1], [-1], [pool.n]):
        with pytest.raises(ValueError, match="sorted, distinct"):
            labeler.score(ScoreRequest(1, text, np.array(wrong)))


def test_empty_pool_keeps_nothing(pool):
    pool, text, _ = pool
    for floor in (0, 2):
        result = label(PseudoLabeler(pool, SelfTrainingSettings(pseudo_floor=floor)), text, NOBODY)
        assert [column.dtype for column in (result.positions, result.labels, result.confidence)] == [
            np.int64, np.int32, np.float32
        ]  # fmt: skip
        assert len(result.positions) == 0


# ---- agreement with the graph ------------------------------------------------------------------------------------


def test_large_pools_get_pseudo_labels_on_the_graph_only():
    pool, text, truth = make_pool(n=300, noise=0.35)
    labeler = PseudoLabeler(pool, SelfTrainingSettings(**GRAPH, graph_limit=120))
    bought = np.arange(0, 300, 10)
    scores = labeler.score(ScoreRequest(1, text, np.arange(300)))
    early = labeler.select(scores, known(), NOBODY)
    got = labeler.select(scores, known(bought, truth[bought].astype(np.int32)), bought)
    assert len(early.positions) == 0
    assert 0 < len(got.positions) <= 120
    assert np.isin(got.positions, labeler.graph().positions).all()
    assert not np.isin(got.positions, bought).any()
    assert (got.labels == truth[got.positions]).mean() > 0.6, "chance is a sixth"


def test_agreement_keeps_exactly_what_the_graph_confirms():
    pool, text, truth = make_pool(n=300, noise=0.35)
    bought = np.arange(0, 300, 10)
    rest = np.setdiff1d(np.arange(300), bought)
    open_to_all = {"confidence_min": 0, "uncertainty_max": 1, "pseudo_cap": 0}
    teacher = label(PseudoLabeler(pool, SelfTrainingSettings(pseudo_source="prompt", **open_to_all)), text, rest)
    labeler = PseudoLabeler(pool, SelfTrainingSettings(pseudo_source="both", **open_to_all))
    both = label(labeler, text, rest, bought, truth[bought].astype(np.int32))
    graph = propagate(*labeler.graph().with_labeled(bought), truth[bought].astype(np.int32)).labels
    agree = teacher.labels == graph[rest]
    np.testing.assert_array_equal(both.positions, rest[agree])
    assert 0 < agree.sum() < len(rest)
    assert (both.labels == truth[both.positions]).mean() > (teacher.labels == truth[rest]).mean()


def test_the_graph_can_be_the_only_source():
    pool, text, truth = make_pool(n=300, noise=0.35)
    bought = np.arange(0, 300, 10)
    rest = np.setdiff1d(np.arange(300), bought)
    options = SelfTrainingSettings(**GRAPH, pseudo_cap=12)
    labeler = PseudoLabeler(pool, options)
    got = label(labeler, text, rest, bought, truth[bought].astype(np.int32))
    opinion = propagate(*labeler.graph().with_labeled(bought), truth[bought].astype(np.int32))
    expected = {}
    for c in range(6):
        mine = [p for p in rest if opinion.labels[p] == c]
        for p in sorted(mine, key=lambda p: (-opinion.confidence[p], p))[:12]:
            expected[int(p)] = (c, opinion.confidence[p])
    assert sorted(expected) == got.positions.tolist()
    assert [expected[p][0] for p in got.positions.tolist()] == got.labels.tolist()
    np.testing.assert_allclose([expected[p][1] for p in got.positions.tolist()], got.confidence)
    assert (got.uncertainty > 0).any(), "the spread over the views is still the prompt's"


def test_agreement_with_labels_that_arrive_later():
    pool, text, truth = make_pool(n=300, noise=0.35)
    options = SelfTrainingSettings(pseudo_source="both", confidence_min=0.3, uncertainty_max=0.5, pseudo_floor=2)
    labeler = PseudoLabeler(pool, options)
    everything, query = np.arange(300), np.arange(5, 300, 20)
    labels = truth[query].astype(np.int32)
    scores = labeler.score(ScoreRequest(1, text, everything))
    early = labeler.select(scores, known(), NOBODY)
    assert len(early.positions) == 2 * 6, "before anything is bought only the floor is filled"
    late = labeler.select(scores, known(query, labels), query)
    direct = label(PseudoLabeler(pool, options), text, np.setdiff1d(everything, query), query, labels)
    assert_same(late, direct)
    assert len(late.positions) > 50


@pytest.mark.parametrize(
    "bad",
    [{"confidence_min": 1.5}, {"uncertainty_max": -0.1}, {"pseudo_cap": -1}, {"graph_alpha": 1.0},
     {"uncertainty": "std"}, {"pseudo_floor": 5, "pseudo_cap": 3}],
)  # fmt: skip
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError, match=next(iter(bad)).replace("_", "[-_]")):
        SelfTrainingSettings(**bad)


def test_defaults_are_those_of_psp():
    options = SelfTrainingSettings()
    assert (options.confidence_min, options.uncertainty_max, options.pseudo_floor) == (0.7, 0.2, 0)
    assert options.pseudo_source == "posterior"
    assert options.uncertainty == "averaged-class"
