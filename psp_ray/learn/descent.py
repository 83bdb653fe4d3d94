"""One attempt at a round's prompt: the schedule from the start to the end, or to a loss that isn't finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from psp_ray.clip.zero_shot import zero_shot_text
from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import Int64Array
from psp_ray.learn.prompts import Prompts
from psp_ray.learn.schedule import anchored, count_steps, make_optimizer, model_unit, pull, steps

Progress = Callable[[int, float], None]
_REPORT_EVERY = 10


@dataclass(frozen=True)
class Samples:
    """Features (n, d) and classes (n,) on the tower's device."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Attempt:
    """A trained prompt: contexts, class embeddings (C, dim), the mean loss of the last steps."""

    contexts: Tensor
    features: Tensor
    loss: float
    finite: bool


class Descent:
    """Trains prompts by a schedule; keeps nothing but the zero-shot classifier that the anchor holds on to.

    Args:
        prompts: what is trained.
        settings: schedule, optimizer and anchor.
        class_names, templates: of which the anchor's classifier is made.
    """

    def __init__(
        self, prompts: Prompts, settings: LearnSettings, class_names: Sequence[str], templates: Sequence[str]
    ) -> None:
        self.prompts, self.settings = prompts, settings
        self.class_names, self.templates = list(class_names), tuple(templates)
        self.tower = prompts.tower
        self.unit = 1.0
        if settings.rate_unit == "model":
            self.unit = model_unit(self.tower.token_size, self.tower.logit_scale)
        self._anchor: Tensor | None = None

    def run(
        self, start: Tensor, labeled: Samples, pseudo: Samples, *, key: int, shrink: float, progress: Progress | None
    ) -> Attempt:
        """One run of the schedule from the contexts `start`, which are the result where the loss isn't finite.

        `key` seeds the batches; the learning rate is multiplied by `shrink`.
        """
        settings = self.settings
        contexts = start.clone().requires_grad_()
        optimizer = make_optimizer(settings, contexts, shrink, self.unit)
        gate = self._gate(labeled) if anchored(settings) else 0.0
        peak = optimizer.param_groups[0]["lr"]
        total = count_steps(settings, len(labeled.labels), len(pseudo.labels))
        averaged_from = total - round(settings.averaging * total) if settings.protocol == "short" else total
        mean = torch.zeros_like(contexts)
        losses: list[Tensor] = []
        finite = True
        pseudo_labels = pseudo.labels.cpu().numpy().astype(np.int32)
        schedule = steps(settings, len(labeled.labels), pseudo_labels, np.random.default_rng(key))
        for index, step in enumerate(schedule):
            features = self.prompts.class_features(contexts)
            loss = step.labeled_weight * mean_loss(self.tower.logit_scale, features, labeled, step.labeled)
            loss = loss + step.pseudo_weight * mean_loss(self.tower.logit_scale, features, pseudo, step.pseudo)
            if gate and settings.anchor_weight:
                distance = (features - self._zero_shot_features()).square().sum(-1).mean()
                loss = loss + gate * settings.anchor_weight * distance
            (gradient,) = torch.autograd.grad(loss, contexts)
            contexts.grad = gradient
            for group in optimizer.param_groups:
                group["lr"] = peak * step.rate
            optimizer.step()
            pull(settings, contexts, gate * start, peak * step.rate)
            if index >= averaged_from:
                mean += (contexts.detach() - mean) / (index - averaged_from + 1)
            if index >= total - max(1, total // 10):
                losses.append(loss.detach())
            if index % _REPORT_EVERY == 0 or index == total - 1:
                # Looked at now and then only: on a GPU every look waits for the device.
                value = float(loss.detach())
                finite = math.isfinite(value) and bool(torch.isfinite(contexts).all())
                if progress is not None:
                    progress(index + 1, value)
                if not finite:
                    break
        final = (mean if averaged_from < total else contexts).detach() if finite else start
        with torch.no_grad():
            features = self.prompts.class_features(final)
        return Attempt(final, features, float(torch.stack(losses).mean()) if finite and losses else math.nan, finite)

    def _gate(self, labeled: Samples) -> float:
        """How far to hold on to zero-shot, 0..1: with anchor gated the square of its share of hits on bought labels.

        They are bought after zero-shot was written down. One hit and one miss are added: a few labels say little.
        """
        if self.settings.anchor == "fixed":
            return 1.0
        with torch.no_grad():
            guess = (labeled.features @ self._zero_shot_features().T).argmax(1)
        hits = float((guess == labeled.labels).sum())
        return ((hits + 1.0) / (len(guess) + 2.0)) ** 2

    def _zero_shot_features(self) -> Tensor:
        if self._anchor is None:
            features = zero_shot_text(self.tower, self.class_names, self.templates).features
            self._anchor = torch.as_tensor(features).to(self.tower.device, self.tower.dtype)
        return self._anchor


def mean_loss(logit_scale: float, class_features: Tensor, samples: Samples, rows: Int64Array | None) -> Tensor:
    """Mean cross-entropy of `samples` at `rows` (None: all) under class embeddings (C, dim); 0 over none."""
    features, labels = samples.features, samples.labels
    if rows is not None:
        chosen = torch.as_tensor(rows, device=class_features.device)
        features, labels = features[chosen], labels[chosen]
    if len(labels) == 0:
        return class_features.new_zeros(())
    return F.cross_entropy(logit_scale * (features @ class_features.T), labels)
