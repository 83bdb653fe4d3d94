"""The images that were asked about, as the page of a run and `psp-ray explain` tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from psp_ray.core.records import Float64Array, Int64Array
from psp_ray.report.looking import nearest_cosine, share_nearer
from psp_ray.report.run_page import Pick, PickedRound
from psp_ray.run.looked_at import LookedAt
from psp_ray.run.page_parts import Pictures, Seen, anchor_of
from psp_ray.run.state import RunState

MOST_PICTURES = 240
"""Pictures in the page; the newest rounds have them first."""
_PLANNED = {"first": "plan", "reserve": "reserve", "none": "policy"}


def picked_of(run: LookedAt, seen: Seen | None, pictures: Pictures) -> list[PickedRound]:
    """The newest round first; as many with pictures as the page holds."""
    state, table = run.state, run.picks
    if state is None or table is None:
        return []
    rows, rounds = table.to_pylist(), np.asarray(table["round"])
    asked = state.asked[state.asked_in > 0]
    found, room = [], MOST_PICTURES
    for number in range(state.round, 0, -1):
        mine = np.flatnonzero(rounds == number)
        shown = mine[: max(min(room, len(mine)), 8)]
        room -= len(shown)
        far = farther(state, number, seen, asked[shown])
        picks = [
            pick_of(
                run,
                rows[i],
                None if far is None else float(far[k]),
                anchor_of(int(i)),
                pictures.of(run.data, int(asked[i])),
            )
            for k, i in enumerate(shown)
        ]
        found.append(PickedRound(number, picks, len(mine)))
    return found


def pick_of(run: LookedAt, told: Mapping[str, Any], far: float | None, anchor: str = "", picture: str = "") -> Pick:
    """A row of a run's `picks.parquet`, `told`, or of `asked.parquet`; the rest as in `Pick`."""
    odds = None if told["log_prob"] is None else float(np.exp(told["log_prob"]) * told["unlabeled"])
    return Pick(
        anchor=anchor,
        round=told["round"],
        name=told["sample_id"],
        answer=told["label"] or "",
        by_chance=told["by_chance"],
        odds=odds,
        guess=told["guess"],
        probability=told["probability"],
        second=told["second_guess"],
        second_probability=told["second_probability"],
        farther=far,
        taken_for=told["pseudo_label"] or "",
        picture=picture,
        by=by_whom(told, run.config.policy.strategy),
        weight=told.get("policy_weight"),
        doubt=told.get("doubt"),
    )


def by_whom(told: Mapping[str, Any], strategy: str) -> str:
    """Who picked an image, of `report.run_page.WHO`; empty where its run doesn't say."""
    if told.get("unasked") is not None:
        return str(told["unasked"])
    if told["by_chance"]:
        return "chance"
    if told.get("plan") is not None:
        return _PLANNED[told["plan"]]
    if told.get("policy_weight") is not None:
        return "policy"
    return "" if strategy in ("vssp", "vssp+audit") else "strategy"


def farther(state: RunState, number: int, seen: Seen | None, picked: Int64Array) -> Float64Array | None:
    """For each picked position the share of the images that nobody had asked about that lay nearer to an image labeled
    before the round."""
    before = state.asked[(state.asked_in < number) & state.has_class]
    if seen is None or not len(before):
        return None
    labeled = seen.data.pool.rows(before)
    left = ~np.isin(seen.sample, state.asked[state.asked_in < number])
    return share_nearer(
        nearest_cosine(seen.data.pool.rows(picked), labeled), nearest_cosine(seen.features[left], labeled)
    )
