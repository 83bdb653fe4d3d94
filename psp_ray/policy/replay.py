"""The replay buffer: transitions in kilobytes. States are recomputed from the frozen features.

A transition keeps the text features before and after, which samples were unlabeled (packed bits), the actions u of
those (float32), which were removed, what was labeled, and the reward.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from psp_ray.core.records import Float32Array, Float64Array, Int32Array, Int64Array, StateDict, TextState


@dataclass(frozen=True)
class Transition:
    """One round, seen by the policy.

    `unlabeled` (n_t,) and `removed` sorted positions; `u` (n_t,) the actions; `bought` (n_s,) positions and `own`
    (n_s,) their own rewards; `labeled`, `labels` what was labeled before; `bought_labels` what the purchase said.
    `normalizer`: log-sum-exp of the round's logits over the pool; `final`: the round has no next state; `anchors`,
    `anchor_odds`: the prior `coverage` (see `PoolView`). The rewards are raw; `reward_scale` is applied at the update.
    """

    round: int
    text: TextState
    next_text: TextState
    unlabeled: Int64Array
    removed: Int64Array
    u: Float32Array
    normalizer: float
    bought: Int64Array
    bought_labels: Int32Array
    own: Float64Array
    labeled: Int64Array
    labels: Int32Array
    reward: float
    final: bool
    anchors: Int64Array
    anchor_odds: Float64Array

    @property
    def unlabeled_next(self) -> Int64Array:
        """Sorted positions that are still unlabeled afterwards."""
        return np.setdiff1d(self.unlabeled, self.removed, assume_unique=True)

    @property
    def labeled_next(self) -> tuple[Int64Array, Int32Array]:
        """What is labeled afterwards: positions and labels, in the order bought."""
        return (
            np.concatenate([self.labeled, self.bought]),
            np.concatenate([self.labels, self.bought_labels]).astype(np.int32),
        )


class ReplayBuffer:
    """The last `capacity` transitions of a pool of `n` samples, oldest first."""

    def __init__(self, n: int, capacity: int) -> None:
        self.n = n
        self.capacity = capacity
        self.transitions: list[Transition] = []

    def __len__(self) -> int:
        return len(self.transitions)

    def add(self, transition: Transition) -> None:
        """Append; the oldest leaves where the buffer is full."""
        self.transitions = [*self.transitions, transition][-self.capacity :]

    def mean_reward(self) -> float:
        """Mean of the rounds' rewards: the shift of `reward_centered`."""
        return float(np.mean([item.reward for item in self.transitions])) if self.transitions else 0.0

    def scale(self, own: bool = False) -> float:
        """The factor of `reward_scale: auto`: 1 / mean |reward|, or with `own` 1 / standard deviation of the bought
        samples' own rewards within their rounds; 1 where that is below 1e-6."""
        sizes = np.abs([item.reward for item in self.transitions])
        size = float(np.mean(sizes)) if len(sizes) else 0.0
        if own and self.transitions:
            spread = np.concatenate([item.own - item.own.mean() for item in self.transitions])
            deviation = float(np.sqrt(np.mean(spread**2)))
            size = deviation if deviation > 1e-6 * size else size
        # Below this the gaps are rounding noise of float32 cosines: nothing to learn from, nothing to blow up.
        return 1.0 / size if size > 1e-6 else 1.0

    def state_dict(self) -> StateDict:
        """Plain arrays; `unlabeled` as packed bits over the pool."""
        state: StateDict = {"replay.count": np.asarray(len(self.transitions))}
        for index, item in enumerate(self.transitions):
            prefix = f"replay.{index}."
            for field in fields(item):
                value = getattr(item, field.name)
                if isinstance(value, TextState):
                    state[f"{prefix}{field.name}.features"] = np.array(value.features)
                    state[f"{prefix}{field.name}.logit_scale"] = np.asarray(value.logit_scale, np.float64)
                elif field.name == "unlabeled":
                    mask = np.zeros(self.n, bool)
                    mask[value] = True
                    state[prefix + "unlabeled"] = np.packbits(mask)
                else:
                    state[prefix + field.name] = np.array(value)
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Inverse of `state_dict`."""
        self.transitions = []
        for index in range(int(state["replay.count"])):
            prefix = f"replay.{index}."
            values: dict[str, Any] = {}
            for field in fields(Transition):
                name = prefix + field.name
                if field.type == "TextState":
                    values[field.name] = TextState(
                        np.array(state[name + ".features"]), float(state[name + ".logit_scale"])
                    )
                elif field.name == "unlabeled":
                    packed = state[name] if name in state else state[prefix + "alive"]  # its name until 2026
                    bits = np.unpackbits(np.asarray(packed, np.uint8), count=self.n)
                    values["unlabeled"] = np.flatnonzero(bits).astype(np.int64)
                elif field.type in ("int", "float", "bool"):
                    values[field.name] = state[name].item()
                else:
                    values[field.name] = np.array(state[name])
            self.transitions.append(Transition(**values))
