"""VSSP, the vectorized soft actor-critic sampling policy of PSP (ICLR 2026), as an acquisition function.

The mathematics is in `psp_ray.policy`; here it meets the round: draw a query set, take the reward, learn.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from psp_ray.acquisition.base import register, validate_state
from psp_ray.config.policy import PolicySettings
from psp_ray.core import noise
from psp_ray.core.errors import DatasetError, UserError
from psp_ray.core.records import (
    Feedback,
    Float32Array,
    Float64Array,
    Int64Array,
    Observation,
    PoolReader,
    PoolState,
    Proposal,
    StateDict,
    UInt64Array,
)
from psp_ray.policy import indicator, sampling
from psp_ray.policy.replay import ReplayBuffer, Transition
from psp_ray.policy.reward import reward

if TYPE_CHECKING:
    from psp_ray.neighbors.coverage import Coverage
    from psp_ray.policy.sac import SoftActorCritic
    from psp_ray.policy.state import PoolView, StateReader


@dataclass(frozen=True)
class _Actions:
    """The actions of a round: u (n_t,) over the sorted unlabeled positions, and the log-sum-exp of their logits."""

    round: int
    u: Float32Array
    normalizer: float


@register("vssp", PolicySettings)
class VSSP:
    """Samples by a policy that is paid for what the student learned from its earlier choices.

    Args:
        pool: frozen features, read block by block.
        settings: a `PolicySettings`; None: the defaults, which are the preset `psp`'s.
        device: where the networks run.
    """

    name = "vssp"

    def __init__(self, pool: PoolReader, settings: PolicySettings | None = None, device: str = "cpu") -> None:
        self.pool = pool
        self.settings = settings or PolicySettings.model_validate({})
        self.device = device
        self.replay = ReplayBuffer(pool.n, self.settings.replay_capacity)
        self._policy: SoftActorCritic | None = None
        self._actions: _Actions | None = None
        self._coverage: Coverage | None = None
        self._planned: tuple[int, PoolView] | None = None

    # -- protocol ------------------------------------------------------------------------------------------------

    def propose(self, state: PoolState) -> Proposal:
        """Draw the query set of a round: state, actions, selection probabilities, exact draw (method.md, steps 1-4).

        Raises UserError for an empty pool or a query larger than it, DatasetError for features that are not finite.
        """
        validate_state(state, self.pool)
        policy, view = self._ready(state), self._view(state)
        self._actions = self._act(policy, view, state.round)
        blocks = self._perturbed(policy, view, state, self._actions)
        positions, log_prob, next_key = sampling.draw(blocks, state.n_query)
        if self.settings.sampling == "topk":
            next_key = float("nan")  # nothing random, so no inclusion probability
        return Proposal(positions, log_prob, next_key, indicator.multinomial(log_prob))

    def observe(self, feedback: Feedback) -> Observation:
        """Take the reward, remember the transition, and update the policy (method.md, steps 7-9)."""
        start = time.perf_counter()
        state, proposal, outcome = feedback.state, feedback.proposal, feedback.outcome
        paid = reward(proposal, len(state.unlabeled), outcome, self.settings)
        reward_seconds = time.perf_counter() - start
        policy = self._ready(state)
        actions, view = self._actions, self._view(state)
        if actions is None or actions.round != state.round or len(actions.u) != len(state.unlabeled):
            # The proposal was made by another process: its actions are a function of the state.
            actions = self._act(policy, view, state.round)
        self.replay.add(
            Transition(
                round=state.round,
                text=state.text,
                next_text=outcome.text,
                alive=np.asarray(state.unlabeled, np.int64),
                removed=np.setdiff1d(state.unlabeled, feedback.unlabeled_next, assume_unique=True),
                u=actions.u,
                normalizer=actions.normalizer,
                bought=np.asarray(proposal.positions, np.int64),
                bought_labels=np.asarray(feedback.labels, np.int32),
                own=paid.own,
                labeled=np.asarray(state.labeled, np.int64),
                labels=np.asarray(state.labels, np.int32),
                reward=paid.total,
                final=feedback.final,
                anchors=view.anchors,
                anchor_odds=view.anchor_odds,
            )
        )
        self._actions = None
        return Observation(paid.total, policy.update(self.replay, state.round), reward_seconds)

    def state_dict(self) -> StateDict:
        """Networks, target, optimizer moments, temperature, replay buffer and the actions of an open round."""
        if self._policy is None:
            return {}
        state: StateDict = {
            "seed": np.asarray(self._policy.seed, np.int64),
            "n_classes": np.asarray(self._policy.n_classes, np.int64),
            **self._policy.state_dict(),
            **self.replay.state_dict(),
        }
        if self._actions is not None:
            state["open.round"] = np.asarray(self._actions.round, np.int64)
            state["open.u"] = self._actions.u.copy()
            state["open.normalizer"] = np.asarray(self._actions.normalizer, np.float64)
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Continue to the same bits. Raises UserError where the state was taken under other settings."""
        self._policy, self._actions = None, None
        self.replay = ReplayBuffer(self.pool.n, self.settings.replay_capacity)
        if not state:
            return
        policy = self._build(int(state["n_classes"]), int(state["seed"]))
        try:
            policy.load_state_dict(state)
            self.replay.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UserError(
                f"the checkpoint's policy does not fit the settings ({line}); resume with the settings of the run"
            ) from error
        self._policy = policy
        if "open.u" in state:
            self._actions = _Actions(
                int(state["open.round"]), np.array(state["open.u"], np.float32), float(state["open.normalizer"])
            )

    # -- inside --------------------------------------------------------------------------------------------------

    def _view(self, state: PoolState) -> PoolView:
        """The round's view with its prior; a function of the state, so that any process plans alike."""
        from psp_ray.neighbors.coverage import Coverage
        from psp_ray.policy.state import PoolView

        view = PoolView(state.text, state.unlabeled, state.labeled, state.labels)
        if self.settings.prior != "coverage":
            return view
        if self._planned is not None and self._planned[0] == state.round and _same(self._planned[1], view):
            return self._planned[1]
        if not np.isfinite(state.text.features).all():
            raise DatasetError("the prompt's class embeddings are not finite: learning diverged")
        if self._coverage is None:
            self._coverage = Coverage(self.pool, self.settings)
        anchors, odds = self._coverage.plan(view, state.n_query, state.round)
        self._planned = state.round, dataclasses.replace(view, anchors=anchors, anchor_odds=odds)
        return self._planned[1]

    def _build(self, n_classes: int, seed: int) -> SoftActorCritic:
        from psp_ray.policy.sac import SoftActorCritic
        from psp_ray.policy.state import StateReader

        reader: StateReader = StateReader(self.pool, self.settings, self.device)
        return SoftActorCritic(reader, n_classes, seed, self.settings)

    def _ready(self, state: PoolState) -> SoftActorCritic:
        """The policy; the first state it meets gives it its shapes and the constants of `centered`."""
        if self._policy is None:
            self._policy = self._build(state.n_classes, state.seed)
            if self.settings.centered:
                from psp_ray.policy.networks import Frame

                self._policy.set_frame(Frame(*self._policy.reader.spread(self._view(state))))
        if self._policy.n_classes != state.n_classes:
            raise UserError(f"the policy was built for {self._policy.n_classes} classes, not {state.n_classes}")
        return self._policy

    def _act(self, policy: SoftActorCritic, view: PoolView, round: int) -> _Actions:
        """Fresh actions of the whole pool, streamed; only u (float32) is kept."""
        u = np.empty(len(view.alive), np.float32)
        total, digest = sampling.LogSumExp(), view.digest()
        for index in policy.reader.blocks(view.alive):
            block = policy.reader.read(view, index, digest)
            actions = policy.act(block, "vssp-action", round)
            u[policy.reader.inside(view.alive, index)] = actions
            total.add(policy.logits(actions, block))
        return _Actions(round, u, total.value)

    def _perturbed(
        self, policy: SoftActorCritic, view: PoolView, state: PoolState, actions: _Actions
    ) -> Iterator[tuple[Int64Array, Float64Array, Float64Array, UInt64Array]]:
        """Blocks of (positions, log a, Gumbel noise, keys) for the draw."""
        digest = view.digest()
        for index in policy.reader.blocks(view.alive):
            block = policy.reader.read(view, index, digest)
            logits = policy.logits(actions.u[policy.reader.inside(view.alive, index)], block)
            log_a = sampling.log_probabilities(logits, actions.normalizer)
            gumbel = np.zeros(len(log_a))
            if self.settings.sampling == "gumbel":
                gumbel = noise.gumbel(state.seed, "vssp-draw", block.keys, round=state.round)
            yield block.positions, log_a, gumbel, block.keys


def _same(view: PoolView, other: PoolView) -> bool:
    """Whether two views show the same state, whatever their priors."""
    return (
        np.array_equal(view.alive, other.alive)
        and np.array_equal(view.labeled, other.labeled)
        and np.array_equal(view.text.features, other.text.features)
    )
