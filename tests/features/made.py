"""What tests of featurizing share: a toy encoder's features, and how all of them are compared."""

from __future__ import annotations

import numpy as np

from psp_ray.data.images import ViewSettings
from psp_ray.features.cache import EncoderSpec
from tests.data.made import DIM, PREP

SPEC = EncoderSpec("toy", PREP, DIM)
VIEWS = ViewSettings(count=3, seed=2)


def unit(values):
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float16)


def all_bits(done):
    return (
        done.pool.block(0, views=True).features.tobytes(),
        done.pool.block(0, views=True).views.tobytes(),
        done.val.load().tobytes(),
        done.test.load().tobytes(),
        done.content_hashes,
    )
