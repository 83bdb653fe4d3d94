"""The two training schedules, as streams of batches and learning rates.

`short` (ours) sees every label in every step. `pcb` is the protocol of PCB's released code: batches of 32 over labels
and pseudo-labels alike, 200 epochs, SGD at 0.002 falling along a cosine after one epoch at 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import Int32Array, Int64Array

PCB_EPOCHS = 200
PCB_BATCH = 32
PCB_LEARNING_RATE = 0.002
PCB_WARMUP_RATE = 1e-5
PCB_MOMENTUM = 0.9
PCB_WEIGHT_DECAY = 5e-4
LITE_TOKEN_SIZE = 0.0507
LITE_LOGIT_SCALE = 15.5


@dataclass(frozen=True)
class Step:
    """One optimizer step: rows of the labeled and of the pseudo-labeled samples (None: all), their weights in the loss
    and the factor on the learning rate."""

    labeled: Int64Array | None
    pseudo: Int64Array | None
    labeled_weight: float
    pseudo_weight: float
    rate: float


def make_optimizer(
    settings: LearnSettings, contexts: Tensor, shrink: float, unit: float = 1.0
) -> torch.optim.Optimizer:
    """The schedule's optimizer.

    `shrink` multiplies its learning rate after a failed attempt, `unit` that of protocol short (see `rate_unit`).
    Decay towards the start is not the optimizer's: `pull` does it.
    """
    if settings.protocol == "pcb":
        return torch.optim.SGD(
            [contexts], PCB_LEARNING_RATE * shrink, momentum=PCB_MOMENTUM, weight_decay=PCB_WEIGHT_DECAY
        )
    rate = settings.learning_rate * shrink * unit
    decay = settings.weight_decay if settings.decay_towards == "zero" else 0.0
    if settings.optimizer == "sgd":
        return torch.optim.SGD([contexts], rate, momentum=0.9, weight_decay=decay)
    return torch.optim.AdamW([contexts], rate, weight_decay=decay)


def model_unit(token_size: float, logit_scale: float) -> float:
    """Factor on a learning rate that was chosen for psp-lite, for a model with other tokens and another logit scale.

    Adam's steps have the length of the rate whatever the gradient: they should be the same share of a token's size
    (root mean square of the token embeddings' entries). The same change of a cosine moves the logits by the scale, so
    the rate goes as one over it.
    """
    return (token_size / LITE_TOKEN_SIZE) * (LITE_LOGIT_SCALE / logit_scale)


def anchored(settings: LearnSettings) -> bool:
    """Whether anything holds the prompt to zero-shot; PCB's protocol, taken literally, does not."""
    return settings.protocol == "short" and (settings.anchor_weight > 0 or _pulls(settings))


def pull(settings: LearnSettings, contexts: Tensor, target: Tensor, rate: float) -> None:
    """Decoupled decay (Loshchilov and Hutter, ICLR 2019) towards `target`, after a step at learning rate `rate`."""
    if _pulls(settings):
        with torch.no_grad():
            contexts.lerp_(target, min(1.0, rate * settings.weight_decay))


def _pulls(settings: LearnSettings) -> bool:
    return settings.protocol == "short" and settings.decay_towards == "start" and settings.weight_decay > 0


def count_steps(settings: LearnSettings, n_labeled: int, n_pseudo: int) -> int:
    """Steps of the whole schedule."""
    if settings.protocol == "pcb":
        total = n_labeled + n_pseudo
        return PCB_EPOCHS * max(1, total // PCB_BATCH)
    return settings.learning_steps


def steps(
    settings: LearnSettings, n_labeled: int, pseudo_labels: Int32Array, rng: np.random.Generator
) -> Iterator[Step]:
    """The schedule's steps for `n_labeled` labels and the given pseudo-labels (p,)."""
    if settings.protocol == "pcb":
        return _pcb_steps(settings, n_labeled, len(pseudo_labels), rng)
    return _short_steps(settings, n_labeled, pseudo_labels, rng)


def _short_steps(
    settings: LearnSettings, n_labeled: int, pseudo_labels: Int32Array, rng: np.random.Generator
) -> Iterator[Step]:
    total = settings.learning_steps
    draw_labels = _passes(n_labeled, settings.label_batch, rng) if n_labeled > settings.label_batch else None
    strata = [np.flatnonzero(pseudo_labels == label) for label in np.unique(pseudo_labels)]
    for index in range(total):
        pseudo: Int64Array | None = np.zeros(0, np.int64)
        if len(pseudo_labels) > settings.pseudo_batch:
            pseudo = _stratified(strata, settings.pseudo_batch, rng)
        elif len(pseudo_labels):
            pseudo = None
        yield Step(
            labeled=next(draw_labels) if draw_labels is not None else (None if n_labeled else np.zeros(0, np.int64)),
            pseudo=pseudo,
            labeled_weight=1.0,
            pseudo_weight=settings.pseudo_weight,
            rate=0.5 * (1.0 + math.cos(math.pi * index / total)),
        )


def _pcb_steps(settings: LearnSettings, n_labeled: int, n_pseudo: int, rng: np.random.Generator) -> Iterator[Step]:
    total = n_labeled + n_pseudo
    batch = min(PCB_BATCH, total)
    for epoch in range(PCB_EPOCHS):
        rate = 0.5 * (1.0 + math.cos(math.pi * (epoch - 1) / PCB_EPOCHS))
        if epoch == 0:
            rate = PCB_WARMUP_RATE / PCB_LEARNING_RATE
        order = rng.permutation(total)
        for start in range(0, total - batch + 1, batch):  # the last, smaller batch is dropped, as there
            chosen = order[start : start + batch]
            labeled, pseudo = chosen[chosen < n_labeled], chosen[chosen >= n_labeled] - n_labeled
            share = len(pseudo) / batch
            yield Step(labeled, pseudo, 1.0 - share, settings.pseudo_weight * share, rate)


def _passes(n: int, size: int, rng: np.random.Generator) -> Iterator[Int64Array]:
    """Batches of `size` without replacement, pass after pass."""
    while True:
        order = rng.permutation(n)
        for start in range(0, n - size + 1, size):
            yield order[start : start + size]


def _stratified(strata: list[Int64Array], size: int, rng: np.random.Generator) -> Int64Array:
    """`size` rows, as evenly over the classes as their numbers allow, without replacement."""
    quota = np.zeros(len(strata), np.int64)
    available = np.array([len(stratum) for stratum in strata])
    left = size
    while left:
        open_ = np.flatnonzero(quota < available)
        share = left // len(open_)
        if share == 0:
            quota[rng.choice(open_, left, replace=False)] += 1
            break
        grant = np.minimum(share, available[open_] - quota[open_])
        quota[open_] += grant
        left -= int(grant.sum())
    return np.concatenate(
        [rng.choice(stratum, take, replace=False) for stratum, take in zip(strata, quota, strict=True)]
    )
