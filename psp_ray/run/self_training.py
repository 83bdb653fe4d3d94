"""When the pseudo-labeler does what in a round: scoring beside the oracle where it can, choosing when labels are in."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from psp_ray.config.config import Config
from psp_ray.core.records import Int64Array, PseudoLabels, TextState
from psp_ray.run.events import Events
from psp_ray.run.interfaces import PseudoLabeler
from psp_ray.selftrain.records import KnownLabels, ScoreRequest, Scores, SoftTargets
from psp_ray.selftrain.source import PseudoSource

NOBODY = np.zeros(0, np.int64)


@dataclass
class SelfTraining:
    """Pseudo-labels for one round: `begin` while the oracle works, then `finish` with its answers.

    `seconds` is what the pseudo-labeler worked.
    """

    labeler: PseudoLabeler
    source: PseudoSource
    config: Config
    events: Events
    round: int
    text: TextState
    """The teacher."""
    unlabeled: Int64Array
    """Sorted positions that nobody had been asked about when the round began."""
    seconds: float = 0.0

    def begin(self) -> Scores | None:
        """Score what was unlabeled, the query set included; None where that has to wait for labels.

        It has to where views are made on demand and the labels decide who is worth them.
        """
        waits = self.config.model.view_mode == "on-demand" and self.source.waits_for_labels
        return None if waits else self.score(KnownLabels.none(), NOBODY)

    def finish(self, scores: Scores | None, known: KnownLabels, taken: Int64Array) -> PseudoLabels:
        """Pseudo-labels but for the query set `taken`, with all labels that are `known` now."""
        if scores is None:
            scores = self.score(known, taken)
        selecting = self.labeler.select(scores, known, taken)
        pseudo = selecting.result()
        self.seconds += selecting.seconds
        return pseudo

    def soft_labels(self, known: KnownLabels) -> SoftTargets | None:
        """The posterior for heads that learn from it; None where the prompt or the graph teaches, or nothing is known.

        `text` is the zero-shot teacher then.
        """
        settings = self.config.learn
        if not self.source.weighs_evidence or settings.head == "prompt" or not len(known.positions):
            return None
        inferring = self.labeler.soft_labels(self.text, known, settings.head_folds)
        soft = inferring.result()
        self.seconds += inferring.seconds
        return soft

    def score(self, known: KnownLabels, taken: Int64Array) -> Scores:
        """The teacher's opinion; with views on demand, on those only that `known` labels make worth their views."""
        request = ScoreRequest(self.round, self.text, self.unlabeled)
        if self.config.model.view_mode == "on-demand":
            looking = self.labeler.worth_views(request, known, taken)
            request = replace(request, positions=looking.result())
            self.seconds += looking.seconds
            self._encode_views(request.positions)
        scoring = self.labeler.score(request)
        scores = scoring.result()
        self.seconds += scoring.seconds
        return scores

    def _encode_views(self, positions: Int64Array) -> None:
        """A portion at a time: it may take long, and what is encoded is kept."""
        done, left, started = 0, 1, time.perf_counter()
        while left:
            encoding = self.labeler.encode_views(positions)
            progress = encoding.result()
            self.seconds += encoding.seconds
            done, left = done + progress.done, progress.left
            if left:
                self.events.views(self.round, done, done + left, time.perf_counter() - started)
