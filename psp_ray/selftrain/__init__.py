"""Self-training: pseudo-labels from a teacher, the balanced choice among them, and how far to trust it. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.core.lazily import lazily

if TYPE_CHECKING:
    from psp_ray.selftrain.records import KnownLabels, ScoreRequest, Scores
    from psp_ray.selftrain.service import PseudoLabeler

__all__ = ["KnownLabels", "PseudoLabeler", "ScoreRequest", "Scores", "SelfTrainingSettings"]

__getattr__ = lazily(
    __name__,
    {
        "KnownLabels": "records",
        "ScoreRequest": "records",
        "Scores": "records",
        "PseudoLabeler": "service",
    },
)
