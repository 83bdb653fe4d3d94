"""A linear probe."""

from __future__ import annotations

from psp_ray.config.kinds import HEADS
from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import TextState
from psp_ray.learn.heads._base import FitRequest, text_of
from psp_ray.learn.solvers import fit_logistic


@HEADS.register("linear", source="Radford et al., ICML 2021, section 3.2")
def linear(request: FitRequest, settings: LearnSettings) -> TextState:
    """Multinomial logistic regression of the features, with no word about what the classes are called."""
    return text_of(fit_logistic(request.features, request.targets, request.weights, settings.head_penalty))
