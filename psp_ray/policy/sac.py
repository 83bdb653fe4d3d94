"""The soft actor-critic update of the vectorized policy (method.md, step 9), block by block.

    J_V  = mean_i 1/2 (V(s_i) - [Q(s_i, u_i) - alpha log pi(u_i)])^2          fresh actions u
    J_Q  = 1/(2n) align(Q(s_t, u_t), r_t + gamma V_bar(s_{t+1}))              stored actions u_t
    J_pi = mean_i (alpha log pi(u_i) - Q(s_i, u_i))                           reparametrized

Source: Haarnoja et al., "Soft actor-critic", ICML 2018 (V, Q and a target of V), with the temperature of their
"Soft actor-critic algorithms and applications" (2018). All gradients of a step are taken at the same parameters, added
up in block order, and applied together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from psp_ray.core import noise
from psp_ray.core.records import Float64Array
from psp_ray.policy import sampling
from psp_ray.policy.agent import Agent
from psp_ray.policy.align import aligned_loss
from psp_ray.policy.replay import ReplayBuffer, Transition
from psp_ray.policy.state import BlockState, PoolView


@dataclass(frozen=True)
class _Step:
    """A transition as the update needs it: its two states, and which of its blocks this step uses."""

    item: Transition
    view: PoolView
    digest: bytes
    next_view: PoolView | None
    next_digest: bytes
    reward: float
    own: dict[int, float]


@dataclass
class _Sums:
    """Running sums of one gradient step over its blocks."""

    loss_v: float = 0.0
    loss_q: float = 0.0
    loss_pi: float = 0.0
    log_pi: float = 0.0
    q: float = 0.0
    v: float = 0.0
    logits: list[Float64Array] = field(default_factory=list)


@dataclass(frozen=True)
class _Means:
    """Pool means for `critic: scalar`."""

    v: float
    v_target: float
    q: list[float]
    q_target: float


class SoftActorCritic(Agent):
    """The agent and its update."""

    def update(self, replay: ReplayBuffer, round: int) -> dict[str, Float64Array]:
        """`update_steps` gradient steps, each on a transition drawn from `replay`; one row of diagnostics per step."""
        rows: list[dict[str, float]] = []
        if not len(replay):
            return {}
        shift, factor = self._reward_frame(replay)
        prepared: dict[int, _Step] = {}
        steps = np.arange(self.settings.update_steps, dtype=np.uint64)
        chosen = noise.uniform(self.seed, "vssp-replay", steps, round=round) * len(replay)
        for number, pick in enumerate(np.minimum(chosen.astype(int), len(replay) - 1).tolist()):
            if pick not in prepared:
                prepared[pick] = self._prepare(replay.transitions[pick], shift, factor)
            rows.append(self._gradient_step(prepared[pick], round, number))
        keep = {step.digest for step in prepared.values()} | {step.next_digest for step in prepared.values()}
        self.reader.forget(keep)
        return {name: np.asarray([row[name] for row in rows]) for name in rows[0]} if rows else {}

    def _reward_frame(self, replay: ReplayBuffer) -> tuple[float, float]:
        """(shift, factor): rewards enter the update as `(r - shift) * factor`."""
        settings = self.settings
        shift = replay.mean_reward() if settings.reward_centered else 0.0
        if settings.reward_scale != "auto":
            return shift, float(settings.reward_scale)
        return shift, replay.scale(own=settings.reward_form == "per-sample")

    def _prepare(self, item: Transition, shift: float, factor: float) -> _Step:
        view = PoolView(item.text, item.alive, item.labeled, item.labels, item.anchors, item.anchor_odds)
        next_view = None
        if not item.final and len(item.alive_next):
            next_view = PoolView(item.next_text, item.alive_next, *item.labeled_next)
        own = {}
        if self.settings.reward_form == "per-sample":
            own = dict(zip(item.bought.tolist(), ((item.own - shift) * factor).tolist(), strict=True))
        next_digest = b"" if next_view is None else next_view.digest()
        return _Step(item, view, view.digest(), next_view, next_digest, (item.reward - shift) * factor, own)

    def _pick_blocks(self, step: _Step, round: int, number: int) -> list[int]:
        """All blocks, or `update_sample` of them by counter noise; in block order."""
        blocks = self.reader.blocks(step.view.alive)
        k = self.settings.update_sample
        if k == 0 or len(blocks) <= k:
            return blocks
        words = noise.bits(self.seed, "vssp-blocks", np.asarray(blocks, np.uint64), round=round, draw=number)
        return sorted(np.asarray(blocks)[np.argsort(words, kind="stable")[:k]].tolist())

    def _gradient_step(self, step: _Step, round: int, number: int) -> dict[str, float]:
        settings, alpha = self.settings, self.alpha
        indices = self._pick_blocks(step, round, number)
        n = sum(self._count(step.view, index) for index in indices)
        n_pool = len(step.view.alive)
        normalizer = 0.0  # of the fresh actions: a pass of its own, and only log odds need it
        if settings.q_input == "log-odds":
            normalizer = self._fresh_normalizer(step, indices, round, number) + math.log(n_pool / n)
        means = self._means(step, indices, n, normalizer, round, number) if settings.critic == "scalar" else None
        chosen = set(indices)
        n_own = sum(position // self.reader.block_size in chosen for position in step.own)
        sums = _Sums()
        for index in indices:
            self._add_block(step, index, n, n_own, normalizer, means, alpha, round, number, sums)
        if means is not None:
            sums.loss_v = 0.5 * (means.v - means.v_target) ** 2
            sums.loss_q = sum(0.5 * (q - means.q_target) ** 2 for q in means.q)
        entropy = -sums.log_pi / n
        if settings.alpha == "auto":
            # d/dlog_alpha of -log_alpha (mean log pi + target entropy)
            gradient = torch.tensor(entropy - settings.target_entropy, dtype=torch.float64)
            self.optimizers["alpha"].add_gradients([gradient])
        for optimizer in self.optimizers.values():
            optimizer.step()
        self._follow()
        logits = np.concatenate(sums.logits)
        total = sampling.LogSumExp()
        total.add(logits)
        log_a = sampling.log_probabilities(logits, total.value)
        return {
            "transition": float(step.item.round),
            "loss_v": sums.loss_v,
            "loss_q": sums.loss_q,
            "loss_pi": sums.loss_pi,
            "alpha": alpha,
            "entropy": entropy,
            "effective_pool_size": math.exp(sampling.entropy(log_a)) * n_pool / n,
            "q_mean": sums.q / n,
            "v_mean": sums.v / n,
            "reward_scaled": step.reward,
            "grad_norm_actor": self.optimizers["actor"].norm,
            "grad_norm_value": self.optimizers["value"].norm,
            "grad_norm_critics": self.optimizers["critics"].norm,
        }

    def _count(self, view: PoolView, index: int) -> int:
        span = self.reader.inside(view.alive, index)
        return span.stop - span.start

    def _fresh_normalizer(self, step: _Step, indices: list[int], round: int, number: int) -> float:
        """Log-sum-exp of the fresh actions' logits in the chosen blocks."""
        sums = sampling.LogSumExp()
        for index in indices:
            block = self.reader.read(step.view, index, step.digest)
            sums.add(self.logits(self.act(block, "vssp-update", round, number), block))
        return sums.value

    def _next_values(self, step: _Step, index: int) -> Tensor:
        """V_bar (m',) of the block's samples in the next state; empty where there is none."""
        if step.next_view is None or not self._count(step.next_view, index):
            return torch.zeros(0, device=self.reader.device)
        with torch.no_grad():
            values: Tensor = self.value_target(self.reader.read(step.next_view, index, step.next_digest))
        return values

    def _old_actions(self, step: _Step, index: int) -> Tensor:
        u = step.item.u[self.reader.inside(step.view.alive, index)]
        return torch.from_numpy(np.array(u, np.float32)).to(self.reader.device)

    @staticmethod
    def _own(step: _Step, block: BlockState) -> tuple[list[int], list[float]]:
        """Rows of the block's bought samples and their own rewards."""
        rows = [i for i, p in enumerate(block.positions.tolist()) if p in step.own]
        return rows, [step.own[int(block.positions[i])] for i in rows]

    def _add_block(
        self,
        step: _Step,
        index: int,
        n: int,
        n_own: int,
        normalizer: float,
        means: _Means | None,
        alpha: float,
        round: int,
        number: int,
        sums: _Sums,
    ) -> None:
        """Add one block's part of the losses and gradients."""
        n_pool = len(step.view.alive)
        block = self.reader.read(step.view, index, step.digest)
        u, log_pi = self.actor(block, self._noise(block, "vssp-update", round, number))
        fresh = self._action_input(u, block, normalizer, n_pool)
        old = self._action_input(self._old_actions(step, index), block, step.item.normalizer, n_pool)
        hidden = [q.encode(block) for q in self.critics]
        q_old = [q.value(h, old) for q, h in zip(self.critics, hidden, strict=True)]
        # The policy's gradient reaches the actor through the action alone: the state's encoding is detached.
        q_fresh = [q.value(h.detach(), fresh) for q, h in zip(self.critics, hidden, strict=True)]
        q_fresh_min = torch.stack(q_fresh).amin(0)
        v = self.value(block)
        loss_pi = (alpha * log_pi - q_fresh_min).sum() / n
        if means is None:
            v_target = (q_fresh_min - alpha * log_pi).detach()
            loss_v = 0.5 * ((v - v_target) ** 2).sum() / n
            loss_q = self._critic_loss(step, index, block, hidden, q_old, n, n_own, round, number)
        else:
            # The gradient of 1/2 (mean - target)^2, handed out to the samples.
            loss_v = (means.v - means.v_target) * v.sum() / n
            pairs = zip(means.q, q_old, strict=True)
            loss_q = torch.stack([(mean - means.q_target) * q.sum() / n for mean, q in pairs]).sum()
        self.optimizers["value"].add(loss_v)
        self.optimizers["critics"].add(loss_q)
        self.optimizers["actor"].add(loss_pi)
        sums.loss_v += float(loss_v.detach())
        sums.loss_q += float(loss_q.detach())
        sums.loss_pi += float(loss_pi.detach())
        sums.log_pi += float(log_pi.detach().double().sum())
        sums.q += float(q_fresh_min.detach().double().sum())
        sums.v += float(v.detach().double().sum())
        sums.logits.append(self.logits(u.detach().cpu().numpy(), block))

    def _critic_loss(
        self,
        step: _Step,
        index: int,
        block: BlockState,
        hidden: list[Tensor],
        q_old: list[Tensor],
        n: int,
        n_own: int,
        round: int,
        number: int,
    ) -> Tensor:
        """The block's part of J_Q, summed over the Q networks; also teaches the VAE of `align: vae`."""
        next_values = self._next_values(step, index)
        target = step.reward + self.settings.gamma * next_values
        stayed = torch.from_numpy(~np.isin(block.positions, step.item.removed)).to(target.device)
        here = torch.full_like(q_old[0], step.reward).detach()
        losses = [aligned_loss(q, target, stayed, here, self.settings, self.vae) / (2 * n) for q in q_old]
        if step.own:
            losses += self._own_losses(step, block, hidden, n_own)
        if self.vae is not None and len(target):
            share = len(block.positions) / n
            loss = self.vae.loss([q_old[0], target], round, number * 100_003 + index)
            self.optimizers["vae"].add(share * loss)
        return torch.stack(losses).sum()

    def _own_losses(self, step: _Step, block: BlockState, hidden: list[Tensor], n_own: int) -> list[Tensor]:
        """`reward_form: per-sample` (ours): what buying each bought sample was worth, against not buying it.

        A bought sample's payoff is known for both ends of the action: its own reward where it is surely chosen
        (u = 1), the round's reward where it is not (u = -1), with the same value of what follows. One broadcast
        reward says nothing about which of the samples earned it; this is a slope of Q in u for each of them.
        """
        rows, values = self._own(step, block)
        if not rows:
            return []
        own = torch.tensor(values, dtype=torch.float32, device=self.reader.device)
        bought = BlockState(
            block.f[rows], block.w[rows], block.extra[rows], block.prior[rows], block.positions[rows], block.keys[rows]
        )
        follow = torch.zeros_like(own)
        if step.next_view is not None:
            with torch.no_grad():
                follow = self.settings.gamma * self.value_target(bought)
        losses = []
        for end, target in ((1.0, own + follow), (-1.0, step.reward + follow)):
            action = self._action_input(torch.full_like(own, end), bought, step.item.normalizer, len(step.view.alive))
            losses += [
                ((q.value(h[rows], action) - target) ** 2).sum() / (4 * n_own)
                for q, h in zip(self.critics, hidden, strict=True)
            ]
        return losses

    @torch.no_grad()
    def _means(self, step: _Step, indices: list[int], n: int, normalizer: float, round: int, number: int) -> _Means:
        """Pool means of values and targets (float64, block by block) for `critic: scalar`."""
        n_pool, n_next = len(step.view.alive), 0
        v = v_target = following = 0.0
        q_sums = [0.0] * len(self.critics)
        for index in indices:
            block = self.reader.read(step.view, index, step.digest)
            u, log_pi = self.actor(block, self._noise(block, "vssp-update", round, number))
            fresh = self._action_input(u, block, normalizer, n_pool)
            old = self._action_input(self._old_actions(step, index), block, step.item.normalizer, n_pool)
            least = torch.stack([q(block, fresh) for q in self.critics]).amin(0)
            v += float(self.value(block).double().sum())
            v_target += float((least - self.alpha * log_pi).double().sum())
            q_sums = [s + float(q(block, old).double().sum()) for s, q in zip(q_sums, self.critics, strict=True)]
            values = self._next_values(step, index)
            following, n_next = following + float(values.double().sum()), n_next + len(values)
        q_target = step.reward + (self.settings.gamma * following / n_next if n_next else 0.0)
        return _Means(v / n, v_target / n, [s / n for s in q_sums], q_target)

    @torch.no_grad()
    def _follow(self) -> None:
        """psi_bar <- tau psi + (1 - tau) psi_bar."""
        tau = self.settings.tau
        for target, source in zip(self.value_target.parameters(), self.value.parameters(), strict=True):
            target.mul_(1.0 - tau).add_(source, alpha=tau)
