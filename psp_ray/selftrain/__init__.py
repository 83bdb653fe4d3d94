"""Self-training: pseudo-labels from a teacher, the balanced choice among them, and how far to trust it. No torch."""

from psp_ray.config.selftrain import SelfTrainingSettings
from psp_ray.selftrain.records import KnownLabels, ScoreRequest, Scores
from psp_ray.selftrain.service import PseudoLabeler

__all__ = ["KnownLabels", "PseudoLabeler", "ScoreRequest", "Scores", "SelfTrainingSettings"]
