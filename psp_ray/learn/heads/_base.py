"""What a head is: labels and opinions in, class vectors out."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psp_ray.config.kinds import HEADS
from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError, UserError
from psp_ray.core.others import is_others
from psp_ray.core.records import Float32Array, Float64Array, Int32Array, Int64Array, Moments, TextState
from psp_ray.learn.solvers import Affine, classifier, fit_scale, telling

TEMPERATURE_SPREAD = 0.7
"""Standard deviation of the logarithm of a classifier's temperature before any label."""


@dataclass(frozen=True)
class Fold:
    """The request's samples as they would be had some bought labels not been bought.

    `held` (h,): rows of the bought samples that are judged. `targets` (n, C) and `weights` (n,): of all rows, with
    *everything* computed anew that a held label touched (graph, posterior, pseudo-labels); weights of the held rows
    are those of an unlabeled sample, or 0.
    """

    held: Int64Array
    targets: Float32Array
    weights: Float64Array


@dataclass(frozen=True)
class FitRequest:
    """What a head is fitted to.

    Args:
        features: (n, d) unit features of bought and pseudo-labeled samples.
        targets: (n, C) rows that sum to 1: a bought label is a row of one 1, a pseudo-label may be a distribution.
        weights: (n,) >= 0; what a sample counts in the sum of losses, 1 for a bought label.
        bought: (n,) whether the row's target is a bought label.
        zero_shot: the teacher that saw no label.
        prompt: the learned prompts, where there are any.
        folds: for heads that choose by cross-fitting; may be empty.
        rest: moments of images that are not among the rows, weighted as they count; for heads in closed form.
        seed: seed of all noise.
    """

    features: Float32Array
    targets: Float32Array
    weights: Float64Array
    bought: NDArray[np.bool_]
    zero_shot: TextState
    prompt: TextState | None = None
    folds: tuple[Fold, ...] = ()
    rest: Moments | None = None
    seed: int = 0
    _left: dict[int, FitRequest] = field(init=False, repr=False, compare=False, default_factory=dict)
    _made: dict[Hashable, Affine] = field(init=False, repr=False, compare=False, default_factory=dict)

    def once(self, name: Hashable, make: Callable[[], Affine]) -> Affine:
        """What `make` makes of this request; made at the first call of that `name` alone.

        A fold is asked the same twice: what it says for the choice of a head's own weights, and whether the round's
        classifier is worse than the one before.
        """
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def n_classes(self) -> int:
        return int(self.targets.shape[1])

    @property
    def counts(self) -> Float64Array:
        """(C,) samples of each class among the rows, by their targets and weights."""
        counts: Float64Array = self.targets.T.astype(np.float64) @ self.weights
        return counts

    @property
    def labels(self) -> Int64Array:
        """(m,) classes of the bought rows, in row order."""
        classes: Int64Array = self.targets[self.bought].argmax(axis=1)
        return classes

    @property
    def anchor(self) -> TextState:
        """The learned prompts, or zero-shot where there are none."""
        return self.zero_shot if self.prompt is None else self.prompt

    def without(self, fold: Fold) -> FitRequest:
        """The request as it would be without a fold's held labels; the same one whenever one of `folds` is asked."""
        place = next((at for at, own in enumerate(self.folds) if own is fold), None)
        if place is not None and place in self._left:
            return self._left[place]
        bought = self.bought.copy()
        bought[fold.held] = False
        left = replace(self, targets=fold.targets, weights=fold.weights, bought=bought, folds=(), rest=None)
        if place is not None:
            self._left[place] = left
        return left

    def only(self, rows: Int64Array) -> FitRequest:
        """The request of some rows (m,) alone."""
        return replace(
            self,
            features=self.features[rows],
            targets=self.targets[rows],
            weights=self.weights[rows],
            bought=self.bought[rows],
            folds=(),
            rest=None,
        )

    def check(self) -> None:
        """Raise ConfigError where there is nothing to fit, ValueError where shapes or values do not fit together."""
        n, n_classes = self.targets.shape
        if self.features.shape[0] != n or self.weights.shape != (n,) or self.bought.shape != (n,):
            raise ValueError(
                f"features {self.features.shape}, targets {self.targets.shape}, weights {self.weights.shape} and "
                f"bought {self.bought.shape} are not of the same samples"
            )
        if self.zero_shot.features.shape != (n_classes, self.features.shape[1]):
            raise ValueError(f"class embeddings {self.zero_shot.features.shape} for {n_classes} classes")
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all() and (self.targets >= 0).all()):
            raise ValueError("weights and targets must be finite and not negative")
        if not (self.weights > 0).any():
            raise ConfigError("nothing to learn from: no labels and no pseudo-labels; raise labels_per_round")


class Head(Protocol):
    """A way from samples to class vectors; a function of its arguments alone."""

    def __call__(self, request: FitRequest, settings: LearnSettings) -> TextState: ...


def fit(head: str, request: FitRequest, settings: LearnSettings) -> TextState:
    """The classifier that a head makes of a request: class vectors (C, d), bias (C,) and logit scale.

    The same request gives the same bits; exchanging classes exchanges the result; a sample of weight 0 changes nothing.

    Raises:
        ConfigError: an unknown head, or nothing to learn from.
    """
    request.check()
    make = HEADS.find(head)
    text = make(request, settings)
    if is_others(make):
        _check_made(head, text, request)
    return text


def _check_made(head: str, text: TextState, request: FitRequest) -> None:
    """Raise a UserError where a head of another package made no classifier for the request."""
    shape = request.zero_shot.features.shape
    if np.shape(text.features) != shape:
        raise UserError(f"head {head!r} made class vectors of shape {np.shape(text.features)}, not {shape}; mend it")
    if not (np.isfinite(text.features).all() and np.isfinite(text.offset).all() and np.isfinite(text.logit_scale)):
        raise UserError(f"head {head!r} made class vectors, biases or a scale that are no numbers (NaN, inf); mend it")


def as_sure(found: Affine, request: FitRequest) -> Affine:
    """A classifier whose logits are scaled to be as sure as the targets of the request are."""
    rows, weights = telling(request.weights, request.n_classes)
    return found.scaled(fit_scale(found.logits(request.features[rows]), request.targets[rows], weights))


def as_sure_as_told(text: TextState, request: FitRequest) -> Affine:
    """The logits of a classifier that saw no label, times the factor of largest posterior given the bought labels.

    One whose logits say little about the labels stays weak.
    """
    found = affine_of(text)
    told = request.bought & (request.weights > 0)
    logits = found.logits(request.features[told])
    return found.scaled(fit_scale(logits, request.targets[told], request.weights[told], TEMPERATURE_SPREAD))


def affine_of(text: TextState) -> Affine:
    """`logits = f @ vectors.T + bias` of a classifier."""
    vectors = text.logit_scale * text.features.astype(np.float64)
    bias = np.zeros(len(vectors)) if text.bias is None else text.bias.astype(np.float64)
    return Affine(vectors, bias)


def text_of(affine: Affine) -> TextState:
    """The classifier of given logits, with vectors of mean square length 1."""
    vectors, bias, scale = classifier(affine)
    return TextState(vectors, scale, bias)


def one_hot(labels: NDArray[Any] | Int32Array, n_classes: int) -> Float32Array:
    """Targets (n, C) of labels (n,)."""
    targets = np.zeros((len(labels), n_classes), np.float32)
    targets[np.arange(len(labels)), np.asarray(labels, np.int64)] = 1.0
    return targets
