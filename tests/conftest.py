"""Fixtures shared by the tests: a tiny CLIP model on disk and a tiny folder of pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before torch is imported: on two cores, two threads that wait for each other take many times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers give way to everything else by default: beside other work they would stand still until a test times out.
os.environ.setdefault("RAY_worker_niceness", "0")

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
COLORS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}


LONGEST = ("studies/sweep/test_sweep", "run/test_run", "studies/", "test_", "actors/", "cluster/")
"""Files that take longest: first, so that no process ends up alone with them; those that start Ray not side by side."""


def pytest_collection_modifyitems(items) -> None:
    """The longest files first; within a file, and among the others, everything stays in its order."""
    root = Path(__file__).parent

    def place(item) -> int:
        name = item.path.relative_to(root).as_posix()
        return next((at for at, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))

    items.sort(key=place)


def pytest_runtest_setup(item) -> None:
    """Tests marked `gpu` are skipped where torch sees no card; torch is imported for those alone."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("torch sees no GPU here")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> str:
    """`--model` value of a random two-layer CLIP, saved as an open_clip folder."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-clip")
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.model.CLIP(**{"embed_dim": 24, "vision_cfg": TINY["vision_cfg"], "text_cfg": TINY["text_cfg"]})
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def paint(path: Path, color, rng) -> None:
    from PIL import Image

    pixels = np.clip(np.asarray(color) + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """Class folders of noisy colored squares: 3 classes, 20 images each."""
    folder = tmp_path_factory.mktemp("colors")
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        for number in range(20):
            paint(folder / name / f"{number:02d}.png", color, rng)
    return folder


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("feature-cache")


@pytest.fixture(scope="session")
def tiny_settings(tiny_model, cache_folder) -> Mapping[str, Any]:
    """Settings of small runs in this process, in which every image that has views may get a pseudo-label."""
    return {
        "model": tiny_model,
        "cache": str(cache_folder),
        "views": "2",
        "confidence_min": 0.0,
        "uncertainty_max": 1.0,
        "runner": "inline",
    }


@pytest.fixture(scope="session")
def two_rounds(tiny_settings, tiny_folder) -> Mapping[str, Any]:
    """Settings of the smallest run in which a round can follow another one; it still wants `out`."""
    return {
        **tiny_settings,
        "dataset": str(tiny_folder),
        "rounds": 2,
        "labels_per_round": 3,
        "learning_steps": 4,
        "update_steps": 2,
        "pictures": False,
    }
