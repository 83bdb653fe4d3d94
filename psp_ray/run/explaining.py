"""`psp-ray explain`: why a run asked about an image, from what it left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.core.answers import answer_name
from psp_ray.core.errors import OutputError
from psp_ray.core.records import Float32Array, Int64Array
from psp_ray.core.words import did_you_mean, short
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.neighbors.graph import class_masses, knn_graph
from psp_ray.report.explanation import Around, Explained, Explanation
from psp_ray.report.looking import share_nearer
from psp_ray.run.looked_at import LookedAt, look_at
from psp_ray.run.page_parts import sample_of
from psp_ray.run.picked import pick_of
from psp_ray.run.picks import PICKS
from psp_ray.run.state import RunState

MOST_SPREAD = 5000
"""Images up to which it is seen how far single labels spread."""


def explain(out: Path, number: int | None = None, sample_id: str | None = None) -> Explanation:
    """The picks of round `number` (default: the newest) of the run in `out`, or the one of `sample_id`.

    Raises:
        OutputError: no run there, nothing asked yet, no such round, or an image that was not asked about.
    """
    run = look_at(out)
    state = run.state
    if state is None or run.picks is None or not state.round:
        raise OutputError(f"{out}: no round is done yet, so nothing was picked; go on with psp-ray continue {out}")
    rows = run.picks.to_pylist()
    if number is not None and not 1 <= number <= state.round:
        done = "round 1 is" if state.round == 1 else f"rounds 1 to {state.round} are"
        raise OutputError(f"--round {number}: {done} done in {out}")
    if sample_id is not None:
        found = [i for i, row in enumerate(rows) if row["sample_id"] == sample_id and number in (None, row["round"])]
        if not found:
            raise OutputError(_never_asked(run, rows, sample_id, number))
        number = rows[found[0]]["round"]
    else:
        number = number or state.round
        found = [i for i, row in enumerate(rows) if row["round"] == number]
    assert number is not None
    around = None if run.data is None else Neighborhood(run, run.data, number)
    asked = state.asked[state.asked_in > 0]
    picks = [_explained(run, i, rows[i], around, int(asked[i])) for i in found]
    return Explanation(
        run=str(out),
        strategy=run.config.policy.shown_strategy,
        round=number,
        rounds=max(run.config.labels.rounds, state.round),
        picks=picks,
        single=sample_id is not None,
        missing=_missing(run, state, number, picks),
    )


def _explained(run: LookedAt, row: int, told: dict[str, Any], around: Neighborhood | None, position: int) -> Explained:
    far = None if around is None else around.farther(position)
    return Explained(pick_of(run, row, told, far), None if around is None else around.of(position))


def _never_asked(run: LookedAt, rows: list[dict[str, Any]], sample_id: str, number: int | None) -> str:
    where, names = f"--sample-id {short(sample_id)}", run.out / PICKS
    if number is not None and any(row["sample_id"] == sample_id for row in rows):
        told = next(row["round"] for row in rows if row["sample_id"] == sample_id)
        return f"{where}: it was asked about in round {told}, not in round {number}; leave out --round"
    if run.data is not None and sample_id in run.data.sample_ids:
        return f"{where}: in the pool of {run.out}, but never asked about; {names} has all that was"
    hint = did_you_mean(sample_id, [row["sample_id"] for row in rows])
    return f"{where}: {run.out} asked about no such image{hint or f'; {names} has all that it did'}"


def _missing(run: LookedAt, state: RunState, number: int, picks: list[Explained]) -> list[str]:
    """What could not be told, and why."""
    found = []
    if any(not one.pick.by for one in picks):
        found.append("whether plan or policy picked an image, which an older psp-ray did not write down")
    if all(one.pick.doubt is None for one in picks):
        reason = "before the first label there is no posterior" if number == 1 else "this run has no posterior"
        found.append(f"how sure all evidence together was ({reason})")
    if run.data is None:
        found.append(f"what lay around the images ({run.missing})")
    elif len(run.data.sample_ids) > MOST_SPREAD:
        found.append(f"how far a label spreads (only seen in pools of up to {MOST_SPREAD:,} images)")
    return found


class Neighborhood:
    """What lay around the images of a round when it was over; O(n (d + C rounds)) time and memory for n images, of a
    large pool those of a part."""

    def __init__(self, run: LookedAt, data: FeaturizedDataset, number: int) -> None:
        state = run.state
        assert state is not None
        self.run, self.data, self.state, self.number = run, data, state, number
        self.before = state.asked[(state.asked_in < number) & state.has_class]
        self.by_then = state.asked[state.asked_in <= number]
        sample = sample_of(data)
        features = data.pool.rows(sample).astype(np.float32)
        self._scale = len(data.sample_ids) / max(len(sample), 1)
        nearest = self.by_then[(features @ self._rows(self.by_then).T).argmax(axis=1)]
        self._nearest_to = dict(zip(*np.unique(nearest, return_counts=True), strict=True))
        self._labeled = self._rows(self.before)
        self._pool = (features @ self._labeled.T).max(axis=1) if len(self.before) else None
        self._reaches = self._spread() if len(data.sample_ids) <= MOST_SPREAD else None

    def _rows(self, positions: Int64Array) -> Float32Array:
        rows: Float32Array = self.data.pool.rows(positions).astype(np.float32)
        return rows

    def _spread(self) -> dict[int, int]:
        """Images to which the label of each asked image spreads the most."""
        state, settings = self.state, self.run.config.selftrain
        seeds = state.asked[(state.asked_in <= self.number) & state.has_class]
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
        """The share of the pool that lay nearer to an image labeled before; None before there was one."""
        if self._pool is None:
            return None
        own = (self._rows(np.array([position])) @ self._labeled.T).max(axis=1)
        return float(share_nearer(own.astype(np.float64), self._pool.astype(np.float64))[0])

    def of(self, position: int) -> Around:
        """What lay around the image at `position`."""
        nearest_to = round(self._nearest_to.get(position, 0) * self._scale)
        reaches = None if self._reaches is None else self._reaches.get(position, 0)
        if not len(self.before):
            return Around("", "", None, nearest_to, reaches)
        cosines = (self._rows(np.array([position])) @ self._labeled.T)[0]
        row = int(cosines.argmax())
        answer = int(self.state.answers[np.flatnonzero(self.state.asked == self.before[row])[0]])
        name = self.data.sample_ids[int(self.before[row])]
        return Around(name, answer_name(answer, self.run.classes), float(cosines[row]), nearest_to, reaches)
