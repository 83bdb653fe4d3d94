"""Gaussian discriminant analysis, in closed form."""

from __future__ import annotations

from psp_ray.config.kinds import HEADS
from psp_ray.config.learn import LearnSettings
from psp_ray.core.probability import softmax
from psp_ray.core.records import TextState
from psp_ray.learn.heads._base import FitRequest, affine_of, as_sure, text_of
from psp_ray.learn.solvers import Affine, fit_discriminant

PRIOR_WEIGHT = 1.0
"""Samples a class that zero-shot's opinion about the images counts for: a class of few samples keeps some of it."""


@HEADS.register("gda", source="Wang et al., ICLR 2024 (arXiv 2402.04087)")
def gda(request: FitRequest, settings: LearnSettings) -> TextState:
    """One Gaussian a class with a common, shrunken covariance; means from soft labels, scale from their likelihood."""
    return text_of(discriminant(request, settings))


def discriminant(request: FitRequest, settings: LearnSettings) -> Affine:
    """The discriminant of a request, its logits scaled to be as sure as the targets are."""
    name = (discriminant, settings.head_shrinkage)
    return request.once(name, lambda: as_sure(natural(request, settings), request))


def natural(request: FitRequest, settings: LearnSettings) -> Affine:
    """The same at the scale that its Gaussians give it, which fits of parts of the labels share."""
    opinions = softmax(affine_of(request.zero_shot).logits(request.features))
    return fit_discriminant(
        request.features,
        request.targets,
        request.weights,
        settings.head_shrinkage,
        prior=opinions,
        prior_weight=PRIOR_WEIGHT,
        rest=request.rest,
    )
