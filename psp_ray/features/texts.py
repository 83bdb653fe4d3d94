"""Class embeddings that a text tower has made, kept in the cache beside the images' features. No torch here.

    CACHE/texts/KEY.safetensors           class_embeddings (C, d) float32, logit_scale () float64

Whoever wants no more of the tower than these needs neither the model nor the libraries that run it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from psp_ray.core.errors import UserError
from psp_ray.core.files import make_folder, write_tensors
from psp_ray.core.records import TextState

FOLDER = "texts"
LIBRARIES = ("torch", "open_clip_torch")
"""Whose arithmetic the embeddings are."""
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Where there is one of these, `--device auto` may mean a GPU, and torch has to be asked."""


@dataclass(frozen=True)
class KeptTexts:
    """A zero-shot classifier, and the description of the model that made it as plain JSON values."""

    text: TextState
    backbone: dict[str, Any]


def texts_key(asked: Mapping[str, Any]) -> str:
    """Name of what a tower makes of `asked`: JSON values of all that it depends on but the libraries' versions."""
    libraries = {name: version(name) for name in LIBRARIES}
    text = json.dumps({**asked, "libraries": libraries}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def surely_on_cpu(device: str) -> bool:
    """Whether a model runs on the CPU, as far as can be told without torch."""
    return device.startswith("cpu") or (device == "auto" and not any(map(os.path.exists, DRIVERS)))


def find_texts(cache: str | os.PathLike[str], key: str) -> KeptTexts | None:
    """What was kept under a key; None where nothing was, or it is damaged."""
    path = _place(cache, key)
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            features, scale = file.get_tensor("class_embeddings"), file.get_tensor("logit_scale")
        backbone = json.loads(header["backbone"])
    except Exception:  # absent, or damaged in whatever way: it is made anew
        return None
    if header.get("digest") != _digest(features, scale, backbone):
        return None
    return KeptTexts(TextState(features, float(scale)), backbone)


def keep_texts(cache: str | os.PathLike[str], key: str, kept: KeptTexts) -> None:
    """Keep what a tower has made; where it can't be written, the next run makes it again."""
    features = np.ascontiguousarray(kept.text.features, np.float32)
    scale = np.asarray(kept.text.logit_scale, np.float64)
    path = _place(cache, key)
    header = {"backbone": json.dumps(kept.backbone), "digest": _digest(features, scale, kept.backbone)}
    with suppress(UserError):
        make_folder(path.parent)
        write_tensors(path, {"class_embeddings": features, "logit_scale": scale}, header)


def _place(cache: str | os.PathLike[str], key: str) -> Path:
    return Path(cache) / FOLDER / f"{key}.safetensors"


def _digest(features: np.ndarray, scale: np.ndarray, backbone: Mapping[str, Any]) -> str:
    about = json.dumps([list(features.shape), features.dtype.str, backbone], sort_keys=True)
    return hashlib.blake2b(features.tobytes() + scale.tobytes() + about.encode(), digest_size=16).hexdigest()
