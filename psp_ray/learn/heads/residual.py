"""Class embeddings plus a learned residual."""

from __future__ import annotations

import numpy as np

from psp_ray.config.kinds import HEADS
from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import Float64Array, TextState
from psp_ray.learn.heads._base import FitRequest, as_sure_as_told, text_of
from psp_ray.learn.solvers import fit_logistic

SIZE_SHARE = 0.5
"""How much of the log of a class's samples is explained by its size: 0 nothing, 1 all, as with a balanced softmax."""
LEAST_SIZE = 0.01
"""Samples that each class is sure to have, so that a class without any is hardly pushed away."""


@HEADS.register(
    "residual", source="TaskRes (Yu et al., CVPR 2023), LP++ (Huang et al., CVPR 2024), CLAP (Silva-Rodriguez et al.)"
)
def residual(request: FitRequest, settings: LearnSettings) -> TextState:
    """Zero-shot's (or the prompt's) logits plus a linear residual, with an L2 penalty on the residual alone.

    `a z + R f + r`: the factor a on the anchor's logits z has the largest posterior given the bought labels, which
    zero-shot has never seen; a weak teacher whose logits say little stays weak. Half of what tells how frequent a class
    is among the samples is fitted but not learned (`size_odds`): rare classes keep what zero-shot knew of them.
    """
    anchor = as_sure_as_told(request.anchor, request)
    offset = anchor.logits(request.features) + size_odds(request)
    learned = fit_logistic(request.features, request.targets, request.weights, settings.head_penalty, offset=offset)
    return text_of(anchor.plus(learned))


def size_odds(request: FitRequest) -> Float64Array:
    """(C,) what the sizes of the classes among the samples add to the logits while they are fitted, and only then.

    `SIZE_SHARE log(n_c + LEAST_SIZE)` with mean 0: the balanced softmax (Ren et al., NeurIPS 2020) or logit adjustment
    (Menon et al., ICLR 2021) at half strength. What was bought says little about how frequent classes are where the
    classifier will be used; half of it costs nothing on pools like the one that was labeled.
    """
    odds = SIZE_SHARE * np.log(request.counts + LEAST_SIZE)
    centered: Float64Array = odds - odds.mean()
    return centered
