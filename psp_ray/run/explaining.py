"""`psp-ray explain`: why a run asked about an image, from what it left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.core.answers import answer_name
from psp_ray.core.errors import OutputError
from psp_ray.core.records import Float32Array, Int64Array
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.neighbors.graph import class_masses, knn_graph
from psp_ray.report.explanation import Around, Explained, Explanation
from psp_ray.report.looking import nearest_cosine, share_nearer
from psp_ray.report.run_page import NOT_ASKED
from psp_ray.run.looked_at import LookedAt, look_at
from psp_ray.run.page_parts import sample_of
from psp_ray.run.picked import pick_of
from psp_ray.run.told_rounds import ToldRound, ToldRounds

MOST_SPREAD = 5000
"""Images up to which it is seen how far single labels spread."""


def explain(out: Path, number: int | None = None, sample_id: str | None = None) -> Explanation:
    """The picks of round `number` (default: the newest that is done, or, before there is one, the one that is being
    asked about) of the run in `out`, or the one of `sample_id`.

    Raises:
        OutputError: no run there, nothing asked yet, no such round, or an image that was not asked about.
    """
    run = look_at(out)
    rounds = ToldRounds.of(run)
    if not rounds.rounds and rounds.lost and number is None and sample_id is None:
        raise OutputError(rounds.lost)
    if not rounds.rounds and not rounds.lost:
        raise OutputError(f"{out}: no round is done yet, so nothing was picked; go on with psp-ray continue {out}")
    if sample_id is not None:
        number = rounds.round_of(sample_id, number)
    elif number is None:
        number = max(rounds.done or rounds.rounds)
    told = rounds.require(number)
    around = Neighborhood(run, run.data, told) if run.data is not None and told.positions is not None else None
    picks = [
        _explained(run, row, told, k, around)
        for k, row in enumerate(told.rows)
        if sample_id in (None, row["sample_id"])
    ]
    return Explanation(
        run=str(out),
        strategy=run.config.policy.shown_strategy,
        round=number,
        rounds=max(run.config.labels.rounds, number),
        picks=picks,
        single=sample_id is not None,
        missing=_missing(run, told, picks, rounds),
        open=told.open,
        next=None if told.open else rounds.open,
    )


def _explained(run: LookedAt, row: dict[str, Any], told: ToldRound, k: int, around: Neighborhood | None) -> Explained:
    if around is None or told.positions is None:
        return Explained(pick_of(run, row, None))
    position = int(told.positions[k])
    return Explained(pick_of(run, row, around.farther(position)), around.of(position))


def _missing(run: LookedAt, told: ToldRound, picks: list[Explained], rounds: ToldRounds) -> list[str]:
    """What could not be told, and why."""
    found = [f"anything of round {rounds.next} ({rounds.lost})"] if rounds.lost else []
    if told.silent:
        found.append(f"which images are answered already ({told.silent})")
    asked = [one for one in picks if one.pick.by not in NOT_ASKED]
    if any(not one.pick.by for one in asked):
        found.append("whether plan or policy picked an image, which an older psp-ray did not write down")
    if asked and all(one.pick.doubt is None for one in asked):
        reason = "before the first label there is no posterior" if told.number == 1 else "this run has no posterior"
        found.append(f"how sure all evidence together was ({reason})")
    if run.data is None:
        found.append(f"what lay around the images ({run.missing})")
    elif told.positions is None:
        found.append("what lay around the images (images left the pool, or initial labels are not known here)")
    elif len(run.data.sample_ids) > MOST_SPREAD:
        found.append(f"how far a label spreads (only seen in pools of up to {MOST_SPREAD:,} images)")
    return found


class Neighborhood:
    """What lay around the images of a round when it was over; O(n (d + C rounds)) time and memory for n images, of a
    large pool those of a part. Of images that are being asked about, what lies around them now."""

    def __init__(self, run: LookedAt, data: FeaturizedDataset, told: ToldRound) -> None:
        assert told.positions is not None
        state, number = run.state, told.number
        self.run, self.data = run, data
        nothing = np.zeros(0, np.int64)
        asked, rounds = (nothing, nothing) if state is None else (state.asked, state.asked_in)
        classed = np.zeros(0, bool) if state is None else state.has_class
        open_ = told.positions if told.open else nothing
        self.before = asked[(rounds < number) & classed]
        self.by_then = np.concatenate([asked[rounds <= number], open_])
        self._seeds = np.concatenate([asked[(rounds <= number) & classed], open_])
        sample = sample_of(data)
        features = data.pool.rows(sample).astype(np.float32)
        self._scale = len(data.sample_ids) / max(len(sample), 1)
        nearest = self.by_then[(features @ self._rows(self.by_then).T).argmax(axis=1)]
        self._nearest_to = dict(zip(*np.unique(nearest, return_counts=True), strict=True))
        self._labeled = self._rows(self.before)
        left = features[~np.isin(sample, asked[rounds < number])]
        self._left = nearest_cosine(left, self._labeled) if len(self.before) else None
        self._reaches = self._spread() if len(data.sample_ids) <= MOST_SPREAD else None

    def _rows(self, positions: Int64Array) -> Float32Array:
        rows: Float32Array = self.data.pool.rows(positions).astype(np.float32)
        return rows

    def _spread(self) -> dict[int, int]:
        """Images to which the label of each asked image spreads the most."""
        settings, seeds = self.run.config.selftrain, self._seeds
        if not len(seeds):
            return {}
        graph = knn_graph(
            self.data.pool,
            neighbors=settings.graph_neighbors,
            power=settings.graph_power,
            limit=MOST_SPREAD,
            whitening=settings.graph_whitening,
        )
        whole, rows = graph.with_labeled(seeds)
        each = np.arange(len(seeds), dtype=np.int32)
        mass = class_masses(whole, rows, each, len(seeds), alpha=settings.graph_alpha, balance="none")
        heard = mass.max(axis=1) > 0
        counts = np.bincount(mass[heard].argmax(axis=1), minlength=len(seeds))
        return dict(zip(seeds.tolist(), counts.tolist(), strict=True))

    def farther(self, position: int) -> float | None:
        """The share of the images that nobody had asked about that lay nearer to an image labeled before; None before
        there was one."""
        if self._left is None:
            return None
        own = nearest_cosine(self._rows(np.array([position])), self._labeled)
        return float(share_nearer(own, self._left)[0])

    def of(self, position: int) -> Around:
        """What lay around the image at `position`."""
        nearest_to = round(self._nearest_to.get(position, 0) * self._scale)
        reaches = None if self._reaches is None else self._reaches.get(position, 0)
        if not len(self.before):
            return Around("", "", None, nearest_to, reaches)
        cosines = (self._rows(np.array([position])) @ self._labeled.T)[0]
        row = int(cosines.argmax())
        state = self.run.state
        assert state is not None
        answer = int(state.answers[np.flatnonzero(state.asked == self.before[row])[0]])
        name = self.data.sample_ids[int(self.before[row])]
        return Around(name, answer_name(answer, self.run.classes), float(cosines[row]), nearest_to, reaches)
