"""The typed records that components exchange, and the protocol by which they read the pool.

Arrays are numpy arrays. A *position* is a sample's place in the pool's manifest (0..n-1, int64), fixed for a run;
names (`sample_id`) are used wherever something leaves the run. Records cross actor boundaries as Arrow
(`psp_ray.actors.transport`); components never see the difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_SIZE = 4096
"""Samples per fixed block. All sums over the pool are formed block by block and combined in block order."""

Int64Array = NDArray[np.int64]
Int32Array = NDArray[np.int32]
UInt64Array = NDArray[np.uint64]
Float16Array = NDArray[np.float16]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
StateDict = dict[str, NDArray[Any]]
"""A component's whole state by name, as plain arrays (scalars as 0-d arrays): what a checkpoint holds."""
NOBODY = -1
"""Index of the class of a sample without a pseudo-label."""


@dataclass(frozen=True)
class FeatureBlock:
    """One fixed block of the pool.

    `features` (m, d) and `views` (m, L, d) are float16 and L2-normalized before rounding; `keys` (m,) are the noise
    keys of the samples; `start` is the position of the first one.
    """

    index: int
    start: int
    keys: UInt64Array
    features: Float16Array
    views: Float16Array | None = None


class PoolReader(Protocol):
    """Read access to the frozen features of the pool, whoever holds them."""

    @property
    def n(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def n_views(self) -> int: ...
    @property
    def n_blocks(self) -> int: ...
    @property
    def block_size(self) -> int:
        """Samples per block: `BLOCK_SIZE`, but in small tests."""
        ...

    def block(self, index: int, *, views: bool = False) -> FeatureBlock:
        """Block `index`: positions index * block_size up to the next multiple or n."""
        ...

    def rows(self, positions: Int64Array) -> Float16Array:
        """Features (k, d) at arbitrary positions, in the order asked for."""
        ...


@dataclass(frozen=True)
class TextState:
    """A classifier of image features: `logits = logit_scale * (f @ features.T) + bias`.

    Zero-shot and prompts: L2-normalized class embeddings (C, d) float32, the model's logit scale (about 1..100) and no
    bias. Heads (`psp_ray.learn.heads`): class vectors of mean square length 1 and a bias (C,) float32, in logits.
    """

    features: Float32Array
    logit_scale: float
    bias: Float32Array | None = None

    @property
    def offset(self) -> Float32Array:
        """The bias (C,), zeros where there is none."""
        return np.zeros(len(self.features), np.float32) if self.bias is None else self.bias

    def cooled(self, temperature: float) -> TextState:
        """The classifier whose logits are divided by a temperature."""
        bias = None if self.bias is None else self.bias / np.float32(temperature)
        return TextState(self.features, self.logit_scale / temperature, bias)


@dataclass(frozen=True)
class PoolState:
    """All that an acquisition function may look at. Labels of unlabeled samples are not in it.

    `unlabeled` (n_t,) sorted positions; `labeled` (m,) positions in the order bought with `labels` (m,) int32. `doubt`
    (n,) float32, by position: one minus the probability of the likeliest class under the posterior; None where there is
    no posterior (yet).
    """

    round: int
    seed: int
    n_query: int
    n_classes: int
    text: TextState
    unlabeled: Int64Array
    labeled: Int64Array
    labels: Int32Array
    doubt: Float32Array | None = None


CAME = ("asked", "ahead", "unasked", "earlier")
"""How an answer came that wasn't known before the first round, by number: the query set asked for it; people gave it
ahead of being asked, or unasked; an earlier query set had asked for it, in whose place another one is."""


@dataclass(frozen=True)
class Grounds:
    """Why each of k samples was asked about, (k,) float64 each, NaN where nobody knows.

    `behind_plan`: 0 for a first choice of the policy's plan, log odds below those for its reserve, infinite for what it
    did not name. `policy_weight`: how many times as much as uniform the policy itself weighed it. `doubt`: one minus
    the probability of its likeliest class under the posterior of the time. `pseudo_class`, `pseudo_confidence`: what
    self-training had taken it for, `NOBODY` for a sample without a pseudo-label. `came`: which of `CAME`, by number.
    """

    behind_plan: Float64Array
    policy_weight: Float64Array
    doubt: Float64Array
    pseudo_class: Float64Array
    pseudo_confidence: Float64Array
    came: Float64Array

    @classmethod
    def unknown(cls, count: int) -> Grounds:
        return cls(*(np.full(count, np.nan) for _ in fields(cls)))

    def at(self, rows: NDArray[Any]) -> Grounds:
        """Those of `rows`, by number or mask."""
        return Grounds(*(getattr(self, item.name)[rows] for item in fields(self)))

    def then(self, others: Grounds) -> Grounds:
        """These, and `others` behind them."""
        pairs = ((getattr(self, item.name), getattr(others, item.name)) for item in fields(self))
        return Grounds(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class Proposal:
    """A query set: `positions` (n_s,) distinct, in draw order.

    `log_prob` (n_s,) float64: log of the selection probability a_i, NaN where the strategy has none.
    `next_key`: the (n_s+1)-th perturbed key of the Gumbel-top-k draw; NaN where there is none.
    `ms_indicator`: raw multinomial log-probability of the draw (method.md, step 4); NaN where not defined.
    `n_audit`: so many of the first positions were drawn by chance alone from all unlabeled samples, by a plan that
    was known before (`psp_ray.posterior.audit`).
    `grounds`: why each was taken; None: the strategy doesn't say.
    """

    positions: Int64Array
    log_prob: Float64Array
    next_key: float = float("nan")
    ms_indicator: float = float("nan")
    n_audit: int = 0
    grounds: Grounds | None = None


@dataclass(frozen=True)
class PseudoLabels:
    """What self-training retained: `positions` (p,) sorted, `labels` (p,) int32, `confidence`, `uncertainty` (p,)."""

    positions: Int64Array
    labels: Int32Array
    confidence: Float32Array
    uncertainty: Float32Array

    @classmethod
    def empty(cls) -> PseudoLabels:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class Moments:
    """Sums over images with features f_i and probabilities p_ic: all that a Gaussian discriminant has to know of them.

    `count` (C,) sum of p_ic, `first` (C, d) sum of p_ic f_i, `second` (d, d) sum of p_ic f_i f_i'; float64.
    """

    count: Float64Array
    first: Float64Array
    second: Float64Array

    @classmethod
    def nothing(cls, n_classes: int, dim: int) -> Moments:
        """Of no image."""
        return cls(np.zeros(n_classes), np.zeros((n_classes, dim)), np.zeros((dim, dim)))

    def plus(self, other: Moments, factor: float = 1.0) -> Moments:
        """These and `factor` times others."""
        return Moments(
            self.count + factor * other.count, self.first + factor * other.first, self.second + factor * other.second
        )


@dataclass(frozen=True)
class SoftLabels:
    """Distributions over the classes: `positions` (p,) sorted, `probabilities` (p, C) float32, rows summing to 1.

    Bought images may be among them; their labels win. `rest`: of a large pool, the moments of all images that are
    neither among them nor bought.
    """

    positions: Int64Array
    probabilities: Float32Array
    rest: Moments | None = None


@dataclass(frozen=True)
class HeldOut:
    """What would be known had some labels not been bought: `rows` (h,) of `LearnRequest.labeled` that are held out.

    `probabilities` (p, C) float32: those of `LearnRequest.soft`, with everything computed anew that a held label
    touched.
    """

    rows: Int64Array
    probabilities: Float32Array


@dataclass(frozen=True)
class LearnRequest:
    """Everything bought so far (`labeled`, `labels`), which of it is new, and what self-training retained.

    `soft`: the posterior of (a part of) the pool, which heads learn from instead of `pseudo` where it is given;
    `held_out`: the same without some labels, by which heads are chosen and a worse student is found out.
    """

    round: int
    labeled: Int64Array
    labels: Int32Array
    n_new: int
    """The last `n_new` entries of `labeled` were bought in this round."""
    pseudo: PseudoLabels
    teacher: TextState
    """The classifier before learning: the reward's `gap before` and the guards look at it."""
    soft: SoftLabels | None = None
    held_out: tuple[HeldOut, ...] = ()


@dataclass(frozen=True)
class LearnOutcome:
    """The student after a round.

    `gap_new` (n_new,) and `gap_pseudo` (p,): `max_c cos_kc - cos_k,yk` >= 0 under the student (method.md, step 7);
    `gap_new_before`, `gap_pseudo_before`: the same under the teacher. `contexts`: the learned context vectors,
    (C, M, width) class-specific or (M, width) shared.
    """

    text: TextState
    contexts: Float32Array
    gap_new: Float32Array
    gap_pseudo: Float32Array
    gap_new_before: Float32Array
    gap_pseudo_before: Float32Array
    train_loss: float
    steps: int
    restarts: int
    """How often the divergence guard had to start again with a smaller learning rate."""
    warning: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a split, as fractions: overall and averaged over the classes that occur."""

    accuracy: float
    macro_accuracy: float
    n: int


@dataclass(frozen=True)
class Feedback:
    """What a round taught: input of `AcquisitionFunction.observe`.

    `unlabeled_next` are the positions left after the purchase; `final` is true in the last round (no next state).
    """

    state: PoolState
    proposal: Proposal
    labels: Int32Array
    outcome: LearnOutcome
    unlabeled_next: Int64Array
    final: bool


@dataclass(frozen=True)
class Observation:
    """What `observe` did: the scalar reward (NaN where a strategy has none) and one row per update step.

    `updates` maps a column name (`loss_v, loss_q, loss_pi, alpha, entropy, effective_pool_size, ...`) to an array of
    equal lengths; empty where nothing was updated. It becomes `policy.parquet`.
    """

    reward: float = float("nan")
    updates: dict[str, Float64Array] = field(default_factory=dict)
    reward_seconds: float = 0.0
    """Time spent on the reward; the rest of the call is the update."""
