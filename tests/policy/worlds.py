"""A small synthetic pool with classes, and a loop of rounds whose student is fixed by the caller."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from psp_ray.core.records import Feedback, LearnOutcome, PoolState, TextState
from tests.helpers import ArrayPool


def unit(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


class World:
    """Clusters around class embeddings, with the large common part that CLIP features share."""

    def __init__(self, n=300, n_classes=5, dim=16, seed=0, block_size=4096, spread=0.7):
        rng = np.random.default_rng(seed)
        self.n, self.n_classes, self.seed = n, n_classes, seed
        self.text = unit(rng.normal(size=(n_classes, dim))).astype(np.float32)
        self.truth = rng.integers(n_classes, size=n).astype(np.int32)
        noise = rng.normal(size=(n, dim)) * spread / np.sqrt(dim)
        self.features = unit(0.5 * self.text[self.truth] + noise + 0.5 / np.sqrt(dim)).astype(np.float32)
        self.pool = ArrayPool(self.features, block_size=block_size)

    def state(self, round=1, n_query=None, unlabeled=None, labeled=(), labels=(), text=None, seed=None):
        return PoolState(
            round=round,
            seed=self.seed if seed is None else seed,
            n_query=n_query or self.n_classes,
            n_classes=self.n_classes,
            text=TextState(self.text if text is None else text, 50.0),
            unlabeled=np.arange(self.n) if unlabeled is None else np.asarray(unlabeled, np.int64),
            labeled=np.asarray(labeled, np.int64),
            labels=np.asarray(labels, np.int32),
        )

    def student(self, round):
        """The text features after a round: the class embeddings, moved a little."""
        rng = np.random.default_rng((self.seed, round))
        return unit(self.text + 0.05 * rng.normal(size=self.text.shape)).astype(np.float32)

    def feedback(self, state, proposal, gap: Callable[[np.ndarray], np.ndarray] | None = None, final=False):
        """A finished round; `gap` maps true labels to gaps (default: the moved student's own)."""
        labels = self.truth[proposal.positions]
        text = self.student(state.round)
        cos = self.features[proposal.positions] @ text.T
        own = (cos.max(1) - cos[np.arange(len(labels)), labels]) if gap is None else gap(labels)
        own = np.asarray(own, np.float32)
        outcome = LearnOutcome(
            text=TextState(text, 50.0),
            contexts=np.zeros((1, 1), np.float32),
            gap_new=own,
            gap_pseudo=np.full(3, 0.01, np.float32),
            gap_new_before=own + np.float32(0.01),
            gap_pseudo_before=np.full(3, 0.02, np.float32),
            train_loss=0.0,
            steps=1,
            restarts=0,
        )
        left = np.setdiff1d(state.unlabeled, proposal.positions)
        return Feedback(state, proposal, labels, outcome, left, final or not len(left))

    def rounds(self, strategy, count, first=None, gap=None, last_is_final=False):
        """Run rounds; yields (state, proposal, observation) and leaves the next state in `self.next`."""
        state = first or self.state()
        for number in range(count):
            proposal = strategy.propose(state)
            feedback = self.feedback(state, proposal, gap, final=last_is_final and number == count - 1)
            observation = strategy.observe(feedback)
            self.next = self.state(
                round=state.round + 1,
                n_query=state.n_query,
                unlabeled=feedback.unlabeled_next,
                labeled=np.concatenate([state.labeled, proposal.positions]),
                labels=np.concatenate([state.labels, feedback.labels]),
                text=feedback.outcome.text.features,
            )
            yield state, proposal, observation
            state = self.next
