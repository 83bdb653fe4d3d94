"""What other packages add and what of it fails: one line that names their file, wherever the call comes from."""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
import traceback

import numpy as np
import pytest

from psp_ray.acquisition import STRATEGIES
from psp_ray.acquisition.base import create, settings_of
from psp_ray.actors.shell import ComponentActor
from psp_ray.actors.transport import pack
from psp_ray.cli.main import main
from psp_ray.config.acquisition import SamplerSettings
from psp_ray.config.kinds import HEADS, PSEUDO_SOURCES, REWARDS
from psp_ray.core.errors import ConfigError, OthersError, UserError
from psp_ray.core.others import fault_of
from psp_ray.data.registry import DATASETS
from psp_ray.run.resolve import resolve
from psp_ray.studies.execute import run_one
from tests.policy.worlds import World

CODE = """
import numpy as np
from pydantic import Field
from psp_ray.acquisition import Strategy
from psp_ray.config.base import Settings
from psp_ray.core.records import TextState

class Weight(Settings):
    far_weight: float = Field(1.0, ge=0)

class Missing(Strategy):
    settings_class = Weight
    def score(self, block, state):
        return np.where(block.positions % 2, np.nan, 1.0)

class Short(Strategy):
    def score(self, block, state):
        return np.zeros(2)

class Words(Strategy):
    def score(self, block, state):
        return ["a"] * len(block.positions)

class Raises(Strategy):
    def score(self, block, state):
        return self.deeper(block)
    def deeper(self, block):
        return np.linalg.inv(np.zeros((2, 2)))  # here

def head_raises(request, settings):
    return 1 / 0  # head

def head_of_nan(request, settings):
    zero = request.zero_shot
    return TextState(np.full_like(zero.features, np.nan), zero.logit_scale)

def head_of_few(request, settings):
    zero = request.zero_shot
    return TextState(zero.features[:1], zero.logit_scale)

class Called:
    def it(self):
        return Raises.deeper(Raises.__new__(Raises), None)

def no_reward(outcome):
    return 1 / 0  # reward

def no_data(request):
    return open("/nowhere/at/all")  # data

class Source:
    def __init__(self):
        raise KeyError("source")  # source
"""
GROUPS = {
    STRATEGIES: {"missing": "Missing", "short": "Short", "words": "Words", "raises": "Raises"},
    HEADS: {"head-raises": "head_raises", "head-of-nan": "head_of_nan", "head-of-few": "head_of_few"},
    REWARDS: {"no-reward": "no_reward"},
    DATASETS: {"no-data": "no_data"},
    PSEUDO_SOURCES: {"no-source": "Source"},
}


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The file of a package with an entry point for each of these, on the path."""
    info = tmp_path / "site" / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    file = tmp_path / "site" / "theirs.py"
    file.write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = [
        f"[{registry.package}]\n" + "".join(f"{name} = theirs:{value}\n" for name, value in known.items())
        for registry, known in GROUPS.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with contextlib.ExitStack() as stack:
        for registry in GROUPS:
            stack.enter_context(registry.temporary())
        yield file
    sys.modules.pop("theirs", None)


def line_of(file, mark):
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if line.endswith(f"# {mark}"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", r"strategy missing: score gave no number \(NaN\) for 10 of 20 samples, first for sample 1 "),
        ("short", r"strategy short: score gave an array of shape \(2,\) for the 20 samples of a block"),
        ("words", r"strategy words: score gave no numbers \(list\)"),
    ],
)
def test_scores_that_are_none_are_told(theirs, name, said):
    world = World(n=20)
    with pytest.raises(UserError, match=said):
        create(name, world.pool).propose(world.state(n_query=3))


def test_settings_of_ones_own_are_called_as_they_were_given(theirs):
    with pytest.raises(ConfigError, match=r"^--strategy-settings far_weight=-1: input should be"):
        settings_of("missing", SamplerSettings(strategy_settings={"far_weight": -1}))


def test_the_place_is_the_last_one_of_theirs(theirs):
    world = World(n=20)
    try:
        create("raises", world.pool).propose(world.state(n_query=3))
    except np.linalg.LinAlgError as error:
        found = fault_of(error)
        whole = traceback.format_exc()
    line = line_of(theirs, "here")
    told = f"strategy 'raises' failed at {theirs}:{line}, in deeper: LinAlgError: Singular matrix; mend it"
    assert str(found) == told
    assert found.details == whole
    again = pickle.loads(pickle.dumps(found))
    assert (type(again), str(again), again.details) == (OthersError, str(found), whole)
    with pytest.raises(ValueError, match="reshape") as ours:
        np.zeros(3).reshape(2)
    assert fault_of(ours.value) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--strategy", "raises"], "in deeper: LinAlgError: Singular matrix"),
        (["--strategy", "random", "--head", "head-raises"], "in head_raises: ZeroDivisionError: division by zero"),
        (["--strategy", "random", "--head", "head-of-nan"], "head 'head-of-nan' made class vectors, biases or a scale"),
        (["--strategy", "random", "--head", "head-of-few"], "made class vectors of shape (1, 24), not (3, 24)"),
        (["--strategy", "vssp", "--reward-gap", "no-reward"], "in no_reward: ZeroDivisionError"),
        (["--strategy", "random", "--self-training", "ust", "--pseudo-source", "no-source"], "in __init__: KeyError"),
        (["--dataset", "no-data"], "in no_data: FileNotFoundError"),
    ],
)
def test_a_command_ends_with_one_line_and_the_log_has_the_traceback(theirs, two_rounds, tmp_path, capsys, given, said):
    """Exit code 2, not a traceback on the screen."""
    plain = {key: value for key, value in two_rounds.items() if key != "pictures"} | {"self_training": "none"}
    words = [word for key, value in plain.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit) as ended:
        main(["run", *words, "--no-html", "--no-pictures", "--out", str(tmp_path / "run"), *given])
    told = capsys.readouterr().err
    assert ended.value.code == 2, told
    assert said in told.splitlines()[-1]
    assert "Traceback" not in told
    log = tmp_path / "run" / "run.log"
    assert ("failed at" in told) == ("made class" not in told)
    if "--dataset" in given:
        assert not log.exists()
    elif "failed at" in told:
        assert told.endswith(f"(traceback: {log})\n")
        assert "Traceback (most recent call last)" in log.read_text()
        assert f"{theirs}" in log.read_text()


def test_an_actor_hands_on_the_line_and_the_traceback(theirs):
    """Ray keeps of other errors their text alone."""
    STRATEGIES.entry("raises")
    actor = ComponentActor("theirs:Called", pack([]), 1)
    with pytest.raises(OthersError, match=r"strategy .raises. failed at .*, in deeper: LinAlgError") as error:
        actor.call("it", pack([]))
    assert f'{theirs}", line {line_of(theirs, "here")}' in error.value.details
    with pytest.raises(OthersError, match="in head_raises: ZeroDivisionError"):
        ComponentActor("theirs:head_raises", pack([1, 2]), 1).call("it", pack([]))


def test_a_comparison_says_it_in_one_line_too(theirs, two_rounds, tmp_path):
    config = resolve({**two_rounds, "strategy": "raises", "self_training": "none", "out": str(tmp_path / "run")})
    outcome = run_one(json.dumps(config.flat()))
    assert outcome.error.startswith("strategy 'raises' failed at")
    assert "LinAlgError" in outcome.details
