"""The registry, the checks around a strategy, and cheap imports."""

import subprocess
import sys

import numpy as np
import pytest

from psp_ray.acquisition import base
from psp_ray.acquisition.base import (
    AcquisitionFunction,
    create,
    register,
    register_wrapper,
    validate_proposal,
    validate_state,
)
from psp_ray.acquisition.random import Random
from psp_ray.config.policy import PolicySettings
from psp_ray.core.errors import ConfigError, UserError
from psp_ray.core.records import Observation, Proposal
from tests.policy.worlds import World


@pytest.fixture
def registries(monkeypatch):
    base._discover()  # what is found while the copies stand in would be lost with them
    monkeypatch.setattr(base, "_STRATEGIES", dict(base._STRATEGIES))
    monkeypatch.setattr(base, "_WRAPPERS", dict(base._WRAPPERS))


class First:
    name = "first"

    def __init__(self, pool, settings):
        self.settings = settings

    def propose(self, state):
        chosen = state.unlabeled[: state.n_query]
        return Proposal(chosen, np.full(len(chosen), np.nan))

    def observe(self, feedback):
        return Observation()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_strategies_of_this_package_are_found_by_their_files():
    assert {"random", "vssp"} <= set(base.strategy_names())
    for name in base.strategy_names():
        strategy = create(name, World(n=20).pool)
        assert isinstance(strategy, AcquisitionFunction)
        assert strategy.name == name


def test_listing_strategies_imports_nothing_heavy():
    code = (
        "import sys; from psp_ray.acquisition import strategy_names; strategy_names(); "
        "print([m for m in ('torch', 'numba', 'ray', 'open_clip') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_unknown_names_are_refused_with_the_nearest(registries):
    with pytest.raises(ConfigError, match=r"'vsp' is unknown; did you mean 'vssp'\?; known: .*random, .*vssp"):
        create("vsp", World(n=20).pool)
    with pytest.raises(ConfigError, match=r"wrapper 'pcbb' is unknown"):
        create("random+pcbb", World(n=20).pool)


def test_a_name_is_given_once(registries):
    register("first")(First)
    register("first")(First)  # the same factory again: a module imported twice
    with pytest.raises(ConfigError, match="registered already"):
        register("first")(Random)
    for bad in ("", "a+b", "Upper", " x"):
        with pytest.raises(ConfigError, match="must be lower case"):
            register(bad)(First)


def test_settings_are_picked_from_a_larger_object(registries):
    class Larger(PolicySettings):
        other: int = 3

    register("first", PolicySettings)(First)
    strategy = create("first", World(n=20).pool, Larger(kappa=2.5))
    assert type(strategy.settings) is PolicySettings
    assert strategy.settings.kappa == 2.5
    assert create("first", World(n=20).pool).settings == PolicySettings()


def test_wrappers_go_around_any_strategy_in_order(registries):
    class Reversed(First):
        def __init__(self, inner, pool, settings):
            self.inner, self.name = inner, inner.name + "+reversed"

        def propose(self, state):
            proposal = self.inner.propose(state)
            return Proposal(proposal.positions[::-1], proposal.log_prob)

    register("first")(First)
    register_wrapper("reversed")(Reversed)
    world = World(n=20)
    strategy = create("first+reversed", world.pool)
    assert strategy.name == "first+reversed"
    np.testing.assert_array_equal(strategy.propose(world.state(n_query=3)).positions, [2, 1, 0])
    twice = create("first+reversed+reversed", world.pool)
    np.testing.assert_array_equal(twice.propose(world.state(n_query=3)).positions, [0, 1, 2])


def test_entry_points_of_other_packages_are_strategies(registries, monkeypatch):
    class Point:
        name, value = "theirs", "their.module:First"

        def load(self):
            return First

    class Broken(Point):
        name = "broken"

        def load(self):
            raise ImportError("no module named their")

    monkeypatch.setattr(base, "entry_points", lambda group: [Point(), Broken()] if group == base.GROUP else [])
    assert {"theirs", "broken", "random"} <= set(base.strategy_names())
    assert isinstance(create("theirs", World(n=20).pool), First)
    with pytest.raises(ConfigError, match=r"broken .* can't be imported: no module named their"):
        create("broken", World(n=20).pool)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 1], "shape"),
        ([0, 1, 1], "twice"),
        ([0, 1, 19], "sample 19, which is not unlabeled"),
        ([0.0, 1.0, 2.0], "float64"),
    ],
)
def test_bad_proposals_are_refused(positions, message):
    state = World(n=20).state(n_query=3, unlabeled=np.arange(15))
    with pytest.raises(UserError, match=message):
        validate_proposal(Proposal(np.array(positions), np.zeros(len(positions))), state)


def test_a_proposal_needs_a_log_prob_per_sample():
    state = World(n=20).state(n_query=3)
    with pytest.raises(UserError, match="log_prob"):
        validate_proposal(Proposal(np.arange(3), np.zeros(2)), state)
    validate_proposal(Proposal(np.arange(3), np.full(3, np.nan)), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlabeled": []}, "no unlabeled sample is left"),
        ({"n_query": 21}, "labels_per_round 21 is more than the 20"),
        ({"n_query": -1}, "must be at least 1"),
        ({"unlabeled": [3, 2, 5, 6, 7, 8]}, "sorted"),
        ({"unlabeled": [3, 4, 5, 6, 7, 20]}, "within the pool of 20"),
    ],
)
def test_impossible_queries_are_refused(change, message):
    world = World(n=20)
    with pytest.raises(UserError, match=message):
        validate_state(world.state(**change), world.pool)
