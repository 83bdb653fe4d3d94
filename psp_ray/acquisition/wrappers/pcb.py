"""`X+pcb`: PCB's class balancer around any strategy."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.base import WRAPPERS, AcquisitionFunction, validate_state
from psp_ray.acquisition.random import Random
from psp_ray.acquisition.strategy import Wrapper, predictions, same_state, unknown_odds
from psp_ray.config.acquisition import PCBSettings
from psp_ray.core import noise
from psp_ray.core.pool import read_blocks
from psp_ray.core.records import Feedback, Int64Array, Observation, PoolReader, PoolState, Proposal, StateDict
from psp_ray.policy import indicator


@WRAPPERS.register("pcb")
class PseudoClassBalance(Wrapper):
    """Asks the strategy for many candidates and buys those whose predicted classes have fewest labels.

    Source: Bang, Ahn and Lee, "Active prompt learning in vision language models" (CVPR 2024). The first
    round is drawn uniformly. Later the strategy proposes `pcb_fraction` of the pool (all that was ever in it) as
    candidates, at least n_query. Then, n_query times, a random candidate predicted to be of the class with fewest
    labels is taken and counted as a label of that class; ties go to the lower class.

    `intent`: where the class with fewest labels has no candidate left, the class with fewest labels among those that
    have one is served. `released`: as in PCB's published code, one of all candidates left is drawn then, whatever its
    class, and no counter is raised, so that all that follows in the round is drawn like that (rare with 10 classes,
    most picks with 100).

    A strategy that learns sees the candidates' selection probabilities for what was bought; outside, they are
    unknown (NaN), because the balancer decides. O(n C d) time beside the strategy's.
    """

    suffix = "pcb"
    settings_class = PCBSettings
    settings: PCBSettings

    def __init__(self, inner: AcquisitionFunction, pool: PoolReader, settings: PCBSettings | None = None) -> None:
        super().__init__(inner, pool, settings)
        self._last: tuple[PoolState, Proposal] | None = None

    def propose(self, state: PoolState) -> Proposal:
        """Choose the query set. Raises what the strategy raises."""
        validate_state(state, self.pool)
        if self._random(state):
            return Random(self.pool).propose(state)
        candidates = self._ask(state).positions
        predicted = self._predictions(candidates, state)
        counts = np.bincount(np.asarray(state.labels, np.int64), minlength=state.n_classes)
        keys = self._keys(candidates)
        words = noise.bits(state.seed, "pcb", keys, round=state.round)
        order = np.lexsort((candidates, words))
        if self.settings.pcb == "intent":
            chosen = order[balanced(predicted[order], counts, state.n_query)]
        else:
            others = noise.bits(state.seed, "pcb-any", keys, round=state.round)
            chosen = balanced_as_released(predicted, counts, state.n_query, order, np.lexsort((candidates, others)))
        return unknown_odds(candidates[chosen])

    def observe(self, feedback: Feedback) -> Observation:
        """Let the strategy learn; it is told its own probabilities of what was bought."""
        if self._random(feedback.state):
            return self.inner.observe(feedback)
        asked = self._ask(feedback.state)
        self._last = None
        order = np.argsort(asked.positions)
        place = order[np.searchsorted(asked.positions, feedback.proposal.positions, sorter=order)]
        log_prob = asked.log_prob[place]
        proposal = Proposal(feedback.proposal.positions, log_prob, ms_indicator=indicator.multinomial(log_prob))
        return self.inner.observe(Feedback(**{**vars(feedback), "proposal": proposal}))

    def load_state_dict(self, state: StateDict) -> None:
        """Continue to the same bits."""
        self._last = None
        super().load_state_dict(state)

    def _random(self, state: PoolState) -> bool:
        return self.settings.pcb_first_round == "random" and not len(state.labeled)

    def _ask(self, state: PoolState) -> Proposal:
        """The strategy's candidates: asked once a round, or again by a process that didn't propose."""
        if self._last is None or not same_state(self._last[0], state):
            count = max(state.n_query, min(len(state.unlabeled), round(self.settings.pcb_fraction * self.pool.n)))
            asked = PoolState(**{**vars(state), "n_query": count})
            self._last = state, self.inner.propose(asked)
        return self._last[1]

    def _predictions(self, candidates: Int64Array, state: PoolState) -> Int64Array:
        order = np.argsort(candidates)
        result = np.empty(len(candidates), np.int64)
        result[order] = predictions(self.pool, candidates[order], state.text)
        return result

    def _keys(self, candidates: Int64Array) -> np.ndarray:
        order = np.argsort(candidates)
        result = np.empty(len(candidates), np.uint64)
        result[order] = np.concatenate([block.keys for block in read_blocks(self.pool, candidates[order])])
        return result


def balanced(predicted: Int64Array, counts: Int64Array, n_query: int) -> Int64Array:
    """Indices (n_query,) into `predicted` (m,), each the first left of the class with fewest labels that has any.

    `counts` (C,): labels of each class so far.
    """
    counts = counts.copy()
    queues = _queues(predicted, len(counts))
    chosen = []
    for _ in range(n_query):
        open_ = [index for index, queue in enumerate(queues) if queue]
        index = min(open_, key=lambda c: (counts[c], c))
        chosen.append(queues[index].pop())
        counts[index] += 1
    return np.asarray(chosen, np.int64)


def balanced_as_released(
    predicted: Int64Array, counts: Int64Array, n_query: int, order: Int64Array, others: Int64Array
) -> Int64Array:
    """The same, but where the class with fewest labels has run out, one of all that are left is taken uncounted.

    `order` and `others` (m,): two independent random orders of the candidates. Classes are served in the first,
    what is taken uncounted comes in the second: were it one order, the classes that were served would have given up
    their part of its beginning, and would be drawn too seldom.
    """
    counts = counts.copy()
    queues = _queues(predicted[order], len(counts))
    taken = np.zeros(len(predicted), bool)
    rest = iter(others.tolist())
    chosen: list[int] = []
    for _ in range(n_query):
        index = int(np.argmin(counts))
        if queues[index]:
            pick = int(order[queues[index].pop()])
            counts[index] += 1
        else:  # and so for ever: the class stays the one with fewest labels
            pick = next(candidate for candidate in rest if not taken[candidate])
        taken[pick] = True
        chosen.append(pick)
    return np.asarray(chosen, np.int64)


def _queues(predicted: Int64Array, n_classes: int) -> list[list[int]]:
    """For each class the indices predicted as it, first one last."""
    queues: list[list[int]] = [[] for _ in range(n_classes)]
    for index in range(len(predicted) - 1, -1, -1):
        queues[int(predicted[index])].append(index)
    return queues
