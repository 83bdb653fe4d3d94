"""Class probabilities: one softmax for everybody."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.records import Float32Array, Float64Array

F = TypeVar("F", np.float32, np.float64)


def softmax(logits: NDArray[F]) -> NDArray[F]:
    """`exp(z_c) / sum_c exp(z_c)` along the last axis, in the precision of `logits` (..., C)."""
    odds: NDArray[F] = logits - logits.max(axis=-1, keepdims=True)
    np.exp(odds, out=odds)
    odds /= odds.sum(axis=-1, keepdims=True)
    return odds


def class_probabilities(
    features: NDArray[Any], embeddings: Float32Array, logit_scale: float, bias: Float32Array | None = None
) -> Float64Array:
    """`softmax(logit_scale * f_i . T_c + bias_c)` (m, C) float64 of features (m, d) under class embeddings (C, d)."""
    return softmax(class_scores(features, embeddings, logit_scale, bias).astype(np.float64) * logit_scale)


def class_scores(
    features: NDArray[Any], embeddings: Float32Array, logit_scale: float, bias: Float32Array | None = None
) -> Float32Array:
    """`f_i . T_c + bias_c / logit_scale` (m, C): cosines where nothing but prompts was learned."""
    scores: Float32Array = features @ embeddings.T
    if bias is not None:
        scores += (bias / np.float32(logit_scale)).astype(np.float32)
    return scores


def entropies(p: Float64Array) -> Float64Array:
    """`-sum_c p_ic log p_ic` (m,) in nats of probabilities (m, C)."""
    result: Float64Array = -np.sum(p * np.log(np.maximum(p, np.finfo(np.float64).tiny)), axis=1)
    return result
