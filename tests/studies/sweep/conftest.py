"""The session's Ray, and the options of a sweep small enough for a test."""

import pytest

from tests.actors.conftest import local_ray  # noqa: F401
from tests.conftest import paint


@pytest.fixture(scope="session")
def second_folder(tmp_path_factory):
    """Two classes of noisy gray squares, 20 images each."""
    import numpy as np

    folder = tmp_path_factory.mktemp("grays")
    rng = np.random.default_rng(1)
    for name, color in {"dark": (60, 60, 60), "light": (180, 180, 180)}.items():
        for number in range(20):
            paint(folder / name / f"{number:02d}.png", color, rng)
    return folder


@pytest.fixture
def given(tiny_model, tiny_folder, second_folder, cache_folder):
    """Options as the command line hands them on."""
    settings = {
        "model": tiny_model,
        "cache": cache_folder,
        "rounds": 2,
        "learning_steps": 4,
        "update_steps": 2,
        "pictures": False,
        "views": 2,
        "workers": 1,
    }
    return {
        "datasets": f"{tiny_folder},{second_folder}",
        "labels_per_class": "1,2",
        "beta": "0.3,0.7",
        "tau": None,
        "gamma": None,
        "vary": ("pseudo_weight=0.1..0.5",),
        "fixed": tuple(f"{key}={value}" for key, value in settings.items()),
        "searcher": "random",
        "scheduler": "none",
        "grace_rounds": 1,
        "seed": 0,
        "runner": "inline",
    }
