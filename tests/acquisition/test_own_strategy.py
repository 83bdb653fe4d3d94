"""docs/own-strategy.md, tried as it stands: one file, one entry point, a run."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.helpers import psp_ray_commands

pytestmark = pytest.mark.timeout(1200)
DOCUMENT = Path(__file__).parents[2] / "docs" / "own-strategy.md"


@pytest.fixture
def installed(tmp_path):
    """A folder that holds what `pip install` of the documented package would leave on the path."""
    text = DOCUMENT.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    entry = re.search(r"^(farthest-from-text) = \"(.*)\"$", text, re.MULTILINE)
    folder = tmp_path / "site"
    info = folder / "far_from_text-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "far_from_text.py").write_text(code, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far-from-text\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[psp_ray.acquisition]\n{entry[1]} = {entry[2]}\n")
    return folder


def test_the_documented_strategy_runs_from_the_command_line(installed, tiny_model, tiny_folder, cache_folder, tmp_path):
    options = ["--dataset", tiny_folder, "--model", tiny_model, "--cache", cache_folder, "--runner", "inline"]
    small = ["--rounds", "2", "--labels-per-round", "3", "--learning-steps", "3"]
    weighed = ["--strategy-settings", "far_weight=2"]
    plain, wrapped, unknown, refused = psp_ray_commands(
        os.pathsep.join([str(installed), str(DOCUMENT.parents[1])]),
        ["run", "--strategy", "farthest-from-text", *options, *small, "--out", tmp_path / "plain"],
        ["run", "--strategy", "farthest-from-text+pcb", *weighed, *options, *small, "--out", tmp_path / "wrapped"],
        ["run", "--strategy", "farthest-from-txt", *options, "--dry-run"],
        ["run", "--strategy", "farthest-from-text", "--strategy-settings", "far_weight=-1", "--dry-run", *options],
    )
    for name, done in (("plain", plain), ("wrapped", wrapped)):
        assert done.returncode == 0, done.stderr
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["status"] == "finished"
        assert summary["labels_used"] == 6
    assert unknown.returncode == 2
    assert "did you mean 'farthest-from-text'" in unknown.stderr
    assert refused.returncode == 2
    assert "--strategy-settings far_weight=-1: " in refused.stderr


def test_it_is_what_it_says(installed, monkeypatch):
    import numpy as np

    from tests.acquisition.contract import check_contract
    from tests.policy.worlds import World

    monkeypatch.syspath_prepend(str(installed))
    from far_from_text import FarthestFromText

    world = World(n=100)
    check_contract("farthest-from-text", FarthestFromText)
    chosen = FarthestFromText(world.pool).propose(world.state(n_query=7)).positions
    nearest = (world.features.astype(np.float16).astype(np.float64) @ world.text.T).max(axis=1)
    np.testing.assert_array_equal(chosen, np.argsort(nearest)[:7])
    sys.modules.pop("far_from_text")
