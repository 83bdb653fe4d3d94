"""VSSP, the vectorized soft actor-critic sampling policy of PSP (ICLR 2026), as an acquisition function.

The mathematics is in `psp_ray.policy`; here it meets the round: draw a query set, take the reward, learn.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from psp_ray.acquisition.base import STRATEGIES, validate_state
from psp_ray.acquisition.strategy import Strategy, same_state
from psp_ray.config.kinds import PRIORS
from psp_ray.config.policy import PolicySettings
from psp_ray.core import noise
from psp_ray.core.errors import UserError
from psp_ray.core.pool import class_embeddings
from psp_ray.core.records import (
    Feedback,
    Float32Array,
    Float64Array,
    Grounds,
    Int64Array,
    Observation,
    PoolReader,
    PoolState,
    Proposal,
    StateDict,
    UInt64Array,
)
from psp_ray.neighbors.cells import cells_of, draw_members, is_large
from psp_ray.policy import indicator, sampling
from psp_ray.policy.replay import ReplayBuffer, Transition
from psp_ray.policy.reward import Reward, reward

if TYPE_CHECKING:
    from psp_ray.policy.agent import Agent
    from psp_ray.policy.state import PoolView


LOOKED, FEWEST, MOST = 1 << 24, 1 << 12, 1 << 16
"""Numbers (samples C) that the policy looks at in a round of a large pool; bounds on its samples."""


def _samples(n_classes: int) -> int:
    """Samples of a large pool that the policy looks at."""
    return max(FEWEST, min(MOST, LOOKED // n_classes))


@dataclass(frozen=True)
class Actions:
    """The actions of a round: u (n_t,) over the sorted unlabeled positions, and the log-sum-exp of their logits."""

    round: int
    u: Float32Array
    normalizer: float


@STRATEGIES.register("vssp")
class VSSP(Strategy):
    """Samples by a policy that is paid for what the student learned from its earlier choices.

    Source: "PSP: Prompt-Guided Self-Training Sampling Policy for Active Prompt Learning" (ICLR 2026); docs/method.md
    says what is ours. O(n (d + C)) time for a choice, and the same on `update_sample` blocks for each update step.
    Of a large pool it looks at some samples of every cell each round, and at the anchors of its prior.

    Args:
        pool: frozen features, read block by block.
        settings: a `PolicySettings`; None: the defaults, which are the preset `psp`'s.
        device: where the networks run.
    """

    name = "vssp"
    settings_class = PolicySettings
    settings: PolicySettings

    def __init__(self, pool: PoolReader, settings: PolicySettings | None = None, device: str = "cpu") -> None:
        super().__init__(pool, settings)
        self.device = device
        self.replay = ReplayBuffer(pool.n, self.settings.replay_capacity)
        self.agent: Agent | None = None
        """The networks, from the first state on, which gives them their shapes."""
        self.actions: Actions | None = None
        """Of the round that was proposed and not yet observed."""
        self._prior = PRIORS.find(self.settings.prior)(pool, self.settings)
        self._planned: tuple[PoolState, PoolView] | None = None

    # -- protocol ------------------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Import torch and the policy, and have the kernels of Soft-DTW ready: both take longer than a round."""
        from psp_ray.policy import sac  # noqa: F401

        if self.settings.align == "softdtw":
            from psp_ray.policy.softdtw import compile_kernels

            compile_kernels()

    def propose(self, state: PoolState) -> Proposal:
        """Draw the query set of a round: state, actions, selection probabilities, exact draw (method.md, steps 1-4).

        Raises UserError for an empty pool or a query larger than it, DatasetError for features that are not finite.
        """
        validate_state(state, self.pool)
        policy = self._ready(state)
        view = self.view(state)
        self.actions = self._act(policy, view, state.round)
        blocks = self._perturbed(policy, view, state, self.actions)
        positions, log_prob, next_key = sampling.draw(blocks, state.n_query)
        if self.settings.sampling == "topk":
            next_key = float("nan")  # nothing random, so no inclusion probability
        grounds = _grounds(self.settings.kappa, view, self.actions, positions)
        return Proposal(positions, log_prob, next_key, indicator.multinomial(log_prob), grounds=grounds)

    def observe(self, feedback: Feedback) -> Observation:
        """Take the reward, remember the transition, and update the policy (method.md, steps 7-9)."""
        from psp_ray.policy.sac import update

        state = feedback.state
        view = self.view(state)
        start = time.perf_counter()
        paid = reward(feedback.proposal, len(view.unlabeled), feedback.outcome, self.settings)
        reward_seconds = time.perf_counter() - start
        policy = self._ready(state)
        actions = self.actions
        if actions is None or actions.round != state.round or len(actions.u) != len(view.unlabeled):
            # The proposal was made by another process: its actions are a function of the state.
            actions = self._act(policy, view, state.round)
        self.replay.add(_transition(feedback, view, actions, paid))
        self.actions = None
        return Observation(paid.total, update(policy, self.replay, state.round), reward_seconds)

    def utilities(self, state: PoolState) -> Float64Array | None:
        """Log selection probabilities (n_t,) of the round, the prior's part and the uniform share included; -inf for
        samples of a large pool that were not looked at."""
        validate_state(state, self.pool)
        policy, view = self._ready(state), self.view(state)
        actions = self._act(policy, view, state.round)
        found = np.concatenate([log_a for _, log_a, _, _ in self._perturbed(policy, view, state, actions)])
        if len(found) == len(state.unlabeled):
            return found
        all_of_them = np.full(len(state.unlabeled), -np.inf)
        all_of_them[np.searchsorted(state.unlabeled, view.unlabeled)] = found
        return all_of_them

    def state_dict(self) -> StateDict:
        """Networks, target, optimizer moments, temperature, replay buffer and the actions of an open round."""
        if self.agent is None:
            return {}
        state: StateDict = {
            "seed": np.asarray(self.agent.seed, np.int64),
            "n_classes": np.asarray(self.agent.n_classes, np.int64),
            **self.agent.state_dict(),
            **self.replay.state_dict(),
        }
        if self.actions is not None:
            state["open.round"] = np.asarray(self.actions.round, np.int64)
            state["open.u"] = self.actions.u.copy()
            state["open.normalizer"] = np.asarray(self.actions.normalizer, np.float64)
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Continue to the same bits. Raises UserError where the state was taken under other settings."""
        self.agent, self.actions = None, None
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
        self.agent = policy
        if "open.u" in state:
            self.actions = Actions(
                int(state["open.round"]), np.array(state["open.u"], np.float32), float(state["open.normalizer"])
            )

    # -- inside --------------------------------------------------------------------------------------------------

    def view(self, state: PoolState) -> PoolView:
        """The round's view with its prior; a function of the state, so that any process plans alike."""
        from psp_ray.policy.state import PoolView

        # A wrapper may have asked for more than it bought: what it was shown counts, not how much.
        if self._planned is None or not same_state(replace(self._planned[0], n_query=state.n_query), state):
            class_embeddings(state.text, self.pool)
            anchors, odds = self._prior.anchors(state)
            view = PoolView(state.text, self._looked_at(state, anchors), state.labeled, state.labels, anchors, odds)
            self._planned = state, view
        return self._planned[1]

    def _looked_at(self, state: PoolState, anchors: Int64Array) -> Int64Array:
        """Sorted positions that the policy chooses from: all unlabeled ones, or the anchors and some of every cell of a
        large pool, drawn anew each round."""
        if not is_large(self.pool.n, state.n_classes):
            return state.unlabeled
        cells = cells_of(self.pool, whitening=self.settings.coverage_whitening)
        count = max(_samples(state.n_classes), 4 * state.n_query)
        some = draw_members(cells, count, "vssp-look", among=state.unlabeled, round=state.round, temper=1.0)
        return np.union1d(some.positions, anchors)

    def _build(self, n_classes: int, seed: int) -> Agent:
        from psp_ray.policy.agent import Agent
        from psp_ray.policy.state import StateReader

        reader = StateReader(self.pool, self.settings, self.device, prior=self._prior)
        if is_large(self.pool.n, n_classes):
            cells = cells_of(self.pool, whitening=self.settings.coverage_whitening)
            reader.look_at(_samples(n_classes), cells.keys)
        return Agent(reader, n_classes, seed, self.settings)

    def _ready(self, state: PoolState) -> Agent:
        """The policy; the first state it meets gives it its shapes and the constants of `centered`."""
        if self.agent is None:
            self.agent = self._build(state.n_classes, state.seed)
            if self.settings.centered:
                self.agent.normalize(self.agent.reader.normalization(self.view(state)))
        if self.agent.n_classes != state.n_classes:
            raise UserError(f"the policy was built for {self.agent.n_classes} classes, not {state.n_classes}")
        return self.agent

    def _act(self, policy: Agent, view: PoolView, round: int) -> Actions:
        """Fresh actions of the whole pool, streamed; only u (float32) is kept."""
        u = np.empty(len(view.unlabeled), np.float32)
        total, digest = sampling.LogSumExp(), view.digest()
        for index in policy.reader.blocks(view.unlabeled):
            block = policy.reader.read(view, index, digest)
            actions = policy.act(block, "vssp-action", round)
            u[policy.reader.inside(view.unlabeled, index)] = actions
            total.add(policy.logits(actions, block))
        return Actions(round, u, total.value)

    def _perturbed(
        self, policy: Agent, view: PoolView, state: PoolState, actions: Actions
    ) -> Iterator[tuple[Int64Array, Float64Array, Float64Array, UInt64Array]]:
        """Blocks of (positions, log a, Gumbel noise, keys) for the draw."""
        digest = view.digest()
        for index in policy.reader.blocks(view.unlabeled):
            block = policy.reader.read(view, index, digest)
            logits = policy.logits(actions.u[policy.reader.inside(view.unlabeled, index)], block)
            log_a = sampling.log_probabilities(logits, actions.normalizer)
            gumbel = np.zeros(len(log_a))
            if self.settings.sampling == "gumbel":
                gumbel = noise.gumbel(state.seed, "vssp-draw", block.keys, round=state.round)
            yield block.positions, log_a, gumbel, block.keys


def _grounds(kappa: float, view: PoolView, actions: Actions, positions: Int64Array) -> Grounds:
    """What plan and policy say of drawn `positions` (k,)."""
    found = Grounds.unknown(len(positions))
    odds = np.exp(kappa * actions.u.astype(np.float64))
    weight = odds[np.searchsorted(view.unlabeled, positions)] / odds.mean()
    if not len(view.anchors):
        return replace(found, policy_weight=weight)
    behind = dict(zip(view.anchors.tolist(), (view.anchor_odds.max() - view.anchor_odds).tolist(), strict=True))
    named = np.array([behind.get(position, np.inf) for position in positions.tolist()])
    return replace(found, behind_plan=named, policy_weight=weight)


def _transition(feedback: Feedback, view: PoolView, actions: Actions, paid: Reward) -> Transition:
    """What the replay buffer keeps of a round."""
    state, proposal = feedback.state, feedback.proposal
    return Transition(
        round=state.round,
        text=state.text,
        next_text=feedback.outcome.text,
        unlabeled=np.asarray(view.unlabeled, np.int64),
        removed=np.setdiff1d(view.unlabeled, feedback.unlabeled_next, assume_unique=True),
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
