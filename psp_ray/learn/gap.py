"""The gap that the reward looks at: how far a classifier is from naming a label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.records import Float32Array, Int32Array, TextState
from psp_ray.learn.evaluate import similarities


def label_gap(text: TextState, features: NDArray[Any], labels: Int32Array) -> Float32Array:
    """`max_c cos_kc - cos_k,yk` >= 0 (method.md, step 7): features (k, d), labels (k,) -> (k,) float32."""
    if len(labels) == 0:
        return np.zeros(0, np.float32)
    cosines = similarities(text, features)
    own = cosines[np.arange(len(labels)), labels]
    gap: Float32Array = (cosines.max(axis=1) - own).astype(np.float32)
    return gap
