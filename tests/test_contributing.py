"""What CONTRIBUTING.md shows is tried as it stands: each example is put where it says, and a run uses it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from psp_ray.acquisition import STRATEGIES
from psp_ray.config.kinds import REWARDS
from psp_ray.core.records import LearnOutcome, TextState
from tests.acquisition.contract import check_contract
from tests.helpers import psp_ray_commands

pytestmark = pytest.mark.timeout(1200)
"""Whole processes, on machines that do other things meanwhile."""
ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"`(psp_ray/[\w/]+\.py)`, then [^`]*`[^`]*`:\n\n```python\n(.*?)```", DOCUMENT, re.DOTALL))
"""File and code of each example."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the package with the examples in it, and a file that is broken beside each."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "psp_ray", folder / "psp_ray", copy_function=os.symlink)
    for name, code in EXAMPLES.items():
        (folder / name).write_text(code, encoding="utf-8")
        (folder / name).with_name("half_done.py").write_text("import no_such_module_anywhere\n")
    return folder


def psp_ray(clone, *arguments):
    return psp_ray_commands(clone, arguments, cwd=clone)[0]


def test_the_page_shows_five_files_of_at_most_forty_lines():
    assert len(EXAMPLES) == 5
    assert all(code.count("\n") <= 40 for code in EXAMPLES.values())
    assert all(not (ROOT / name).exists() for name in EXAMPLES)


def test_strategy_data_set_rule_and_label_source_run_together(clone, tiny_model, cache_folder, tmp_path):
    done = psp_ray(
        *(clone, "run", "--dataset", "shapes", "--strategy", "far-from-text", "--strategy-settings", "far_classes=2"),
        *("--self-training", "ust", "--pseudo-source", "surer", "--oracle", "file-name", "--runner", "inline"),
        *("--rounds", 2, "--labels-per-round", 2, "--learning-steps", 2, "--views", 1, "--out", tmp_path / "out"),
        *("--model", tiny_model, "--cache", cache_folder),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["labels_used"] == 4


def test_reward_runs(clone, tiny_model, cache_folder, tmp_path):
    done = psp_ray(
        *(clone, "run", "--dataset", "shapes", "--strategy", "vssp", "--reward-gap", "surprise", "--runner", "inline"),
        *("--rounds", 2, "--labels-per-round", 2, "--learning-steps", 2, "--update-steps", 2, "--no-pictures"),
        *("--model", tiny_model, "--cache", cache_folder, "--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/policy.parquet").exists()


def test_a_broken_file_is_one_line_where_it_is_asked_for(clone, tiny_model):
    kinds = ("strategies", "datasets", "pseudo-sources", "rewards", "annotators")
    choices = (("--strategy", "half-done"), ("--reward-gap", "half-done"), ("--pseudo-source", "half-done"))
    done = psp_ray_commands(
        clone, *(("list", kind) for kind in kinds), *(("run", *choice, "--dry-run") for choice in choices), cwd=clone
    )
    for listed in done[: len(kinds)]:
        assert listed.returncode == 0, listed.stderr
        assert listed.stdout.count("half-done") == 1
        assert "can't be imported: ModuleNotFoundError: No module named 'no_such_module_anywhere'" in listed.stdout
    for asked in done[len(kinds) :]:
        assert asked.returncode == 2
        assert len(asked.stderr.strip().splitlines()) == 1
        assert "half_done.py: ModuleNotFoundError: No module named 'no_such_module_anywhere'" in asked.stderr


def load(name):
    space = {"__name__": "shown"}
    exec(EXAMPLES[name], space)
    return space


def test_the_strategy_keeps_the_contract_and_is_what_it_says():
    from tests.policy.worlds import World

    with STRATEGIES.temporary():
        shown = load("psp_ray/acquisition/far_from_text.py")["FarFromText"]
    assert check_contract("far-from-text", shown) >= 10
    world = World(n=60)
    strategy = shown(world.pool, shown.settings_class(far_classes=2))
    features = world.features.astype(np.float16).astype(np.float64)
    expected = [-sum(sorted(features[i] @ world.text.T)[-2:]) / 2 for i in range(60)]
    np.testing.assert_allclose(strategy.utilities(world.state()), expected, atol=1e-6)
    assert set(strategy.propose(world.state(n_query=5)).positions) == set(np.argsort(expected)[-5:])


def test_the_reward_is_what_it_says():
    with REWARDS.temporary():
        shown = load("psp_ray/policy/rewards/surprise.py")["surprise"]
    gap = np.array([0.0, 0.2, 0.1], np.float32)
    text = TextState(np.ones((2, 2), np.float32), 1.0)
    none = np.zeros(0, np.float32)
    worths = shown(LearnOutcome(text, np.zeros((1, 1), np.float32), gap, none, gap, none, 0.0, 1, 0))
    assert worths.new.tolist() == [0.0, 1.0, 1.0]
    assert worths.gains
