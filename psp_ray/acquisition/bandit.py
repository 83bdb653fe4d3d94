"""A bandit over regions of the pool: it learns where the prompt errs, and nothing else."""

from __future__ import annotations

import numpy as np

from psp_ray.acquisition.base import STRATEGIES, validate_state
from psp_ray.acquisition.strategy import Strategy, generator, unknown_odds
from psp_ray.acquisition.toolkit.clusters import cluster
from psp_ray.config.acquisition import BanditSettings
from psp_ray.core import noise
from psp_ray.core.errors import UserError
from psp_ray.core.pool import class_embeddings, read_rows
from psp_ray.core.records import (
    Feedback,
    Float64Array,
    Int64Array,
    Observation,
    PoolReader,
    PoolState,
    Proposal,
    StateDict,
)


@STRATEGIES.register("bandit")
class Bandit(Strategy):
    """Thompson sampling with several plays a round; an arm is a k-means cluster of the pool.

    A pull asks for a sample of the cluster, drawn uniformly; its reward is 1 if the prompt of that round had its class
    wrong, else 0. Each arm has a Beta(1, 1) prior; a round draws a value per arm from its posterior and serves the arms
    by falling value, one sample each, again from the start if there are fewer arms than queries.

    Source: Thompson (Biometrika 1933); several plays as in Komiyama, Honda and Nakagawa, "Optimal regret analysis of
    Thompson sampling in stochastic multi-armed bandit problem with multiple plays" (ICML 2015); discounted rewards as
    in Garivier and Moulines, "On upper-confidence bound policies for switching bandit problems" (ALT 2011). It is the
    one-step relative of a learned sampling policy, after the idea of prompt-tuning bandits (Rietz et al., arXiv
    2502.06358, from the abstract: a bandit that explores which prompts pay); arms and reward are ours.

    O(n arms d) time for the clusters, once in a process. State: two numbers an arm.
    """

    name = "bandit"
    settings_class = BanditSettings
    settings: BanditSettings

    def __init__(self, pool: PoolReader, settings: BanditSettings | None = None) -> None:
        super().__init__(pool, settings)
        self.wins = np.zeros(0)
        self.losses = np.zeros(0)
        self._seed = 0
        self._arms: tuple[int, int, Int64Array] | None = None

    def propose(self, state: PoolState) -> Proposal:
        """Choose the query set.

        Raises UserError for an empty pool or a query larger than it, DatasetError for features that are not finite.
        """
        validate_state(state, self.pool)
        if not len(self.wins):
            self._start(state)
        arms = self._arm_of_all()[state.unlabeled]
        rng = generator(state, "bandit")
        values = rng.beta(1.0 + self.wins, 1.0 + self.losses)
        words = rng.random(len(arms))
        order = np.lexsort((words, arms))  # within an arm in random order
        arms = arms[order]
        starts = np.searchsorted(arms, np.arange(len(values)))
        turn = np.arange(len(arms)) - starts[arms]
        serving = np.lexsort((arms, -values[arms], turn))
        return unknown_odds(state.unlabeled[order[serving[: state.n_query]]])

    def observe(self, feedback: Feedback) -> Observation:
        """Take the rewards of a round: was the prompt that the query set was chosen under wrong?"""
        state, positions = feedback.state, feedback.proposal.positions
        if not len(self.wins):
            self._start(state)
        cosines = read_rows(self.pool, positions) @ class_embeddings(state.text, self.pool).T
        wrong = (cosines.argmax(axis=1) != feedback.labels).astype(np.float64)
        arms = self._arm_of_all()[positions]
        self.wins = self._updated(self.wins, arms, wrong)
        self.losses = self._updated(self.losses, arms, 1.0 - wrong)
        return Observation(reward=float(wrong.mean()))

    def state_dict(self) -> StateDict:
        """Rewards of each arm, and the seed of the clusters."""
        if not len(self.wins):
            return {}
        return {"wins": self.wins.copy(), "losses": self.losses.copy(), "seed": np.asarray(self._seed, np.int64)}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue to the same bits. Raises UserError where the state was taken under other settings."""
        self.wins, self.losses, self._seed = np.zeros(0), np.zeros(0), 0
        if not state:
            return
        if self.settings.bandit_arms not in (0, len(state["wins"])):
            raise UserError(
                f"--bandit-arms {self.settings.bandit_arms}: the checkpoint's bandit has {len(state['wins'])} arms; "
                "resume with the settings of the run"
            )
        self.wins = np.array(state["wins"], np.float64)
        self.losses = np.array(state["losses"], np.float64)
        self._seed = int(state["seed"])

    def _start(self, state: PoolState) -> None:
        count = min(self.settings.bandit_arms or 2 * state.n_query, self.pool.n)
        self.wins, self.losses, self._seed = np.zeros(count), np.zeros(count), state.seed

    def _arm_of_all(self) -> Int64Array:
        """The cluster of every sample of the pool (pool.n,): a function of the pool, the seed and the settings."""
        key = (self._seed, len(self.wins))
        if self._arms is None or self._arms[:2] != key:
            seed = noise.stream_key(self._seed, "bandit-arms")
            found = cluster(self.pool, np.arange(self.pool.n), len(self.wins), seed)
            self._arms = (*key, found.labels)
        return self._arms[2]

    def _updated(self, counts: Float64Array, arms: Int64Array, gained: Float64Array) -> Float64Array:
        return self.settings.bandit_memory * counts + np.bincount(arms, weights=gained, minlength=len(counts))
