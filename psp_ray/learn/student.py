"""`Student`: a round's classifier, by the head that the settings name. No ray."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import (
    Float32Array,
    Float64Array,
    HeldOut,
    Int64Array,
    LearnOutcome,
    LearnRequest,
    Moments,
    PoolReader,
    TextState,
)
from psp_ray.learn.evaluate import similarities
from psp_ray.learn.gap import label_gap
from psp_ray.learn.guard import is_worse
from psp_ray.learn.heads import HEADS, FitRequest, Fold, fit, one_hot

PROMPT_HEADS = frozenset({"prompt", "residual"})
"""Heads that start from learned prompts, where there is a text tower to learn them."""


class Student:
    """Learns class vectors from a round's labels and pseudo-labels.

    Args:
        pool: where features come from; only those of labeled and pseudo-labeled samples are read.
        settings: the head and its settings.
        zero_shot: the teacher that saw no label.
        seed: seed of all noise.

    Raises:
        ConfigError: an unknown head.
    """

    def __init__(self, pool: PoolReader, settings: LearnSettings, zero_shot: TextState, *, seed: int = 0):
        HEADS.entry(settings.head)
        self.pool, self.settings, self.zero_shot, self.seed = pool, settings, zero_shot, seed

    @property
    def wants_prompts(self) -> bool:
        """Whether the head starts from learned prompts: give `learn` what `PromptLearner` learned."""
        return self.settings.head in PROMPT_HEADS

    def learn(self, request: LearnRequest, prompts: LearnOutcome | None = None) -> LearnOutcome:
        """The student of a round; the same request gives the same bits.

        `prompts`: what the prompt learner made of the same request; its classifier is the head's anchor, and its
        context vectors and number of steps are in the outcome. With head prompt it is the outcome.

        Raises:
            ConfigError: neither labels nor pseudo-labels, or head prompt without prompts.
        """
        if self.settings.head == "prompt" and prompts is not None:
            return prompts
        if not len(request.labeled) and not len(request.pseudo.positions) and request.soft is None:
            raise ConfigError("nothing to learn from: no labels and no pseudo-labels; raise labels_per_round")
        asked = self.fit_request(request, None if prompts is None else prompts.text)
        text = fit(self.settings.head, asked, self.settings)
        warning = "" if prompts is None else prompts.warning
        if self._kept_old(request, asked):
            text = request.teacher
            warning = "the new classifier is worse on labels that it has not seen, so the old one is kept"
        return self._outcome(request, asked, text, prompts, warning)

    def fit_request(self, request: LearnRequest, prompt: TextState | None = None) -> FitRequest:
        """The samples of a round as heads want them: bought ones first, then soft or hard pseudo-labels."""
        n_classes = len(self.zero_shot.features)
        labeled = np.asarray(request.labeled, np.int64)
        mine = one_hot(request.labels, n_classes)
        others, targets, weights = self._pseudo(request, labeled, n_classes)
        features = self.pool.rows(np.concatenate([labeled, others])).astype(np.float32)
        return FitRequest(
            features=features,
            targets=np.concatenate([mine, targets]),
            weights=np.concatenate([np.ones(len(labeled)), weights]),
            bought=np.arange(len(features)) < len(labeled),
            zero_shot=self.zero_shot,
            prompt=prompt,
            folds=tuple(self._fold(request, held, mine, weights) for held in request.held_out),
            rest=self._rest(request),
            seed=self.seed,
        )

    def _pseudo(
        self, request: LearnRequest, labeled: Int64Array, n_classes: int
    ) -> tuple[Int64Array, Float32Array, Float64Array]:
        """Positions (p,), targets (p, C) and weights (p,) of what is not bought."""
        if request.soft is None:
            pseudo = request.pseudo
            weights = self.settings.head_hard_weight * pseudo.confidence.astype(np.float64)
            return pseudo.positions, one_hot(pseudo.labels, n_classes), weights
        free = ~np.isin(request.soft.positions, labeled)
        weights = np.full(int(free.sum()), self.settings.head_soft_weight)
        return request.soft.positions[free], request.soft.probabilities[free].astype(np.float32), weights

    def _rest(self, request: LearnRequest) -> Moments | None:
        if request.soft is None or request.soft.rest is None:
            return None
        weight = self.settings.head_soft_weight
        return Moments.nothing(*self.zero_shot.features.shape).plus(request.soft.rest, weight)

    def _fold(self, request: LearnRequest, held: HeldOut, mine: Float32Array, weights: Float64Array) -> Fold:
        assert request.soft is not None, "held-out labels need the posterior without them"
        positions = request.soft.positions
        free = ~np.isin(positions, request.labeled)
        targets, counts = mine.copy(), np.ones(len(mine))
        # A held image is one of the unlabeled ones where the posterior speaks of it; elsewhere it is left out.
        asked = np.asarray(request.labeled, np.int64)[held.rows]
        known = np.isin(asked, positions)
        targets[held.rows[known]] = held.probabilities[np.searchsorted(positions, asked[known])]
        counts[held.rows] = np.where(known, self.settings.head_soft_weight, 0.0)
        return Fold(
            held.rows,
            np.concatenate([targets, held.probabilities[free].astype(np.float32)]),
            np.concatenate([counts, weights]),
        )

    def _kept_old(self, request: LearnRequest, asked: FitRequest) -> bool:
        """Whether this round's labels say that the teacher, which has not seen them, is better than the student.

        The student is judged by what it learns without them, fold by fold.
        """
        first_new = len(request.labeled) - request.n_new
        if not self.settings.divergence_guard or request.n_new == 0:
            return False
        new_hits, old_hits = [], []
        for fold in asked.folds:
            rows = fold.held[fold.held >= first_new]
            if not len(rows):
                continue
            student = fit(self.settings.head, asked.without(fold), self.settings)
            truth = asked.targets[rows].argmax(axis=1)
            new_hits.append(similarities(student, asked.features[rows]).argmax(axis=1) == truth)
            old_hits.append(similarities(request.teacher, asked.features[rows]).argmax(axis=1) == truth)
        return bool(new_hits) and is_worse(np.concatenate(new_hits), np.concatenate(old_hits))

    def _outcome(
        self, request: LearnRequest, asked: FitRequest, text: TextState, prompts: LearnOutcome | None, warning: str
    ) -> LearnOutcome:
        first_new, n_labeled = len(request.labeled) - request.n_new, len(request.labeled)
        new = slice(first_new, n_labeled)
        pseudo = self.pool.rows(request.pseudo.positions)
        labels = np.asarray(request.labels)[new]
        rows = np.arange(n_labeled)
        chance = _log_probability(text, asked.features[:n_labeled])[rows, np.asarray(request.labels, np.int64)]
        none = np.zeros((0, 0), np.float32)
        outcome = LearnOutcome(
            text=text,
            contexts=none if prompts is None else prompts.contexts,
            gap_new=label_gap(text, asked.features[new], labels),
            gap_pseudo=label_gap(text, pseudo, request.pseudo.labels),
            gap_new_before=label_gap(request.teacher, asked.features[new], labels),
            gap_pseudo_before=label_gap(request.teacher, pseudo, request.pseudo.labels),
            train_loss=float(-chance.mean()) if n_labeled else float("nan"),
            steps=0 if prompts is None else prompts.steps,
            restarts=0 if prompts is None else prompts.restarts,
        )
        return replace(outcome, warning=warning)


def _log_probability(text: TextState, features: Float32Array) -> Float64Array:
    logits = text.logit_scale * similarities(text, features).astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    result: Float64Array = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return result
