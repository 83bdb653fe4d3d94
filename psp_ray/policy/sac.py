"""The soft actor-critic update of the vectorized policy (method.md, step 9), block by block.

`update` takes gradient steps, each on a transition drawn from the replay buffer; the losses are in
`psp_ray.policy.losses`. All gradients of a step are taken at the same parameters, added up in block order, and applied
together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from psp_ray.core import noise
from psp_ray.core.records import Float64Array
from psp_ray.policy import losses, sampling
from psp_ray.policy.agent import Agent
from psp_ray.policy.replay import ReplayBuffer, Transition
from psp_ray.policy.state import BlockState, PoolView


def update(agent: Agent, replay: ReplayBuffer, round: int) -> dict[str, Float64Array]:
    """`update_steps` gradient steps on transitions drawn from `replay`; one row of diagnostics per step.

    The noise is keyed by (round, number of the step), so that the update of a round can be repeated.
    """
    if not len(replay):
        return {}
    shift, factor = reward_scaling(agent, replay)
    lessons: dict[int, Lesson] = {}
    steps = np.arange(agent.settings.update_steps, dtype=np.uint64)
    chosen = noise.uniform(agent.seed, "vssp-replay", steps, round=round) * len(replay)
    rows: list[dict[str, float]] = []
    for number, pick in enumerate(np.minimum(chosen.astype(int), len(replay) - 1).tolist()):
        if pick not in lessons:
            lessons[pick] = Lesson.of(agent, replay.transitions[pick], shift, factor)
        rows.append(gradient_step(agent, lessons[pick], round, number))
    agent.reader.forget({digest for lesson in lessons.values() for digest in (lesson.digest, lesson.next_digest)})
    return {name: np.asarray([row[name] for row in rows]) for name in rows[0]} if rows else {}


def reward_scaling(agent: Agent, replay: ReplayBuffer) -> tuple[float, float]:
    """(shift, factor): rewards enter the update as `(r - shift) * factor`."""
    settings = agent.settings
    shift = replay.mean_reward() if settings.reward_centered else 0.0
    if settings.reward_scale != "auto":
        return shift, float(settings.reward_scale)
    return shift, replay.scale(own=settings.reward_form == "per-sample")


@dataclass(frozen=True)
class Lesson:
    """A transition as the update needs it: its two states, and its rewards to scale.

    `next_view`: None after the last round, or where nothing is left; `own`: rewards of the bought samples by position,
    empty where all share the round's.
    """

    item: Transition
    view: PoolView
    digest: bytes
    next_view: PoolView | None
    next_digest: bytes
    reward: float
    own: dict[int, float]

    @classmethod
    def of(cls, agent: Agent, item: Transition, shift: float, factor: float) -> Lesson:
        """The lesson of a transition whose rewards are shifted and scaled."""
        view = PoolView(item.text, item.unlabeled, item.labeled, item.labels, item.anchors, item.anchor_odds)
        next_view = None
        if not item.final and len(item.unlabeled_next):
            next_view = PoolView(item.next_text, item.unlabeled_next, *item.labeled_next)
        own = {}
        if agent.settings.reward_form == "per-sample":
            own = dict(zip(item.bought.tolist(), ((item.own - shift) * factor).tolist(), strict=True))
        next_digest = b"" if next_view is None else next_view.digest()
        return cls(item, view, view.digest(), next_view, next_digest, (item.reward - shift) * factor, own)


@dataclass(frozen=True)
class Batch:
    """The part of a lesson that one gradient step looks at: `n` samples in `blocks`, `n_own` of them bought.

    `normalizer`: log-sum-exp of the fresh actions' logits over the pool, where Q sees log odds; `draw` numbers the
    step's noise within the round.
    """

    lesson: Lesson
    round: int
    draw: int
    blocks: list[int]
    n: int
    n_own: int
    alpha: float
    normalizer: float = 0.0


def gradient_step(agent: Agent, lesson: Lesson, round: int, number: int) -> dict[str, float]:
    """One step of all networks and of the temperature; returns its diagnostics."""
    batch = choose_batch(agent, lesson, round, number)
    means = pool_means(agent, batch) if agent.settings.critic == "scalar" else None
    sums = Sums()
    for index in batch.blocks:
        seen = look(agent, batch, index)
        loss_pi = losses.actor_loss(seen.q, seen.log_pi, batch.alpha, batch.n)
        if means is None:
            loss_v = losses.value_loss(seen.v, seen.q, seen.log_pi, batch.alpha, batch.n)
            loss_q = critic_losses(agent, batch, index, seen)
        else:
            loss_v = losses.mean_loss(seen.v, means.v, means.v_target, batch.n)
            pairs = zip(seen.q_old, means.q, strict=True)
            loss_q = torch.stack([losses.mean_loss(q, mean, means.q_target, batch.n) for q, mean in pairs]).sum()
        agent.optimizers["value"].add(loss_v)
        agent.optimizers["critics"].add(loss_q)
        agent.optimizers["actor"].add(loss_pi)
        sums.add(seen, loss_v, loss_q, loss_pi, agent.logits(seen.u.detach().cpu().numpy(), seen.block))
    if agent.settings.alpha == "auto":
        log_pi = sums.log_pi / batch.n
        agent.optimizers["alpha"].add(losses.temperature_loss(agent.log_alpha, log_pi, agent.settings.target_entropy))
    for optimizer in agent.optimizers.values():
        optimizer.step()
    losses.soft_update(agent.value_target.parameters(), agent.value.parameters(), agent.settings.tau)
    return diagnostics(agent, batch, sums, means)


# -- what a step looks at ----------------------------------------------------------------------------------------------


def choose_batch(agent: Agent, lesson: Lesson, round: int, number: int) -> Batch:
    """All blocks of a lesson, or `update_sample` of them by counter noise; in block order."""
    blocks = agent.reader.blocks(lesson.view.unlabeled)
    k = agent.settings.update_sample
    if k and len(blocks) > k:
        words = noise.bits(agent.seed, "vssp-blocks", np.asarray(blocks, np.uint64), round=round, draw=number)
        blocks = sorted(np.asarray(blocks)[np.argsort(words, kind="stable")[:k]].tolist())
    n = sum(_count(agent, lesson.view, index) for index in blocks)
    chosen = set(blocks)
    n_own = sum(position // agent.reader.block_size in chosen for position in lesson.own)
    normalizer = 0.0
    if agent.settings.q_input == "log-odds":  # a pass of its own over the blocks, scaled up to the pool
        total = sampling.LogSumExp()
        for index in blocks:
            block = agent.reader.read(lesson.view, index, lesson.digest)
            total.add(agent.logits(agent.act(block, "vssp-update", round, number), block))
        normalizer = total.value + math.log(len(lesson.view.unlabeled) / n)
    return Batch(lesson, round, number, blocks, n, n_own, agent.alpha, normalizer)


@dataclass(frozen=True)
class Seen:
    """What the networks say about the m samples of a block, all (m,) but `hidden`, the critics' encodings of the state.

    `u`, `log_pi`: fresh actions; `q`: the smallest Q of them; `q_old`: each Q network's value of the stored actions;
    `v`: the value of the state.
    """

    block: BlockState
    u: Tensor
    log_pi: Tensor
    q: Tensor
    q_old: list[Tensor]
    v: Tensor
    hidden: list[Tensor]


def look(agent: Agent, batch: Batch, index: int) -> Seen:
    """Ask all networks about block `index`."""
    lesson, n_pool = batch.lesson, len(batch.lesson.view.unlabeled)
    block = agent.reader.read(lesson.view, index, lesson.digest)
    u, log_pi = agent.actor(block, agent.noise_of(block, "vssp-update", batch.round, batch.draw))
    fresh = agent.action_input(u, block, batch.normalizer, n_pool)
    stored = np.array(lesson.item.u[agent.reader.inside(lesson.view.unlabeled, index)], np.float32)
    old = agent.action_input(torch.from_numpy(stored).to(u.device), block, lesson.item.normalizer, n_pool)
    hidden = [q.encode(block) for q in agent.critics]
    q_old = [q.value(h, old) for q, h in zip(agent.critics, hidden, strict=True)]
    # The policy's gradient reaches the actor through the action alone: the state's encoding is detached.
    q_fresh = [q.value(h.detach(), fresh) for q, h in zip(agent.critics, hidden, strict=True)]
    return Seen(block, u, log_pi, torch.stack(q_fresh).amin(0), q_old, agent.value(block), hidden)


@torch.no_grad()
def next_values(agent: Agent, lesson: Lesson, index: int) -> Tensor:
    """V_bar (m',) of the samples of block `index` in the next state; empty where there is none."""
    if lesson.next_view is None or not _count(agent, lesson.next_view, index):
        return torch.zeros(0, device=agent.reader.device)
    values: Tensor = agent.value_target(agent.reader.read(lesson.next_view, index, lesson.next_digest))
    return values


def _count(agent: Agent, view: PoolView, index: int) -> int:
    span = agent.reader.inside(view.unlabeled, index)
    return int(span.stop - span.start)


# -- J_Q -------------------------------------------------------------------------------------------------------------


def critic_losses(agent: Agent, batch: Batch, index: int, seen: Seen) -> Tensor:
    """Block `index`'s part of J_Q, summed over the Q networks; also teaches an alignment that learns."""
    lesson = batch.lesson
    following = agent.settings.gamma * next_values(agent, lesson, index)
    stayed = torch.from_numpy(~np.isin(seen.block.positions, lesson.item.removed)).to(following.device)
    parts = [losses.critic_loss(q, lesson.reward, following, stayed, agent.alignment, batch.n) for q in seen.q_old]
    parts += own_losses(agent, batch, seen)
    if len(following):
        share = len(seen.block.positions) / batch.n
        learned = agent.alignment.own_loss(
            seen.q_old[0], lesson.reward + following, batch.round, batch.draw * 100_003 + index
        )
        if learned is not None:
            agent.optimizers[agent.settings.align].add(share * learned)
    return torch.stack(parts).sum()


def own_losses(agent: Agent, batch: Batch, seen: Seen) -> list[Tensor]:
    """`reward_form: per-sample` (ours): what buying each bought sample was worth, against not buying it.

    A bought sample's payoff is known for both ends of the action: its own reward where it is surely chosen (u = 1),
    the round's reward where it is not (u = -1), with the same value of what follows. One broadcast reward says nothing
    about which of the samples earned it; this is a slope of Q in u for each of them.
    """
    lesson = batch.lesson
    rows = [row for row, position in enumerate(seen.block.positions.tolist()) if position in lesson.own]
    if not rows:
        return []
    bought = seen.block.part(rows)
    paid = [lesson.own[position] for position in bought.positions.tolist()]
    own = torch.tensor(paid, dtype=torch.float32, device=agent.reader.device)
    follow = torch.zeros_like(own)
    if lesson.next_view is not None:
        with torch.no_grad():
            follow = agent.settings.gamma * agent.value_target(bought)
    parts = []
    for end, target in ((1.0, own + follow), (-1.0, lesson.reward + follow)):
        action = agent.action_input(
            torch.full_like(own, end), bought, lesson.item.normalizer, len(lesson.view.unlabeled)
        )
        values = [q.value(h[rows], action) for q, h in zip(agent.critics, seen.hidden, strict=True)]
        parts += [losses.end_loss(q, target, batch.n_own) for q in values]
    return parts


# -- critic: scalar --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Means:
    """Pool means for `critic: scalar`: of V and its target, of each Q and their target."""

    v: float
    v_target: float
    q: list[float]
    q_target: float

    @property
    def loss_v(self) -> float:
        return 0.5 * (self.v - self.v_target) ** 2

    @property
    def loss_q(self) -> float:
        return sum(0.5 * (q - self.q_target) ** 2 for q in self.q)


@torch.no_grad()
def pool_means(agent: Agent, batch: Batch) -> Means:
    """Means of values and targets over the batch, float64, block by block."""
    v = v_target = following = 0.0
    n_next = 0
    q_sums = [0.0] * len(agent.critics)
    for index in batch.blocks:
        seen = look(agent, batch, index)
        v += float(seen.v.double().sum())
        v_target += float(losses.soft_value(seen.q, seen.log_pi, batch.alpha).double().sum())
        q_sums = [total + float(q.double().sum()) for total, q in zip(q_sums, seen.q_old, strict=True)]
        values = next_values(agent, batch.lesson, index)
        following, n_next = following + float(values.double().sum()), n_next + len(values)
    q_target = batch.lesson.reward + (agent.settings.gamma * following / n_next if n_next else 0.0)
    return Means(v / batch.n, v_target / batch.n, [total / batch.n for total in q_sums], q_target)


# -- diagnostics -----------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """Running sums of one gradient step over its blocks."""

    loss_v: float = 0.0
    loss_q: float = 0.0
    loss_pi: float = 0.0
    log_pi: float = 0.0
    q: float = 0.0
    v: float = 0.0
    logits: list[Float64Array] = field(default_factory=list)

    def add(self, seen: Seen, loss_v: Tensor, loss_q: Tensor, loss_pi: Tensor, logits: Float64Array) -> None:
        """Take in a block."""
        self.loss_v += float(loss_v.detach())
        self.loss_q += float(loss_q.detach())
        self.loss_pi += float(loss_pi.detach())
        self.log_pi += float(seen.log_pi.detach().double().sum())
        self.q += float(seen.q.detach().double().sum())
        self.v += float(seen.v.detach().double().sum())
        self.logits.append(logits)


def diagnostics(agent: Agent, batch: Batch, sums: Sums, means: Means | None) -> dict[str, float]:
    """A row of `policy.parquet`."""
    logits = np.concatenate(sums.logits)
    total = sampling.LogSumExp()
    total.add(logits)
    log_a = sampling.log_probabilities(logits, total.value)
    return {
        "transition": float(batch.lesson.item.round),
        "loss_v": sums.loss_v if means is None else means.loss_v,
        "loss_q": sums.loss_q if means is None else means.loss_q,
        "loss_pi": sums.loss_pi,
        "alpha": batch.alpha,
        "entropy": -sums.log_pi / batch.n,
        "effective_pool_size": math.exp(sampling.entropy(log_a)) * len(batch.lesson.view.unlabeled) / batch.n,
        "q_mean": sums.q / batch.n,
        "v_mean": sums.v / batch.n,
        "reward_scaled": batch.lesson.reward,
        "grad_norm_actor": agent.optimizers["actor"].norm,
        "grad_norm_value": agent.optimizers["value"].norm,
        "grad_norm_critics": agent.optimizers["critics"].norm,
    }
