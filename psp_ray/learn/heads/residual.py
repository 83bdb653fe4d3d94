"""Class embeddings plus a learned residual."""

from __future__ import annotations

from psp_ray.config.kinds import HEADS
from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import TextState
from psp_ray.learn.heads._base import FitRequest, affine_of, text_of
from psp_ray.learn.solvers import fit_logistic, fit_scale

TEMPERATURE_SPREAD = 0.7
"""Standard deviation of the logarithm of the anchor's temperature before any label."""


@HEADS.register(
    "residual", source="TaskRes (Yu et al., CVPR 2023), LP++ (Huang et al., CVPR 2024), CLAP (Silva-Rodriguez et al.)"
)
def residual(request: FitRequest, settings: LearnSettings) -> TextState:
    """Zero-shot's (or the prompt's) logits plus a linear residual, with an L2 penalty on the residual alone.

    `a z + R f + r`: the factor a on the anchor's logits z has the largest posterior given the bought labels, which
    zero-shot has never seen; a weak teacher whose logits say little stays weak.
    """
    anchor = affine_of(request.anchor)
    bought = request.bought & (request.weights > 0)
    factor = fit_scale(
        anchor.logits(request.features[bought]),
        request.targets[bought],
        request.weights[bought],
        TEMPERATURE_SPREAD,
    )
    anchor = anchor.scaled(factor)
    offset = anchor.logits(request.features)
    learned = fit_logistic(request.features, request.targets, request.weights, settings.head_penalty, offset=offset)
    return text_of(anchor.plus(learned))
