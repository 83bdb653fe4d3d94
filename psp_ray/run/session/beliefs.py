"""What a run believes between its rounds: about images to be labeled, about labels, about itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.acquisition.base import create
from psp_ray.core.names import Names
from psp_ray.core.probability import class_probabilities, softmax
from psp_ray.core.records import Float32Array, Float64Array, Int64Array, PoolState, SoftLabels
from psp_ray.posterior.audit import BoolArray
from psp_ray.posterior.calibration import Unseen, calibrate, unseen_logits
from psp_ray.run.command import Rounds
from psp_ray.run.looks import alike
from psp_ray.run.output import newest_estimate
from psp_ray.run.round import Round
from psp_ray.run.session.records import Advice, Doubt, doubts_of
from psp_ray.run.standing import measured, prospect, remedy, setback
from psp_ray.run.state import RunState
from psp_ray.run.stopping import expected_gain
from psp_ray.selftrain.records import SoftTargets

if TYPE_CHECKING:
    import pandas as pd

NEXT_BEST = "badge"
"""Chooses what is labeled while the round's own strategy has to wait: uncertain and diverse, and keeps no state."""


class Beliefs:
    """Looks at the components of a run without changing what its rounds compute."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._soft: tuple[RunState, SoftLabels | None] | None = None
        pool = rounds.data.dataset.pool
        self._paths: Sequence[str | None] = Names.of(pool["path"])
        self._images = pool["image"]

    @property
    def temperature(self) -> float:
        """What logits are divided by so that probabilities mean what they say."""
        return calibrate(self._unseen()).temperature

    def of(self, state: RunState, positions: Int64Array) -> Float32Array:
        """Probabilities (k, C) at `positions`: the posterior's, or the classifier's where there is none."""
        cosines = self._rounds.context.components.learner.cosines(state.text, positions).result()
        found: Float32Array = softmax(np.float32(state.text.logit_scale / self.temperature) * cosines)
        soft = self._posterior(state)
        if soft is not None and len(positions):
            at, there = _rows(soft, positions)
            found[there] = soft.probabilities[at[there]]
        return found

    def next_best(self, turn: Round, taken: Int64Array, n: int) -> Int64Array:
        """At most `n` positions outside of the query set `taken` that are worth a label now."""
        rounds, state = self._rounds, turn.state
        left = np.setdiff1d(turn.unlabeled, taken, assume_unique=True)
        count = min(n, len(left) - 1)
        if count < 1:
            return left[:0]
        asked = PoolState(
            round=turn.number,
            seed=rounds.config.runtime.seed,
            n_query=count,
            n_classes=len(rounds.names.classes),
            text=state.text,
            unlabeled=left,
            labeled=state.labeled,
            labels=state.labels,
        )
        return create(NEXT_BEST, rounds.data.pool).propose(asked).positions

    def alike(self, positions: Int64Array) -> list[int]:
        """See `psp_ray.run.looks.alike`."""
        return alike(self._rounds.data.pool, positions)

    def pictures(self, positions: Int64Array) -> tuple[list[str | None], list[bytes | None]]:
        """Where the images at `positions` are: a path each, or their bytes, or neither (embeddings alone)."""
        paths = [self._paths[i] for i in positions]
        return paths, [
            self._images[int(i)].as_py() if path is None else None for i, path in zip(positions, paths, strict=True)
        ]

    def probabilities(self, features: NDArray[Any] | None) -> Float64Array:
        """Calibrated probabilities (n, C) of features (n, d); None: of the whole pool."""
        text = self._state.text.cooled(self.temperature)
        if features is not None:
            return class_probabilities(features, text.features, text.logit_scale, text.bias)
        pool = self._rounds.data.pool
        blocks = (pool.block(i).features.astype(np.float32) for i in range(pool.n_blocks))
        return np.concatenate([class_probabilities(b, text.features, text.logit_scale, text.bias) for b in blocks])

    def advice(self) -> Advice:
        """See `Session.advice`."""
        state, estimate = self._state, newest_estimate(self._state)
        accuracy = None if estimate is None else estimate[1]
        if not state.reports:
            return Advice(False, "nothing has been learned yet", None, None, accuracy)
        expected = expected_gain([report.predictions_changed for report in state.reports])
        against = setback(state, self._rounds.config.data.evaluate_on)
        context = self._rounds.context
        text = state.stopped or prospect(context, state, expected, against)
        enough = expected is not None and expected.enough and not measured(context, state).moving
        if against and state.stopped:
            text = f"{text}, but {against}"
        if against and (state.stopped or enough):
            text = f"{text}; {remedy(self._rounds.config, self._rounds.out)}"
        gain, later = (None, None) if expected is None else (expected.gain, expected.later)
        return Advice(bool(state.stopped) or enough, text, gain, later, accuracy)

    def confusion(self) -> pd.DataFrame:
        """See `Session.confusion`."""
        import pandas as pd

        unseen, names = self._unseen(), self._rounds.names.classes
        counts = np.zeros((len(names), len(names)), np.int64)
        if len(unseen.labels):
            np.add.at(counts, (unseen.labels, unseen.logits.argmax(axis=1)), 1)
        return pd.DataFrame(counts, index=pd.Index(names, name="label"), columns=pd.Index(names, name="predicted"))

    def doubtful(self, folds: int) -> list[Doubt]:
        """See `Session.doubtful`."""
        state, names = self._state, self._rounds.names
        held = self._held_out(state, folds)
        if held is None:
            rows = np.flatnonzero(state.has_class & np.isfinite(state.logits).all(axis=1))
            positions, labels = state.asked[rows], state.answers[rows]
            chances = softmax(state.logits[rows] / np.float32(self.temperature))
        else:
            positions, labels, chances = state.labeled, state.labels, held
            there = np.isfinite(chances).all(axis=1)
            positions, labels, chances = positions[there], labels[there], chances[there]
        return doubts_of(names.sample_ids, self._paths, names.classes, positions, labels, chances)

    @property
    def _state(self) -> RunState:
        state = self._rounds.experiment.state
        assert state is not None
        return state

    def _unseen(self) -> Unseen:
        state = self._state
        return unseen_logits(self._rounds.context.answers(state), state.judged.logits)

    def _posterior(self, state: RunState) -> SoftLabels | None:
        """Over the pool's graph; None before the first label, or where the run has none."""
        if self._soft is None or self._soft[0] is not state:
            found = self._infer(state, 0)
            self._soft = state, None if found is None else found.soft
        return self._soft[1]

    def _held_out(self, state: RunState, folds: int) -> Float32Array | None:
        """The posterior (m, C) at each label by the other folds' labels; NaN outside of the graph."""
        found = self._infer(state, folds)
        if found is None or not found.held_out:
            return None
        chances = np.full((len(state.labeled), len(self._rounds.names.classes)), np.nan, np.float32)
        for part in found.held_out:
            at, there = _rows(found.soft, state.labeled[part.rows])
            chances[part.rows[there]] = part.probabilities[at[there]]
        return chances

    def _infer(self, state: RunState, folds: int) -> SoftTargets | None:
        context = self._rounds.context
        labeler = context.components.pseudo_labeler
        if labeler is None or not context.source.weighs_evidence or not len(state.labeled):
            return None
        return labeler.soft_labels(context.zero_shot, state.known, folds).result()


def _rows(soft: SoftLabels, positions: Int64Array) -> tuple[Int64Array, BoolArray]:
    """The rows (k,) of `positions` in a posterior, and which of them (k,) are really there."""
    at = np.minimum(np.searchsorted(soft.positions, positions), len(soft.positions) - 1)
    return at, soft.positions[at] == positions
