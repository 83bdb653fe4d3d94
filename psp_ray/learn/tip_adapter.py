"""Tip-Adapter and Tip-Adapter-F: few-shot classifiers that keep the labeled images. References only.

A cache model is not a matrix of class vectors, so that neither `predict` nor the exports can carry it, and it is no
head: it is fitted to what a run bought, and evaluated beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.errors import ConfigError
from psp_ray.core.noise import stream_key
from psp_ray.core.records import Float32Array, TextState

ALPHA, BETA = 1.0, 5.5
"""Weight and sharpness of the cache: where the authors' search on a validation set starts, which we have none of."""
_EPOCHS, _BATCH, _RATE, _EPS = 20, 256, 1e-3, 1e-4


@dataclass(frozen=True)
class CacheModel:
    """`logits = s f T' + alpha exp(-beta (1 - f K')) V`: keys K (k, d), values V (k, C) one-hot, zero-shot (T, s)."""

    keys: Float32Array
    values: Float32Array
    text: TextState
    alpha: float = ALPHA
    beta: float = BETA

    def logits(self, features: NDArray[Any]) -> Float32Array:
        """(n, C) float32 of unit features (n, d)."""
        x = np.asarray(features, np.float32)
        affinity = np.exp(self.beta * (x @ self.keys.T) - self.beta)
        zero_shot = self.text.logit_scale * (x @ self.text.features.T) + self.text.offset
        return np.asarray(zero_shot + self.alpha * (affinity @ self.values), np.float32)


def tip_adapter(features: Float32Array, labels: NDArray[Any], text: TextState) -> CacheModel:
    """The cache of all labeled samples; nothing is trained.

    Source: Zhang et al., "Tip-Adapter: training-free adaption of CLIP for few-shot classification" (ECCV 2022, arXiv
    2111.03930), equations 3 to 6. Differs: alpha and beta are not searched on a validation set; keys are single
    views, not means over ten augmented ones; classes may have different numbers of samples.

    Args:
        features: (k, d) unit features of the labeled samples.
        labels: (k,) their classes.
        text: the zero-shot class embeddings (C, d) and logit scale.

    Raises:
        ConfigError: no labels.
    """
    if not len(labels):
        raise ConfigError("Tip-Adapter has nothing to keep: no labels; raise labels_per_round")
    values = np.zeros((len(labels), len(text.features)), np.float32)
    values[np.arange(len(labels)), np.asarray(labels, np.int64)] = 1.0
    return CacheModel(np.array(features, np.float32), values, text)


def tip_adapter_f(features: Float32Array, labels: NDArray[Any], text: TextState, seed: int = 0) -> CacheModel:
    """The same with keys trained by cross-entropy: AdamW at 1e-3, cosine, 20 epochs of batches of 256.

    Source: the same, section 3.3, and the released code, which keeps the epoch that is best on the *test* set; here
    the last one is kept. `seed` names the order of the samples. Arguments and errors as in `tip_adapter`.
    """
    import torch

    start = tip_adapter(features, labels, text)
    x, values = torch.from_numpy(start.keys.copy()), torch.from_numpy(start.values)
    zero_shot = text.logit_scale * (x @ torch.from_numpy(np.asarray(text.features, np.float32)).T)
    zero_shot += torch.from_numpy(np.asarray(text.offset, np.float32))
    target = torch.from_numpy(np.array(labels, np.int64))
    keys = torch.nn.Parameter(x.clone())
    optimizer = torch.optim.AdamW([keys], lr=_RATE, eps=_EPS)
    steps = _EPOCHS * -(-len(x) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(stream_key(seed, "tip-adapter-f"))
    for _ in range(_EPOCHS):
        order = rng.permutation(len(x))
        for batch in (torch.from_numpy(order[at : at + _BATCH]) for at in range(0, len(x), _BATCH)):
            affinity = torch.exp(start.beta * (x[batch] @ keys.T) - start.beta)
            loss = torch.nn.functional.cross_entropy(
                zero_shot[batch] + start.alpha * (affinity @ values), target[batch]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return replace(start, keys=keys.detach().numpy())
