"""The state of the pool, in factors and block by block: `s_i = w_i (x) f_i`, never as an (n, C*d) matrix.

`w_ic = 1[c = yhat_i] - cos_ic` with `yhat_i = argmax_c cos_ic` and `cos_ic = f_i . T_c` (method.md, step 1). Beside the
factors a sample may have a few inputs that don't depend on the order of the classes: how sure the prompt is of it
(`state_features`) and how it relates to the pool's mean and to what is labeled (`pooled_context`). They are
standardized over the unlabeled samples, so that they mean the same in every round.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from psp_ray.config.kinds import PRIORS
from psp_ray.config.policy import PolicySettings
from psp_ray.core.pool import block_spans, class_embeddings, finite, read_rows
from psp_ray.core.records import (
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    PoolReader,
    TextState,
    UInt64Array,
)
from psp_ray.policy.prior import Prior

CACHE_BYTES = 256 << 20
"""Blocks of states kept in memory; the rest is recomputed from the features, to the same bits."""

SPARSE = 1024
"""Samples in a block of a large pool, of which the policy looks at some only."""
N_STATE_FEATURES = 5
N_CONTEXT_FEATURES = 5
_CLIP = 6.0


@dataclass(frozen=True)
class PoolView:
    """What a state is computed from: a prompt, who is unlabeled (sorted positions), and what is labeled.

    `anchors` (k,) sorted positions with log odds `anchor_odds` (k,): the prior `coverage`, where it is set.
    """

    text: TextState
    unlabeled: Int64Array
    labeled: Int64Array
    labels: Int32Array
    anchors: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    anchor_odds: Float64Array = field(default_factory=lambda: np.zeros(0, np.float64))

    def digest(self) -> bytes:
        """Names the state: equal content, equal digest."""
        hasher = hashlib.blake2b(digest_size=16)
        for array in (self.text.features, self.unlabeled, self.labeled, self.labels, self.anchors, self.anchor_odds):
            hasher.update(np.ascontiguousarray(array).tobytes() + b"\x00")
        hasher.update(np.float64(self.text.logit_scale).tobytes())
        if self.text.bias is not None:
            hasher.update(self.text.bias.tobytes())
        return hasher.digest()


@dataclass(frozen=True)
class BlockState:
    """The unlabeled samples of one block.

    `f` (m, d) and `w` (m, C) float32 factors; `extra` (m, k) float32, k = 0 where no extra inputs are set; `prior`
    (m,) float64 log odds added to the policy's (zeros without a prior); `positions` (m,); `keys` (m,) noise keys.
    """

    f: Tensor
    w: Tensor
    extra: Tensor
    prior: Float64Array
    positions: Int64Array
    keys: UInt64Array

    def part(self, rows: list[int]) -> BlockState:
        """Some samples of the block."""
        return BlockState(
            self.f[rows], self.w[rows], self.extra[rows], self.prior[rows], self.positions[rows], self.keys[rows]
        )

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(t.numel() * t.element_size() for t in (self.f, self.w, self.extra)) + 24 * len(self.positions)


@dataclass(frozen=True)
class Normalization:
    """Constants by which the factors are centered and scaled: means (d,) and (C,), root mean square distances."""

    mean_f: Float32Array
    mean_w: Float32Array
    spread_f: float
    spread_w: float


def class_factor(f: Tensor, text: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(w, cos), each (m, C), of features f (m, d) under class embeddings text (C, d) and a bias (C,) on the cosines."""
    cos = f @ text.T
    if bias is not None:
        cos = cos + bias
    w = -cos
    w[torch.arange(len(w)), cos.argmax(1)] += 1.0
    return w, cos


def squared_distances(f: Tensor, w: Tensor, other_f: Tensor, other_w: Tensor) -> Tensor:
    """`|s_i - s_j|^2` (m, k) of gradient embeddings given by their factors (method.md, step 1); never negative."""
    norms = (f * f).sum(1) * (w * w).sum(1)
    other = (other_f * other_f).sum(1) * (other_w * other_w).sum(1)
    return (norms[:, None] + other[None, :] - 2.0 * (f @ other_f.T) * (w @ other_w.T)).clamp_min(0.0)


def uncertainty_features(cos: Tensor, logit_scale: float) -> Tensor:
    """(m, 5): largest cosine, cosine margin, confidence, probability margin, entropy / log C; C = 1 gives margin 0."""
    probability = torch.softmax(logit_scale * cos, 1)
    if cos.shape[1] == 1:
        zero = torch.zeros_like(cos[:, 0])
        return torch.stack([cos[:, 0], zero, probability[:, 0], zero, zero], 1)
    cos_top, p_top = cos.topk(2, 1).values, probability.topk(2, 1).values
    entropy = torch.special.entr(probability).sum(1) / float(np.log(cos.shape[1]))
    return torch.stack(
        [cos_top[:, 0], cos_top[:, 0] - cos_top[:, 1], p_top[:, 0], p_top[:, 0] - p_top[:, 1], entropy], 1
    )


class _Moments:
    """Running mean and standard deviation over blocks, float64, in the order of `add`."""

    def __init__(self, width: int) -> None:
        self.count, self.total, self.square = 0, np.zeros(width), np.zeros(width)

    def add(self, values: Tensor) -> None:
        array = values.detach().cpu().double()
        self.count += len(array)
        self.total += array.sum(0).numpy()
        self.square += (array * array).sum(0).numpy()

    @property
    def mean(self) -> Float64Array:
        return self.total / max(1, self.count)

    @property
    def std(self) -> Float64Array:
        return np.sqrt(np.maximum(self.square / max(1, self.count) - self.mean**2, 0.0))


@dataclass(frozen=True)
class _Summary:
    """Pool-wide constants of one state: means of the factors, and mean and scale of each extra input."""

    mean_f: Float32Array
    mean_w: Float32Array
    labeled_f: Float32Array
    labeled_w: Float32Array
    class_counts: Float32Array
    shift: Float32Array
    scale: Float32Array
    spread_f: float
    spread_w: float


class StateReader:
    """Computes the states of a pool block by block, and keeps as many as fit in `cache_bytes`."""

    def __init__(
        self,
        pool: PoolReader,
        settings: PolicySettings,
        device: torch.device | str = "cpu",
        cache_bytes: int = CACHE_BYTES,
        prior: Prior | None = None,
    ) -> None:
        self.pool, self.settings, self.device = pool, settings, torch.device(device)
        self.prior = prior or PRIORS.find(settings.prior)(pool, settings)
        self.block_size = pool.block_size
        """Positions a block; see `look_at`."""
        self._keys: UInt64Array | None = None
        self.cache_bytes = cache_bytes
        self._blocks: OrderedDict[tuple[bytes, int], BlockState] = OrderedDict()
        self.held_bytes = 0
        """Memory of the blocks kept."""
        self._summaries: dict[bytes, _Summary] = {}
        self._texts: dict[bytes, Tensor] = {}

    def look_at(self, samples: int, keys: UInt64Array) -> None:
        """Take the pool in larger blocks, read sample by sample, where views hold so many `samples` of a large pool:
        blocks of about `SPARSE` of them. `keys` (n,) are the noise keys of all."""
        self._keys = keys
        factor = -(-self.pool.n * SPARSE // max(samples, 1)) // self.pool.block_size
        self.block_size = self.pool.block_size * max(1, factor)

    @property
    def n_extra(self) -> int:
        """Number of extra inputs per sample, k."""
        return N_STATE_FEATURES * self.settings.state_features + N_CONTEXT_FEATURES * self.settings.pooled_context

    @property
    def _needs_summary(self) -> bool:
        return self.n_extra > 0 or self.prior.uses_uncertainty

    def blocks(self, unlabeled: Int64Array) -> list[int]:
        """Indices of the blocks that hold any of the sorted positions `unlabeled`."""
        return [index for index, _ in block_spans(unlabeled, self.block_size)]

    def inside(self, unlabeled: Int64Array, index: int) -> slice:
        """Where the samples of block `index` stand in the sorted positions `unlabeled`."""
        low, high = np.searchsorted(unlabeled, [index * self.block_size, (index + 1) * self.block_size])
        return slice(int(low), int(high))

    def read(self, view: PoolView, index: int, digest: bytes | None = None) -> BlockState:
        """The state of the samples of `view` in block `index`.

        Raises DatasetError where a feature is not a finite number.
        """
        digest = digest or view.digest()
        found = self._blocks.get((digest, index))
        if found is not None:
            self._blocks.move_to_end((digest, index))
            return found
        summary = self.summary(view, digest) if self._needs_summary else None
        f, positions, keys = self._features(view, index)
        w, cos = class_factor(f, self._text(view, digest), self._bias(view))
        extra = torch.zeros((len(f), 0), device=self.device)
        prior = np.zeros(len(f))
        if summary is not None:
            values = self._standardize(self._extra(view, summary, f, w, cos), summary)
            if self.prior.uses_uncertainty:
                prior = self.prior.log_odds(values[:, :N_STATE_FEATURES])
            extra = values[:, self._wanted()]
        if len(view.anchors):
            found_at = np.minimum(np.searchsorted(view.anchors, positions), len(view.anchors) - 1)
            prior = np.where(view.anchors[found_at] == positions, prior + view.anchor_odds[found_at], prior)
        state = BlockState(f, w, extra, prior, positions, keys)
        self._remember((digest, index), state)
        return state

    def normalization(self, view: PoolView) -> Normalization:
        """The constants of `centered`, from the samples of a view."""
        summary = self.summary(view, view.digest())
        return Normalization(summary.mean_f, summary.mean_w, summary.spread_f, summary.spread_w)

    def summary(self, view: PoolView, digest: bytes) -> _Summary:
        """Pool-wide constants of a state: one pass for the means and one for the extra inputs' moments."""
        if digest not in self._summaries:
            self._summaries[digest] = self._summarize(view, digest)
        return self._summaries[digest]

    def _summarize(self, view: PoolView, digest: bytes) -> _Summary:
        text = self._text(view, digest)
        n_classes, width = text.shape
        f_moments, w_moments = _Moments(width), _Moments(n_classes)
        for index in self.blocks(view.unlabeled):
            f, _, _ = self._features(view, index)
            f_moments.add(f)
            w_moments.add(class_factor(f, text, self._bias(view))[0])
        labeled_f, labeled_w = np.zeros(width), np.zeros(n_classes)
        if len(view.labeled):
            rows = torch.from_numpy(np.asarray(self.pool.rows(view.labeled), np.float32)).to(self.device)
            truth = -class_factor(rows, text, self._bias(view))[1]
            truth[torch.arange(len(rows)), torch.from_numpy(np.asarray(view.labels, np.int64))] += 1.0
            labeled_f, labeled_w = rows.double().mean(0).cpu().numpy(), truth.double().mean(0).cpu().numpy()
        k = N_STATE_FEATURES + N_CONTEXT_FEATURES
        blank = _Summary(
            mean_f=f_moments.mean.astype(np.float32),
            mean_w=w_moments.mean.astype(np.float32),
            labeled_f=labeled_f.astype(np.float32),
            labeled_w=labeled_w.astype(np.float32),
            class_counts=np.bincount(view.labels, minlength=n_classes).astype(np.float32),
            shift=np.zeros(k, np.float32),
            scale=np.ones(k, np.float32),
            spread_f=float(np.sqrt(np.sum(f_moments.std**2))),
            spread_w=float(np.sqrt(np.sum(w_moments.std**2))),
        )
        if not self._needs_summary:
            return blank
        moments = _Moments(k)
        for index in self.blocks(view.unlabeled):
            f, _, _ = self._features(view, index)
            moments.add(self._extra(view, blank, f, *class_factor(f, text, self._bias(view))))
        # A column that is constant but for rounding must not be blown up.
        floor = 1e-4 * np.maximum(1.0, np.abs(moments.mean))
        scale = np.where(moments.std > floor, 1.0 / np.maximum(moments.std, floor), 0.0)
        return _Summary(**{**vars(blank), "shift": moments.mean.astype(np.float32), "scale": scale.astype(np.float32)})

    def _extra(self, view: PoolView, summary: _Summary, f: Tensor, w: Tensor, cos: Tensor) -> Tensor:
        """(m, 10) raw extra inputs: the uncertainty features, then the relations to the pool and the labeled."""

        def tensor(array: Float32Array) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        counts = torch.log1p(tensor(summary.class_counts))
        relations = [
            f @ tensor(summary.mean_f),
            f @ tensor(summary.labeled_f),
            w @ tensor(summary.mean_w),
            w @ tensor(summary.labeled_w),
            counts[cos.argmax(1)],
        ]
        return torch.cat([uncertainty_features(cos, view.text.logit_scale), torch.stack(relations, 1)], 1)

    def _standardize(self, values: Tensor, summary: _Summary) -> Tensor:
        shift, scale = (torch.from_numpy(a).to(self.device) for a in (summary.shift, summary.scale))
        return ((values - shift) * scale).clamp(-_CLIP, _CLIP)

    def _wanted(self) -> slice:
        low = 0 if self.settings.state_features else N_STATE_FEATURES
        return slice(low, low + self.n_extra)

    def _text(self, view: PoolView, digest: bytes) -> Tensor:
        if digest not in self._texts:
            features = class_embeddings(view.text, self.pool).copy()
            self._texts[digest] = torch.from_numpy(features).to(self.device)
        return self._texts[digest]

    def _bias(self, view: PoolView) -> Tensor | None:
        if view.text.bias is None:
            return None
        return torch.from_numpy(view.text.bias / np.float32(view.text.logit_scale)).to(self.device)

    def _features(self, view: PoolView, index: int) -> tuple[Tensor, Int64Array, UInt64Array]:
        positions = view.unlabeled[self.inside(view.unlabeled, index)]
        if self._keys is not None:
            seen = torch.from_numpy(read_rows(self.pool, positions)).to(self.device)
            return seen, np.asarray(positions, np.int64), self._keys[positions]
        block = self.pool.block(index)
        rows = np.asarray(positions) - block.start
        features = finite(np.asarray(block.features[rows], np.float32), positions)
        return torch.from_numpy(features).to(self.device), np.asarray(positions, np.int64), block.keys[rows]

    def _remember(self, key: tuple[bytes, int], state: BlockState) -> None:
        if state.nbytes > self.cache_bytes:
            return
        self._blocks[key] = state
        self.held_bytes += state.nbytes
        while self.held_bytes > self.cache_bytes:
            _, oldest = self._blocks.popitem(last=False)
            self.held_bytes -= oldest.nbytes

    def forget(self, keep: set[bytes]) -> None:
        """Drop what is kept of states other than those named."""
        for key in [key for key in self._blocks if key[0] not in keep]:
            self.held_bytes -= self._blocks.pop(key).nbytes
        self._summaries = {key: value for key, value in self._summaries.items() if key in keep}
        self._texts = {key: value for key, value in self._texts.items() if key in keep}
