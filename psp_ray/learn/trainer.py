"""`PromptLearner`: everything about learning a round's prompt. No ray; runs wherever the text tower is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from psp_ray.clip.backbone import load_backbone
from psp_ray.clip.spec import BackboneSpec
from psp_ray.clip.text import TextTower
from psp_ray.clip.zero_shot import DEFAULT_TEMPLATES, zero_shot_text
from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.noise import stream_key
from psp_ray.core.records import (
    Float32Array,
    Int32Array,
    LearnOutcome,
    LearnRequest,
    PoolReader,
    StateDict,
    TextState,
)
from psp_ray.learn.evaluate import similarities
from psp_ray.learn.prompts import Prompts
from psp_ray.learn.schedule import count_steps, make_optimizer, steps

Progress = Callable[[int, float], None]
_SHRINK = 0.3
_MAX_RESTARTS = 2
_REPORT_EVERY = 10


@dataclass(frozen=True)
class _Samples:
    """Features (n, d) and classes (n,) on the tower's device."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class _Attempt:
    """A trained prompt: contexts, class embeddings (C, dim), the mean loss of the last steps, labeled accuracy."""

    contexts: Tensor
    features: Tensor
    loss: float
    accuracy: float
    finite: bool


class PromptLearner:
    """Learns the student's prompt of each round from frozen features.

    Args:
        text: a loaded text tower, or the spec of a model whose text tower is to be loaded.
        class_names: (C,) names.
        pool: where features come from; only those of labeled and retained samples are read.
        settings: layout and training.
        descriptions: phrases by class name, for `AS` and `AE`.
        seed: seed of all noise.
        threads: CPU threads of a learning step; 0: as torch has it.

    Raises:
        ConfigError, ModelError: settings or class names that the model can't serve.
    """

    def __init__(
        self,
        text: TextTower | BackboneSpec,
        class_names: Sequence[str],
        pool: PoolReader,
        settings: LearnSettings,
        descriptions: Mapping[str, Sequence[str]] | None = None,
        *,
        seed: int = 0,
        threads: int = 0,
    ):
        self.seed, self.threads = seed, threads
        if isinstance(text, BackboneSpec):
            tower = load_backbone(text, towers="text").text
            assert tower is not None
            text = tower
        self.tower = text
        self.class_names = list(class_names)
        self.pool = pool
        self.settings = settings
        self.prompts = Prompts(text, self.class_names, settings, descriptions)
        self._logit_scale = text.logit_scale
        self._contexts: Tensor | None = None
        self._anchor: Tensor | None = None

    def zero_shot(self, templates: Sequence[str] = DEFAULT_TEMPLATES) -> TextState:
        """The classifier of hand-written templates: the teacher of round 1."""
        with _threads(self.threads):
            return zero_shot_text(self.tower, self.class_names, templates)

    def learn(self, request: LearnRequest, progress: Progress | None = None) -> LearnOutcome:
        """Train the student of a round.

        Args:
            request: labels, pseudo-labels and the teacher.
            progress: called now and then with (step, loss).

        Returns:
            The student. The same request gives the same bits, whatever was learned before (unless `warm_start`).

        Raises:
            ConfigError: neither labels nor pseudo-labels.
        """
        if len(request.labeled) + len(request.pseudo.positions) == 0:
            raise ConfigError("nothing to learn from: no labels and no pseudo-labels; raise labels_per_round")
        with _threads(self.threads):
            return self._learn(request, progress)

    def text_of(self, contexts: Float32Array) -> TextState:
        """The classifier that given context vectors (`LearnOutcome.contexts`) make."""
        with _threads(self.threads), torch.no_grad():
            tensor = torch.as_tensor(contexts).to(self.tower.device, self.tower.dtype)
            return self._state(self.prompts.class_features(tensor))

    def state_dict(self) -> StateDict:
        """The last round's context vectors: all that a warm start needs."""
        if self._contexts is None:
            return {}
        return {"contexts": self._contexts.cpu().numpy().copy()}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from `state_dict`.

        Raises:
            ConfigError: context vectors of another layout.
        """
        if "contexts" not in state:
            self._contexts = None
            return
        contexts = np.asarray(state["contexts"])
        if contexts.shape != self.prompts.shape:
            raise ConfigError(
                f"the checkpoint's context vectors have shape {contexts.shape}, these settings {self.prompts.shape}; "
                f"resume with the settings of the run"
            )
        self._contexts = torch.as_tensor(contexts).to(self.tower.device, self.tower.dtype)

    def _learn(self, request: LearnRequest, progress: Progress | None) -> LearnOutcome:
        labeled_rows = self.pool.rows(request.labeled)
        pseudo_rows = self.pool.rows(request.pseudo.positions)
        labeled, pseudo = self._samples(labeled_rows, request.labels), self._samples(pseudo_rows, request.pseudo.labels)
        floor = _accuracy(similarities(request.teacher, labeled_rows), request.labels)

        best: _Attempt | None = None
        tries = 1 + (_MAX_RESTARTS if self.settings.divergence_guard else 0)
        attempt = 0
        for attempt in range(tries):
            done = self._train(request, labeled, pseudo, _SHRINK**attempt, progress)
            if best is None or (done.finite, done.accuracy) > (best.finite, best.accuracy):
                best = done
            if best.finite and best.accuracy >= floor:
                break
        assert best is not None
        warning = self._warning(best, floor)
        self._contexts = best.contexts
        text = self._state(best.features)
        n_new = request.n_new
        new_rows, new_labels = labeled_rows[len(labeled_rows) - n_new :], request.labels[len(request.labels) - n_new :]
        return LearnOutcome(
            text=text,
            contexts=best.contexts.float().cpu().numpy(),
            gap_new=label_gap(text, new_rows, new_labels),
            gap_pseudo=label_gap(text, pseudo_rows, request.pseudo.labels),
            gap_new_before=label_gap(request.teacher, new_rows, new_labels),
            gap_pseudo_before=label_gap(request.teacher, pseudo_rows, request.pseudo.labels),
            train_loss=best.loss,
            steps=count_steps(self.settings, len(labeled_rows), len(pseudo_rows)),
            restarts=attempt,
            warning=warning,
        )

    def _train(
        self, request: LearnRequest, labeled: _Samples, pseudo: _Samples, shrink: float, progress: Progress | None
    ) -> _Attempt:
        """One run of the schedule from the start, with the learning rate times `shrink`."""
        settings = self.settings
        key = stream_key(self.seed, "learn", request.round)
        contexts = self._start(torch.Generator().manual_seed(key)).requires_grad_()
        optimizer = make_optimizer(settings, contexts, shrink)
        peak = optimizer.param_groups[0]["lr"]
        total = count_steps(settings, len(labeled.labels), len(pseudo.labels))
        averaged_from = total - round(settings.averaging * total) if settings.protocol == "short" else total
        mean = torch.zeros_like(contexts)
        losses: list[Tensor] = []
        finite = True
        schedule = steps(settings, len(labeled.labels), request.pseudo.labels, np.random.default_rng(key))
        for index, step in enumerate(schedule):
            features = self.prompts.class_features(contexts)
            loss = step.labeled_weight * self._loss(features, labeled, step.labeled)
            loss = loss + step.pseudo_weight * self._loss(features, pseudo, step.pseudo)
            if settings.anchor_weight:
                distance = (features - self._zero_shot_features()).square().sum(-1).mean()
                loss = loss + settings.anchor_weight * distance
            (gradient,) = torch.autograd.grad(loss, contexts)
            contexts.grad = gradient
            for group in optimizer.param_groups:
                group["lr"] = peak * step.rate
            optimizer.step()
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
        final = (mean if averaged_from < total else contexts).detach()
        if not finite:
            final = self._start(torch.Generator().manual_seed(key))
        with torch.no_grad():
            features = self.prompts.class_features(final)
        state = self._state(features)
        accuracy = _accuracy(similarities(state, labeled.features.cpu().numpy()), request.labels)
        loss_value = float(torch.stack(losses).mean()) if finite and losses else math.nan
        return _Attempt(final, features, loss_value, accuracy, finite)

    def _loss(self, class_features: Tensor, samples: _Samples, rows: np.ndarray | None) -> Tensor:
        """Mean cross-entropy over some samples; 0 over none."""
        if rows is None:
            features, labels = samples.features, samples.labels
        else:
            chosen = torch.as_tensor(rows, device=class_features.device)
            features, labels = samples.features[chosen], samples.labels[chosen]
        if len(labels) == 0:
            return class_features.new_zeros(())
        return F.cross_entropy(self._logit_scale * (features @ class_features.T), labels)

    def _start(self, generator: torch.Generator) -> Tensor:
        if self.settings.warm_start and self._contexts is not None:
            return self._contexts.clone()
        return self.prompts.initial(generator)

    def _samples(self, rows: np.ndarray, labels: Int32Array) -> _Samples:
        features = torch.as_tensor(np.ascontiguousarray(rows)).to(self.tower.device, self.tower.dtype)
        return _Samples(features, torch.as_tensor(np.asarray(labels, np.int64), device=self.tower.device))

    def _zero_shot_features(self) -> Tensor:
        if self._anchor is None:
            features = zero_shot_text(self.tower, self.class_names).features
            self._anchor = torch.as_tensor(features).to(self.tower.device, self.tower.dtype)
        return self._anchor

    def _state(self, features: Tensor) -> TextState:
        return TextState(features.detach().float().cpu().numpy(), self._logit_scale)

    def _warning(self, best: _Attempt, floor: float) -> str:
        remedy = "lower learning_rate"
        if not best.finite:
            return f"the loss was not finite in any attempt, the prompt stays at its start; {remedy}"
        if self.settings.divergence_guard and best.accuracy < floor:
            return (
                f"the prompt is right on {best.accuracy:.1%} of the labels, its teacher on {floor:.1%}; {remedy} or "
                f"pseudo_weight"
            )
        return ""


def label_gap(text: TextState, features: np.ndarray, labels: Int32Array) -> Float32Array:
    """`max_c cos_kc - cos_k,yk` >= 0 (method.md, step 7): features (k, d), labels (k,) -> (k,) float32."""
    if len(labels) == 0:
        return np.zeros(0, np.float32)
    cosines = similarities(text, features)
    own = cosines[np.arange(len(labels)), labels]
    gap: Float32Array = (cosines.max(axis=1) - own).astype(np.float32)
    return gap


def _accuracy(scores: Float32Array, labels: Int32Array) -> float:
    if len(labels) == 0:
        return 1.0
    return float((scores.argmax(axis=1) == labels).mean())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run with `count` CPU threads (0: as it is), and leave torch as it was."""
    before = torch.get_num_threads()
    if count and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
