"""The prompt learner and evaluator as a component: the only one that holds the text tower."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from psp_ray.core.records import (
    Evaluation,
    Float16Array,
    Float32Array,
    Int64Array,
    LearnOutcome,
    LearnRequest,
    PoolReader,
    PseudoLabels,
    StateDict,
    TextState,
)
from psp_ray.features.texts import KeptTexts, find_texts, keep_texts, surely_on_cpu, texts_key
from psp_ray.features.tower import backbone_spec
from psp_ray.learn.evaluate import evaluate, predict_proba, similarities
from psp_ray.learn.student import PROMPT_HEADS, Student
from psp_ray.run.inputs import LearnerInput
from psp_ray.run.prompts import NO_TOWER
from psp_ray.run.stopping import agreement

if TYPE_CHECKING:  # torch takes seconds to import
    from psp_ray.learn.trainer import PromptLearner

LAYOUT = ("context", "context_init", "context_length", "class_token_position", "descriptions")
"""Settings by which prompts are laid out."""


@dataclass(frozen=True)
class Agreement:
    """How far two prompts agree: Cohen's kappa, and the share of samples that they class differently."""

    kappa: float
    changed: float


class GivenTeacher:
    """Class embeddings in place of a text tower: there are no prompts, the head does all.

    `backbone`: the description of the model that made them, where one did.
    """

    def __init__(self, teacher: TextState, backbone: dict[str, Any] | None = None):
        self._teacher, self._backbone = teacher, backbone

    def describe(self) -> dict[str, Any]:
        """A model's provenance, or what stands in its place."""
        if self._backbone is not None:
            return self._backbone
        digest = hashlib.blake2b(self._teacher.features.tobytes(), digest_size=16).hexdigest()
        scale = float(self._teacher.logit_scale)
        return {"model": NO_TOWER, "weights_hash": digest, "image_size": [0, 0], "logit_scale": scale}

    def learn(self, request: LearnRequest) -> None:
        """No prompts: the head starts from the class embeddings."""

    def state_dict(self) -> StateDict:
        """Nothing: a round's classifier depends on its request alone."""
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Takes what `state_dict` gave."""


class LearnerComponent:
    """Learns, judges and predicts. Raises what `psp_ray.learn.trainer.PromptLearner` raises."""

    def __init__(self, given: LearnerInput, pool: PoolReader):
        self._given, self._pool = given, pool
        self._features: Float16Array | None = None
        self._learner, zero_shot, self._backbone = _learner(given, pool)
        self._student = Student(pool, given.settings, zero_shot, seed=given.seed)

    def backbone(self) -> dict[str, Any]:
        """Provenance of the model, as plain JSON values."""
        return self._backbone

    def zero_shot(self) -> TextState:
        """The classifier of the hand-written templates, encoded once."""
        return self._student.zero_shot

    def learn(self, request: LearnRequest) -> LearnOutcome:
        prompts = self._learner.learn(request) if self._student.wants_prompts else None
        return self._student.learn(request, prompts)

    def evaluate(self, text: TextState) -> Evaluation | None:
        """Accuracy of `text` on the evaluation split; None where there is none."""
        features = self._evaluation_features()
        return None if features is None else evaluate(text, [features], self._given.evaluation_labels)

    def _evaluation_features(self) -> Float16Array | None:
        if self._features is None and self._given.evaluation is not None:
            source = self._given.evaluation.open()
            self._features = source.rows(np.arange(source.n))
        return self._features

    def pseudo_label_precision(self, pseudo: PseudoLabels) -> float | None:
        """Share of retained pseudo-labels that are right, among those whose class is known; None where none is.

        For the report only.
        """
        truth = self._given.pool_labels[pseudo.positions]
        known = truth >= 0
        return float(np.mean(truth[known] == pseudo.labels[known])) if known.any() else None

    def cosines(self, text: TextState, positions: Int64Array) -> Float32Array:
        """`cos_ic` (k, C) of pool samples to the class embeddings of `text`."""
        return similarities(text, self._pool.rows(positions))

    def predict_pool(self, text: TextState, temperature: float = 1.0, pseudo: PseudoLabels | None = None) -> pa.Table:
        """`class_index` int32 and `probability` float32 of every pool sample, block by block.

        Probabilities are those of logits divided by `temperature`; a pseudo-labeled sample has the class of its
        pseudo-label.
        """
        scaled = text.cooled(temperature)
        labels, chances = [], []
        for index in range(self._pool.n_blocks):
            block = self._pool.block(index)
            probabilities = predict_proba(scaled, block.features)
            best = probabilities.argmax(axis=1).astype(np.int32)
            if pseudo is not None:
                low, high = np.searchsorted(pseudo.positions, [block.start, block.start + len(best)])
                best[pseudo.positions[low:high] - block.start] = pseudo.labels[low:high]
            labels.append(best)
            chances.append(probabilities[np.arange(len(best)), best].astype(np.float32))
        return pa.table({"class_index": np.concatenate(labels), "probability": np.concatenate(chances)})

    def agreement(self, before: TextState, after: TextState, positions: Int64Array) -> Agreement:
        """How far two prompts agree on pool samples."""
        one, other = (self.cosines(text, positions).argmax(axis=1) for text in (before, after))
        return Agreement(*agreement(one, other))

    def evaluation_confidence(self, text: TextState, temperature: float) -> pa.Table:
        """`confidence` and `correct` of every image of the evaluation split; no rows where there is none."""
        features = self._evaluation_features()
        if features is None:
            return pa.table({"confidence": np.zeros(0), "correct": np.zeros(0)})
        chances = predict_proba(text.cooled(temperature), features)
        correct = chances.argmax(axis=1) == self._given.evaluation_labels
        return pa.table({"confidence": chances.max(axis=1).astype(np.float64), "correct": correct.astype(np.float64)})

    def state_dict(self) -> StateDict:
        return self._learner.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        self._learner.load_state_dict(state)


def _learner(given: LearnerInput, pool: PoolReader) -> tuple[PromptLearner | GivenTeacher, TextState, dict[str, Any]]:
    """(who learns prompts, where the head wants some; the zero-shot teacher; the model's provenance in JSON values).

    The text tower is loaded where prompts are learned, or where nobody has yet encoded these class names with it.
    """
    if given.teacher is not None:
        teacher = GivenTeacher(given.teacher)
        return teacher, given.teacher, teacher.describe()
    key = _texts_key(given)
    kept = None if key is None else find_texts(given.cache, key)
    if kept is not None:
        return GivenTeacher(kept.text, kept.backbone), kept.text, kept.backbone
    from psp_ray.clip import load_backbone
    from psp_ray.learn.trainer import PromptLearner

    backbone = load_backbone(backbone_spec(given.model), towers="text")
    assert backbone.text is not None
    learner = PromptLearner(
        backbone.text,
        given.classes,
        pool,
        given.settings,
        descriptions=given.descriptions or None,
        templates=given.templates,
        seed=given.seed,
        threads=given.threads,
    )
    about: dict[str, Any] = json.loads(json.dumps(backbone.describe(), default=str))
    zero_shot = learner.zero_shot(given.templates)
    if key is not None:
        keep_texts(given.cache, key, KeptTexts(zero_shot, about))
    return learner, zero_shot, about


def _texts_key(given: LearnerInput) -> str | None:
    """Under what the class embeddings are kept that the tower makes; None where it is needed anyway, or is on a GPU.

    It names the layout of prompts, too: what the tower refuses to serve is refused before a label is bought.
    """
    if not given.cache or given.settings.head in PROMPT_HEADS or not surely_on_cpu(given.model.device):
        return None
    from psp_ray.clip import backbone_hash

    spec = backbone_spec(given.model)
    return texts_key(
        {
            "weights": backbone_hash(spec),
            "model": asdict(spec),
            "classes": given.classes,
            "templates": given.templates,
            "descriptions": given.descriptions,
            "layout": given.settings.model_dump(mode="json", include=set(LAYOUT)),
            "threads": given.threads,
        }
    )
