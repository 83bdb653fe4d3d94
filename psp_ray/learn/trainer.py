"""`PromptLearner`: everything about learning a round's prompt. No ray; runs wherever the text tower is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
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
from psp_ray.learn.descent import Attempt, Descent, Progress, Samples
from psp_ray.learn.evaluate import similarities
from psp_ray.learn.gap import label_gap
from psp_ray.learn.prompts import Prompts
from psp_ray.learn.schedule import count_steps

_SHRINK = 0.3
_MAX_RESTARTS = 2


class PromptLearner:
    """Learns the student's prompt of each round from frozen features.

    Args:
        text: a loaded text tower, or the spec of a model whose text tower is to be loaded.
        class_names: (C,) names.
        pool: where features come from; only those of labeled and retained samples are read.
        settings: layout and training.
        descriptions: phrases by class name, for `AS` and `AE`.
        templates: the data set's own, of which the anchor's zero-shot classifier is made.
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
        templates: Sequence[str] = DEFAULT_TEMPLATES,
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
        self._descent = Descent(self.prompts, settings, self.class_names, templates)

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

        best: Attempt | None = None
        accuracy = 0.0
        tries = 1 + (_MAX_RESTARTS if self.settings.divergence_guard else 0)
        attempt, start, key = 0, self._start(request.round), self._key(request.round)
        for attempt in range(tries):
            done = self._descent.run(start, labeled, pseudo, key=key, shrink=_SHRINK**attempt, progress=progress)
            reached = _accuracy(similarities(self._state(done.features), labeled_rows), request.labels)
            if best is None or (done.finite, reached) > (best.finite, accuracy):
                best, accuracy = done, reached
            if best.finite and accuracy >= floor:
                break
        assert best is not None
        warning = self._warning(best, accuracy, floor)
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

    def _start(self, round: int) -> Tensor:
        if self.settings.warm_start and self._contexts is not None:
            return self._contexts.clone()
        return self.prompts.initial(torch.Generator().manual_seed(self._key(round)))

    def _key(self, round: int) -> int:
        return stream_key(self.seed, "learn", round)

    def _samples(self, rows: np.ndarray, labels: Int32Array) -> Samples:
        features = torch.as_tensor(np.ascontiguousarray(rows)).to(self.tower.device, self.tower.dtype)
        return Samples(features, torch.as_tensor(np.asarray(labels, np.int64), device=self.tower.device))

    def _state(self, features: Tensor) -> TextState:
        return TextState(features.detach().float().cpu().numpy(), self._logit_scale)

    def _warning(self, best: Attempt, accuracy: float, floor: float) -> str:
        remedy = "lower learning_rate"
        if not best.finite:
            return f"the loss was not finite in any attempt, the prompt stays at its start; {remedy}"
        if self.settings.divergence_guard and accuracy < floor:
            return (
                f"the prompt is right on {accuracy:.1%} of the labels, its teacher on {floor:.1%}; {remedy} or "
                f"pseudo_weight"
            )
        return ""


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
