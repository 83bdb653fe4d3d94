"""The gap that the reward looks at: how far a classifier is from naming a label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.records import BLOCK_SIZE, Float32Array, Int32Array, TextState
from psp_ray.learn.evaluate import similarities


def label_gap(text: TextState, features: NDArray[Any], labels: Int32Array) -> Float32Array:
    """`max_c cos_kc - cos_k,yk` >= 0 (method.md, step 7): features (k, d), labels (k,) -> (k,) float32."""
    gap = np.zeros(len(labels), np.float32)
    for at in range(0, len(labels), BLOCK_SIZE):
        cosines = similarities(text, features[at : at + BLOCK_SIZE])
        own = cosines[np.arange(len(cosines)), labels[at : at + BLOCK_SIZE]]
        gap[at : at + BLOCK_SIZE] = cosines.max(axis=1) - own
    return gap
