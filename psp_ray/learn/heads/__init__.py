"""Heads: what a round's labels and pseudo-labels are turned into. A new one is a new file here.

    @HEADS.register("linear", source="...")
    def linear(request: FitRequest, settings: LearnSettings) -> TextState: ...

All heads are class vectors with a bias, so that whatever predicts or exports a classifier serves them all.
"""

from __future__ import annotations

from psp_ray.config.kinds import HEADS
from psp_ray.learn.heads._base import FitRequest, Fold, Head, affine_of, fit, one_hot, text_of

__all__ = ["HEADS", "FitRequest", "Fold", "Head", "affine_of", "fit", "one_hot", "text_of"]
