"""A comparison small enough to run in seconds: two folders of colored squares and a random CLIP."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from psp_ray.studies.command import Request, compare
from tests.conftest import paint

ROUNDS = 3


@pytest.fixture(scope="session")
def shades(tmp_path_factory):
    """A second folder: 4 classes, 12 images each."""
    folder = tmp_path_factory.mktemp("worlds") / "shades"
    rng = np.random.default_rng(1)
    for name, level in {"dark": 50, "middle": 110, "pale": 180, "white": 240}.items():
        for number in range(12):
            paint(folder / name / f"{number:02d}.png", (level, level, level), rng)
    return folder


@pytest.fixture
def settings(tiny_settings):
    return {
        **tiny_settings,
        "rounds": ROUNDS,
        "learning_steps": 6,
        "update_steps": 3,
        "pictures": False,
    }


@pytest.fixture
def start(settings, tiny_folder, shades):
    """Run a comparison; returns its exit code."""

    def run(out, strategies="random:none,psp", seeds=2, datasets=None, study=None, **more):
        request_keys = ("study_file", "pairs", "parallel", "replace_changed", "report", "dry_run")
        console = more.pop("console", None) or Console(quiet=True)
        extra = {key: more.pop(key) for key in request_keys if key in more}
        own = {"datasets": datasets or f"{tiny_folder},{shades}", "strategies": strategies, "seeds": seeds}
        request = Request({**own, **(study or {})}, {**settings, **more, "out": str(out)}, **extra)
        return compare(request, console)

    return run
