"""Answers that people gave ahead: for images that no query set had asked about when they answered.

While a round is learned from, people go on with images that were set aside for that. What they say comes in before the
next query set is chosen: as knowledge, like initial labels, but bought in that round and counted as its labels are.
Which answers those are is written down before anything is done with them, so that a killed run takes up the same ones.
"""

from __future__ import annotations

import numpy as np

from psp_ray.core.records import Int64Array
from psp_ray.labels.answer_book import AnswerBook
from psp_ray.labels.service import LabelRequest
from psp_ray.run.context import RunContext
from psp_ray.run.state import RunState


class Ahead:
    """Nobody answers ahead."""

    def take(self, run: RunContext, state: RunState) -> RunState:
        """`state` with what was answered ahead; called when the round after it begins."""
        return state


class AnsweredAhead(Ahead):
    """What people wrote into their book before the round began, about images that nobody had asked about."""

    def __init__(self, answers: AnswerBook) -> None:
        self._answers = answers

    def take(self, run: RunContext, state: RunState) -> RunState:
        """Raises as the oracle's `label` does."""
        number = state.round + 1
        positions = self._positions(run, state, self._answers.taken(number))
        if not len(positions):
            return state
        names = run.names
        request = LabelRequest(
            request_id=f"{run.experiment_id}/ahead-{number:03d}",
            experiment=run.experiment_id,
            round=number,
            sample_ids=names.named(positions),
            content_hashes=names.hashed(positions),
        )
        response = run.components.oracle.label(request).result()
        logits, came = run.logits(state, positions), ["ahead"] * len(positions)
        return state.with_volunteered(positions, response.labels, logits, response.labels_paid, came)

    def _positions(self, run: RunContext, state: RunState, until: int) -> Int64Array:
        """Positions (k,) of what had been answered at event `until`, in the order answered; one is left to be asked."""
        said = {digest: event.number for digest, event in self._answers.effective(until).items()}
        if not said:
            return np.zeros(0, np.int64)
        known = set(run.names.hashed(state.asked))
        news = [digest for digest in said if digest not in known]
        positions, rows = run.names.with_content(news)
        found: dict[str, int] = {}
        for place, row in zip(positions.tolist(), rows.tolist(), strict=True):
            found.setdefault(news[row], place)  # of copies the first
        order = sorted(found, key=said.__getitem__)[: max(run.n_pool - len(state.asked) - 1, 0)]
        return np.array([found[digest] for digest in order], np.int64)
