"""A linear probe of labels that scikit-learn's label spreading gives to all samples."""

from __future__ import annotations

import numpy as np

from psp_ray.config.kinds import HEADS
from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import TextState
from psp_ray.learn.heads._base import FitRequest, text_of
from psp_ray.learn.solvers import fit_logistic
from psp_ray.learn.spreading import UNLABELED, spread_labels


@HEADS.register("spreading", source="Zhou et al., NIPS 2003 (scikit-learn's LabelSpreading), then a linear probe")
def spreading(request: FitRequest, settings: LearnSettings) -> TextState:
    """A reference: bought labels spread by scikit-learn over the request's samples, whatever else was said of them.

    Opinions of self-training count for nothing but which samples are there, and how much each weighs. Without
    pseudo-labeled samples it is the linear probe.
    """
    used = request.weights > 0
    labels = np.where(request.bought & used, request.targets.argmax(axis=1), UNLABELED)
    targets = request.targets.astype(np.float64)
    if (labels[used] != UNLABELED).any():
        spread = spread_labels(request.features[used], labels[used], request.n_classes)
        targets[used] = np.where(request.bought[used, None], targets[used], spread)
    return text_of(fit_logistic(request.features, targets, request.weights, settings.head_penalty))
