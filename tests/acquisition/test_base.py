"""The registry, the checks around a strategy, and cheap imports."""

import subprocess
import sys

import numpy as np
import pytest
from pydantic import Field

from psp_ray.acquisition import Strategy, Wrapper
from psp_ray.acquisition.base import (
    STRATEGIES,
    WRAPPERS,
    AcquisitionFunction,
    create,
    settings_of,
    strategy_names,
    unread,
    validate_proposal,
    validate_state,
)
from psp_ray.acquisition.random import Random
from psp_ray.config.acquisition import SamplerSettings
from psp_ray.config.base import Settings
from psp_ray.config.policy import PolicySettings
from psp_ray.core.errors import ConfigError, UserError
from psp_ray.core.records import Proposal
from tests.policy.worlds import World


@pytest.fixture
def registries():
    with STRATEGIES.temporary(), WRAPPERS.temporary():
        yield


class First(Strategy):
    """The first samples there are."""

    def choose(self, state):
        return state.unlabeled[: state.n_query]


def test_strategies_of_this_package_are_found_by_their_files():
    assert {"random", "vssp"} <= set(strategy_names())
    for name in strategy_names():
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
    with pytest.raises(ConfigError, match=r"unknown strategy; did you mean 'vssp'\?; known: .*random, .*vssp"):
        create("vsp", World(n=20).pool)
    with pytest.raises(ConfigError, match=r"pcbb: unknown wrapper; did you mean 'pcb'"):
        create("random+pcbb", World(n=20).pool)


def test_a_name_is_given_once(registries):
    STRATEGIES.register("first")(First)
    STRATEGIES.register("first")(First)  # the same factory again: a module imported twice
    with pytest.raises(ConfigError, match="registered already"):
        STRATEGIES.register("first")(Random)
    for bad in ("", "a+b", "Upper", " x"):
        with pytest.raises(ConfigError, match="must be lower case"):
            STRATEGIES.register(bad)(First)


def test_settings_are_picked_from_a_larger_object(registries):
    class Larger(PolicySettings):
        other: int = 3

    STRATEGIES.register("first", settings=PolicySettings)(First)
    strategy = create("first", World(n=20).pool, Larger(kappa=2.5))
    assert type(strategy.settings) is PolicySettings
    assert strategy.settings.kappa == 2.5
    assert create("first", World(n=20).pool).settings == PolicySettings()


def test_wrappers_go_around_any_strategy_in_order(registries):
    class Reversed(Wrapper):
        suffix = "reversed"

        def propose(self, state):
            proposal = self.inner.propose(state)
            return Proposal(proposal.positions[::-1], proposal.log_prob)

    STRATEGIES.register("first")(First)
    WRAPPERS.register("reversed")(Reversed)
    world = World(n=20)
    strategy = create("first+reversed", world.pool)
    assert strategy.name == "first+reversed"
    np.testing.assert_array_equal(strategy.propose(world.state(n_query=3)).positions, [2, 1, 0])
    twice = create("first+reversed+reversed", world.pool)
    np.testing.assert_array_equal(twice.propose(world.state(n_query=3)).positions, [0, 1, 2])


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Two packages with entry points on the path: one good, one broken."""
    for name, code in (
        ("theirs", "from tests.acquisition.test_base import First as It\n"),
        ("broken", "import nobody\n"),
    ):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (tmp_path / f"module_of_{name}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[psp_ray.acquisition]\n{name} = module_of_{name}:It\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_entry_points_of_other_packages_are_strategies(registries, installed):
    assert {"theirs", "broken", "random"} <= set(strategy_names())
    strategy = create("theirs", World(n=20).pool)
    assert isinstance(strategy, First)
    assert strategy.name == "theirs"
    with pytest.raises(ConfigError, match=r"'broken' can't be used: .*module_of_broken:It: ModuleNotFoundError"):
        create("broken", World(n=20).pool)


class Reach(Settings):
    reach: float = Field(1.0, gt=0, description="how far it looks")


def test_settings_of_ones_own_strategy_are_given_and_checked(registries):
    class Far(First):
        """Far."""

        settings_class = Reach

    STRATEGIES.register("far")(Far)
    pool = World(n=20).pool

    def settings(**given):
        return SamplerSettings(strategy_settings=given)

    assert create("far", pool, settings(reach=2)).settings.reach == 2.0
    assert create("far", pool, settings()).settings.reach == create("far", pool).settings.reach == 1.0
    assert create("far+pcb", pool, settings(reach=2)).inner.settings.reach == 2.0
    assert SamplerSettings(strategy_settings="reach=0.5, on=true").strategy_settings == {"reach": 0.5, "on": True}
    with pytest.raises(ConfigError, match=r"--strategy-settings reech: strategy far has no such setting; did you mean"):
        create("far", pool, settings(reech=2))
    with pytest.raises(ConfigError, match=r"^--strategy-settings reach=-1: "):
        create("far", pool, settings(reach=-1))
    STRATEGIES.register("first")(First)
    with pytest.raises(ConfigError, match="strategy first has no such setting; it has none of its own"):
        create("first", pool, settings(reach=2))
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        SamplerSettings(strategy_settings="reach")


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


@pytest.mark.parametrize(
    ("name", "read", "not_read"),
    [
        ("vssp", {"kappa", "update_steps", "coverage_width"}, {"uherding_bandwidth", "sub_size", "pcb"}),
        ("random", set(), {"kappa", "update_steps", "uherding_bandwidth", "pcb_fraction"}),
        ("uherding+pcb", {"uherding_bandwidth", "pcb", "pcb_fraction"}, {"kappa", "sub_size", "typiclust_clusters"}),
    ],
)
def test_what_a_strategy_never_sees_is_what_no_part_of_it_is_given(name, read, not_read):
    idle = unread(name)
    assert not_read <= idle
    assert not read & idle
    given = settings_of(name, SamplerSettings())
    assert not idle & {key for part in given if part is not None for key in type(part).model_fields}
    assert not idle & {"strategy", "strategy_settings", "preset", "audit_fraction"}


def test_of_an_unknown_strategy_everything_counts():
    assert unread("nobody-knows-it") == frozenset()
