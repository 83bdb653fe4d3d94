"""Learn from the labels that taught most what such samples look like before they have a label."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psp_ray.acquisition.base import STRATEGIES, validate_state
from psp_ray.acquisition.strategy import Strategy
from psp_ray.config.acquisition import El2nPolicySettings
from psp_ray.core import noise
from psp_ray.core.pool import class_embeddings, read_blocks, read_rows
from psp_ray.core.probability import class_probabilities, entropies
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

N_CONTEXT = 8


@STRATEGIES.register("el2n-policy")
class El2nPolicy(Strategy):
    """Finds out which labels were worth buying, and trains a policy that buys their like.

    Ours, and nobody's published method. Source: a label's worth is EL2N (Paul, Ganguli and Dziugaite, "Deep learning on
    a data diet", NeurIPS 2021). With Cui et al., "Labeled TrustSet guided: batch active learning with reinforcement
    learning" (IJCNN 2026; BRAL-T) it shares the outline of their abstract only, a balanced choice among the labeled
    samples that a policy imitates on the pool; it must not be shown as that.

    - A label's worth is the error of the prompt under which it was bought, `|p - e_y|`. Worth and state are those
      *before* learning: afterwards the student has fitted the labels and says nothing about unlabeled samples.
    - Of each class half counts as worth it, greedily by worth times the distance to what is kept already.
    - State: eight inputs that don't depend on the order of the classes (see `context`). Policy: one logit
      `theta . phi`. Action: take or leave, with reward 1 or -1 for taking; both rewards are known for a labeled
      sample, so that the gradient of the expected reward plus entropy bonus is exact instead of sampled.
    - The batch is drawn without replacement from `softmax(sharpness * logit)` over the pool, the first one uniformly;
      selection probabilities are therefore known.

    O(n (C + labeled) d) time. State: ten numbers a label.
    """

    name = "el2n-policy"
    settings_class = El2nPolicySettings
    settings: El2nPolicySettings

    def __init__(self, pool: PoolReader, settings: El2nPolicySettings | None = None) -> None:
        super().__init__(pool, settings)
        self.phi = np.zeros((0, N_CONTEXT))
        self.worth = np.zeros(0)
        self.labels = np.zeros(0, np.int64)
        self.positions = np.zeros(0, np.int64)
        self.theta = np.zeros(N_CONTEXT)

    def propose(self, state: PoolState) -> Proposal:
        """Draw the query set.

        Raises UserError for an empty pool or a query larger than it, DatasetError for features that are not finite.
        """
        validate_state(state, self.pool)
        phi, keys = context(self.pool, state)
        logits = self.settings.el2n_sharpness * (phi @ self.theta)
        total = sampling.LogSumExp()
        total.add(logits)
        # the stream keeps the name it had before the strategy got its own, so that draws stay what they were
        gumbel = noise.gumbel(state.seed, "trustset", keys, round=state.round)
        blocks = [(state.unlabeled, logits - total.value, gumbel, keys)]
        positions, log_prob, next_key = sampling.draw(blocks, state.n_query)
        return Proposal(positions, log_prob, next_key, indicator.multinomial(log_prob))

    def utilities(self, state: PoolState) -> Float64Array | None:
        """The policy's logits (n_t,)."""
        validate_state(state, self.pool)
        return self.settings.el2n_sharpness * (context(self.pool, state)[0] @ self.theta)

    def observe(self, feedback: Feedback) -> Observation:
        """Remember what the new labels were worth, and train the policy on the worthiest of all."""
        state, positions = feedback.state, np.asarray(feedback.proposal.positions, np.int64)
        phi, _ = context(self.pool, state)
        labels = np.asarray(feedback.labels, np.int64)
        p = class_probabilities(
            read_rows(self.pool, positions), class_embeddings(state.text, self.pool), state.text.logit_scale
        )
        p[np.arange(len(p)), labels] -= 1.0
        self.phi = np.concatenate([self.phi, phi[np.searchsorted(state.unlabeled, positions)]])
        self.worth = np.concatenate([self.worth, np.linalg.norm(p, axis=1)])
        self.labels = np.concatenate([self.labels, labels])
        self.positions = np.concatenate([self.positions, positions])
        features = read_rows(self.pool, self.positions)
        inside = worth_it(features, self.worth, self.labels, self.settings.el2n_share)
        reward = np.where(inside, 1.0, -1.0)
        self.theta, gained = train(self.phi, reward, self.settings.el2n_temperature, self.settings.el2n_steps)
        return Observation(reward=gained)

    def state_dict(self) -> StateDict:
        """The policy, and the states, worths and labels of all that was bought."""
        if not len(self.worth):
            return {}
        names = ("phi", "worth", "labels", "positions", "theta")
        return {name: np.array(getattr(self, name)) for name in names}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue to the same bits."""
        self.phi = np.array(state.get("phi", np.zeros((0, N_CONTEXT))))
        self.worth = np.array(state.get("worth", np.zeros(0)))
        self.labels = np.array(state.get("labels", np.zeros(0, np.int64)))
        self.positions = np.array(state.get("positions", np.zeros(0, np.int64)))
        self.theta = np.array(state.get("theta", np.zeros(N_CONTEXT)))


def worth_it(features: Float32Array, worth: Float64Array, labels: Int64Array, share: float) -> np.ndarray:
    """Mask (m,) of the labels worth it: of each class `share` of its samples, at least one.

    The first of a class is the one of largest `worth` (m,); then each has the largest worth times distance to the
    nearest one kept. Ties go to what was bought first.
    """
    inside = np.zeros(len(worth), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        x = features[members].astype(np.float64)
        kept = np.zeros(len(members), bool)
        nearest = np.ones(len(members))
        for number in range(max(1, round(share * len(members)))):
            best = int(np.argmax(np.where(kept, -1.0, worth[members] * nearest)))
            kept[best] = True
            distances = np.linalg.norm(x - x[best], axis=1)
            nearest = distances if number == 0 else np.minimum(nearest, distances)
        inside[members[kept]] = True
    return inside


def train(phi: Float64Array, reward: Float64Array, temperature: float, steps: int) -> tuple[Float64Array, float]:
    """(theta, expected reward) of the Bernoulli policy `q = sigmoid(phi theta)` after gradient ascent from 0.

    Maximizes `mean(q r + temperature H(q)) - temperature / (2 m) |theta|^2`; `phi` (m, k), `reward` (m,) of taking each
    sample (leaving it pays 0). A class of rewards that is rarer counts as much as the other.
    """
    m = len(reward)
    weight = np.where(reward > 0, m / (2.0 * max(1, (reward > 0).sum())), m / (2.0 * max(1, (reward <= 0).sum())))
    theta = np.zeros(phi.shape[1])
    rate = 4.0 / max(1e-12, float(np.linalg.norm(phi, 2) ** 2 / m * weight.max()))
    for _ in range(steps):
        logit = phi @ theta
        q = 1.0 / (1.0 + np.exp(-logit))
        slope = weight * q * (1.0 - q) * (reward - temperature * logit)  # d/dlogit of q r + temperature H(q)
        theta = theta + rate * (phi.T @ slope - temperature * theta) / m
    q = 1.0 / (1.0 + np.exp(-(phi @ theta)))
    return theta, float(np.mean(weight * q * reward))


def context(pool: PoolReader, state: PoolState) -> tuple[Float64Array, UInt64Array]:
    """(phi, keys) of all unlabeled samples: phi (n, 8) float64, keys (n,).

    Columns: 1; then, standardized over the unlabeled samples, confidence, margin, entropy, largest cosine, cosine to
    the pool's mean, largest cosine to a labeled sample, and log(1 + labels of the predicted class).
    """
    embeddings = class_embeddings(state.text, pool)
    counts = np.log1p(np.bincount(np.asarray(state.labels, np.int64), minlength=len(embeddings)))
    mean = np.zeros(pool.dim)
    keys = []
    for block in read_blocks(pool, state.unlabeled):
        mean += block.features.sum(axis=0, dtype=np.float64)
        keys.append(block.keys)
    mean /= len(state.unlabeled)
    labeled = read_rows(pool, state.labeled)
    raw = np.concatenate(list(_raw(pool, state, embeddings, counts, mean.astype(np.float32), labeled)))
    center, spread = raw.mean(axis=0), raw.std(axis=0)
    floor = 1e-4 * np.maximum(1.0, np.abs(center))  # a column that is constant but for rounding stays 0
    scale = np.where(spread > floor, 1.0 / np.maximum(spread, floor), 0.0)
    phi = np.clip((raw - center) * scale, -6.0, 6.0)
    return np.column_stack([np.ones(len(phi)), phi]), np.concatenate(keys)


def _raw(
    pool: PoolReader,
    state: PoolState,
    embeddings: Float32Array,
    counts: Float64Array,
    mean: Float32Array,
    labeled: Float32Array,
) -> Iterator[Float64Array]:
    for block in read_blocks(pool, state.unlabeled):
        p = class_probabilities(block.features, embeddings, state.text.logit_scale)
        cosines = block.features @ embeddings.T
        top = np.sort(p, axis=1)[:, -2:]
        near = (block.features @ labeled.T).max(axis=1) if len(labeled) else np.zeros(len(p))
        yield np.column_stack(
            [
                top[:, -1],
                top[:, -1] - top[:, 0] if p.shape[1] > 1 else top[:, -1],
                entropies(p),
                cosines.max(axis=1),
                block.features @ mean,
                near,
                counts[cosines.argmax(axis=1)],
            ]
        ).astype(np.float64)
