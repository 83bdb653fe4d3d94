"""What every strategy and wrapper owes, whoever wrote it: a test per promise, over the registry."""

import ast
import importlib
import inspect
import pkgutil
from dataclasses import fields

import numpy as np
import pytest

import psp_ray.acquisition
from psp_ray.acquisition import Strategy, create, strategy_names, validate_proposal
from psp_ray.acquisition.base import STRATEGIES, WRAPPERS, wrapper_names
from psp_ray.config.config import Config
from psp_ray.config.config import fields as keys
from psp_ray.core.errors import DatasetError, UserError
from psp_ray.core.records import FeatureBlock, PoolReader, PoolState, TextState
from tests.helpers import ArrayPool
from tests.policy.worlds import World

COMPOSED = [
    "badge+pcb",
    "random+pcb",
    "vssp+pcb",
    "el2n-policy+pcb",
    "entropy+sub",
    "vssp+sub",
    "alfa-mix+sub+pcb",
    "badge+audit",
]
NAMES = [*strategy_names(), *COMPOSED]
SMALL = {"hidden": 8, "rank_image": 2, "rank_class": 2, "update_steps": 2, "sub_size": 40, "seed": 0}


def build(name, world, **settings):
    return create(name, world.pool, Config(**{**SMALL, **settings}).policy)


def same(a, b):
    np.testing.assert_array_equal(a.positions, b.positions)
    np.testing.assert_array_equal(a.log_prob, b.log_prob)
    np.testing.assert_array_equal(a.next_key, b.next_key)


def later(world, n_query=5, seed=None):
    """A state with labels: the second round."""
    labeled = np.array([3, 11, 19, 27, 33])
    rest = np.setdiff1d(np.arange(world.n), labeled)
    return world.state(2, n_query, rest, labeled, world.truth[labeled], seed=seed)


def both(world, n_query=5):
    return [world.state(1, n_query), later(world, n_query)]


def test_the_registry_has_what_the_method_names():
    wanted = "random entropy margin coreset badge typiclust alfa-mix pcoreset cbsq kmeans el2n-policy bandit vssp"
    assert set(wanted.split()) <= set(strategy_names())
    assert {"pcb", "sub"} <= set(wrapper_names())


@pytest.mark.parametrize("registry", [STRATEGIES, WRAPPERS])
def test_every_setting_of_this_package_is_a_key_of_the_configuration(registry):
    for entry in registry:
        if entry.settings is not None and entry.settings.__module__.startswith("psp_ray.config."):
            assert set(entry.settings.model_fields) <= set(keys())


@pytest.mark.parametrize("name", ["vssp", "vssp+pcb", "random+audit"])
def test_warming_up_changes_nothing(name):
    world = World(n=60, block_size=32)
    warmed, cold = build(name, world), build(name, world)
    warmed.warm_up()
    for state in both(world):
        same(warmed.propose(state), cold.propose(state))


@pytest.mark.parametrize("name", NAMES)
def test_exactly_n_distinct_unlabeled_and_the_same_when_asked_again(name):
    world = World(n=90, block_size=32)
    for state in both(world, n_query=7):
        strategy = build(name, world)
        proposal = strategy.propose(state)
        validate_proposal(proposal, state)
        same(proposal, strategy.propose(state))
        same(proposal, build(name, world).propose(state))
        copy = PoolState(**{**vars(state), "unlabeled": state.unlabeled.copy(), "labels": state.labels.copy()})
        same(proposal, strategy.propose(copy))


@pytest.mark.parametrize("name", NAMES)
def test_resumed_continues_to_the_same_bits(name):
    world = World(n=90, block_size=32)
    straight = build(name, world)
    log = list(world.rounds(straight, 4))
    first = build(name, world)
    list(world.rounds(first, 2))
    state = world.next
    first.propose(state)  # a checkpoint between a proposal and its labels
    saved = {key: np.array(value) for key, value in first.state_dict().items()}
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in saved.values())
    resumed = build(name, world)
    resumed.load_state_dict(saved)
    for (_, a, x), (_, b, y) in zip(log[2:], world.rounds(resumed, 2, first=state), strict=True):
        same(a, b)
        np.testing.assert_array_equal(x.reward, y.reward)
    for key, value in straight.state_dict().items():
        np.testing.assert_array_equal(value, resumed.state_dict()[key], err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_a_round_that_another_process_proposed_is_learned_the_same(name):
    world = World(n=90, block_size=32)
    one, other = build(name, world), build(name, world)
    state = later(world)
    feedback = world.feedback(state, one.propose(state))
    one.observe(feedback)
    other.observe(feedback)
    for key, value in one.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[key], err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_pool_or_too_large_a_query_is_refused(name):
    world = World(n=30)
    with pytest.raises(UserError, match="labels_per_round 31 is more than the 30"):
        build(name, world).propose(world.state(n_query=31))
    with pytest.raises(UserError, match="no unlabeled sample"):
        build(name, world).propose(world.state(n_query=1, unlabeled=[]))


@pytest.mark.parametrize("name", NAMES)
def test_all_that_is_left_can_be_bought(name):
    world = World(n=40, block_size=16)
    left = np.array([2, 8, 20, 39])
    labeled = np.array([0, 5, 7])
    for known in (np.zeros(0, np.int64), labeled):
        state = world.state(2, 4, left, known, world.truth[known])
        proposal = build(name, world).propose(state)
        assert sorted(proposal.positions) == left.tolist()
    one = world.state(2, 1, [39], labeled, world.truth[labeled])
    assert build(name, world).propose(one).positions.tolist() == [39]


def identical(n_classes=5):
    world = World(n=60, n_classes=n_classes, block_size=32)
    world.features = np.tile(world.features[:1], (60, 1))
    world.pool = ArrayPool(world.features, block_size=32)
    return world


@pytest.mark.parametrize("name", NAMES)
def test_identical_features_are_no_trouble(name):
    world = identical()
    for state in both(world, n_query=8):
        proposal = build(name, world).propose(state)
        validate_proposal(proposal, state)
    list(world.rounds(build(name, world), 3))


@pytest.mark.parametrize("name", NAMES)
def test_pairs_of_copies_are_no_trouble(name):
    world = World(n=60, block_size=32)
    world.features[30:] = world.features[:30]
    world.truth[30:] = world.truth[:30]
    world.pool = ArrayPool(world.features, block_size=32)
    for state, proposal, _ in world.rounds(build(name, world), 4, first=world.state(n_query=14)):
        validate_proposal(proposal, state)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_classes", [1, 50])
def test_one_class_and_many_more_classes_than_queries(name, n_classes):
    world = World(n=70, n_classes=n_classes, block_size=32)
    for state, proposal, _ in world.rounds(build(name, world), 3, first=world.state(n_query=4)):
        validate_proposal(proposal, state)
    validate_proposal(build(name, world).propose(later(world)), later(world))


@pytest.mark.parametrize("name", NAMES)
def test_a_feature_that_is_not_a_number_is_named(name):
    world = World(n=60, block_size=32)
    features = world.features.copy()
    features[41] = np.nan
    world.pool = ArrayPool(features, block_size=32)
    asked = 0
    for state in both(world):
        try:
            proposal = build(name, world, sub_size=60, pcb_fraction=1.0).propose(state)
        except DatasetError as error:
            asked += 1
            assert "pool sample 41 is not a finite number" in str(error)  # noqa: PT017
        else:  # it looked at no feature, or at those of a few candidates
            assert np.isfinite(proposal.log_prob).all() or name.endswith("+pcb")
    assert asked or name == "random", "the broken feature was never seen"


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_that_is_not_a_number_is_named(name):
    world = World(n=60)
    state = later(world)
    broken = PoolState(**{**vars(state), "text": TextState(np.full_like(world.text, np.nan), 50.0)})
    with pytest.raises(DatasetError, match="not finite"):
        build(name, world).propose(broken)


class FreshCopies:
    """The same pool from another source: every block and row a new array, as remote shards would send them."""

    def __init__(self, pool):
        self.inner = pool
        self.n, self.dim, self.n_views, self.n_blocks = pool.n, pool.dim, pool.n_views, pool.n_blocks
        self.block_size = pool.block_size

    def block(self, index, *, views=False):
        block = self.inner.block(index, views=views)
        return FeatureBlock(block.index, block.start, block.keys.copy(), np.asfortranarray(block.features.copy()))

    def rows(self, positions):
        return self.inner.rows(positions).copy()


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_matter_who_holds_the_blocks(name):
    world = World(n=90, block_size=32)
    other = World(n=90, block_size=32)
    other.pool = FreshCopies(world.pool)
    for state in both(world, n_query=7):
        same(build(name, world).propose(state), build(name, other).propose(state))


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_leaves_its_input_alone(name):
    world = World(n=60, block_size=32)
    state = later(world)
    before = [np.array(x) for x in (state.text.features, state.unlabeled, state.labeled, state.labels, world.features)]
    for array in (state.text.features, state.unlabeled, state.labeled, state.labels):
        array.setflags(write=False)
    strategy = build(name, world)
    strategy.observe(world.feedback(state, strategy.propose(state)))
    after = [state.text.features, state.unlabeled, state.labeled, state.labels, world.features]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_one_for_each_sample_and_say_who_is_chosen(name):
    world = World(n=90, block_size=32)
    for state in both(world, n_query=7):
        scores = build(name, world).utilities(state)
        if scores is None:
            continue
        assert scores.shape == (len(state.unlabeled),)
        assert not np.isnan(scores).any()
        np.testing.assert_array_equal(scores, build(name, world).utilities(state))
        strategy = build(name, world)
        if isinstance(strategy, Strategy) and type(strategy).score is not Strategy.score:
            chosen = np.isin(state.unlabeled, strategy.propose(state).positions)
            assert scores[chosen].min() >= scores[~chosen].max() - 1e-5


# -- nobody sees what was not bought ---------------------------------------------------------------------------------


def test_inputs_hold_no_labels_of_the_pool():
    assert {field.name for field in fields(PoolState)} == {
        *("round", "seed", "n_query", "n_classes", "text", "unlabeled", "labeled", "labels", "doubt")
    }
    assert {field.name for field in fields(FeatureBlock)} == {"index", "start", "keys", "features", "views"}
    assert {name for name in vars(PoolReader) if not name.startswith("_")} == {
        *("n", "dim", "n_views", "n_blocks", "block_size", "block", "rows")
    }


@pytest.mark.parametrize("name", NAMES)
def test_labels_nobody_bought_change_nothing(name):
    """Two worlds that differ in the classes of unlabeled samples alone: a strategy can't tell them apart."""
    one, other = World(n=90, block_size=32), World(n=90, block_size=32)
    other.truth = (other.truth + 1) % other.n_classes
    state = later(one)
    same(build(name, one).propose(state), build(name, other).propose(state))


def test_strategies_import_neither_ray_nor_what_knows_labels():
    forbidden = ("ray", "psp_ray.labels", "psp_ray.actors", "psp_ray.data", "psp_ray.run")
    for module in pkgutil.walk_packages(psp_ray.acquisition.__path__, "psp_ray.acquisition."):
        source = inspect.getsource(importlib.import_module(module.name))
        for node in ast.walk(ast.parse(source)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for imported in names:
                assert not any(imported == bad or imported.startswith(bad + ".") for bad in forbidden), module.name


def test_every_strategy_names_its_source_and_cost():
    for entry in [*STRATEGIES, *WRAPPERS]:
        if entry.value.__module__.startswith("psp_ray."):
            assert entry.source, entry.name
            assert "O(" in inspect.getdoc(entry.value), entry.name
    for name in ("typiclust", "cbsq", "pcoreset", "probcover", "maxherding", "uherding", "dropquery"):
        assert "Differs:" in inspect.getdoc(STRATEGIES.find(name)), name
