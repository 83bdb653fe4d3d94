"""`prompts.safetensors`: what a run has learned, with all that `psp_ray.export.classifier` needs to predict."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.clip.spec import BackboneSpec
from psp_ray.core.files import write_tensors
from psp_ray.core.records import Float32Array, TextState

PROMPTS = "prompts.safetensors"
FORMAT = "psp-ray-prompts-1"
NO_TOWER = "class embeddings"
"""Stands for the model where class embeddings were given in place of one."""


def save_prompts(
    path: Path,
    text: TextState,
    contexts: Float32Array,
    classes: Sequence[str],
    backbone: dict[str, Any],
    spec: BackboneSpec,
    provenance: dict[str, Any],
    temperature: float = 1.0,
) -> None:
    """Write everything that prediction needs into one safetensors file.

    Tensors: `class_embeddings` (C, d), `contexts`, `logit_scale` (), `bias` (C,), `temperature` (): probabilities are
    `softmax((logit_scale * f @ class_embeddings.T + bias) / temperature)`. The header's metadata holds the
    class names, the model with the hash of its weights, and the settings of the prompts, as JSON texts.
    """
    tensors = {
        "class_embeddings": text.features.astype(np.float32),
        "contexts": contexts.astype(np.float32),
        "logit_scale": np.asarray(text.logit_scale, np.float32),
        "bias": text.offset,
        "temperature": np.asarray(temperature, np.float32),
    }
    checkpoint = None if spec.checkpoint is None else os.path.abspath(spec.checkpoint)
    metadata = {
        "format": FORMAT,
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "model": NO_TOWER if backbone["model"] == NO_TOWER else spec.model,
        "checkpoint": json.dumps(checkpoint),
        "image_size": json.dumps(backbone["image_size"][0]),
        "weights_hash": str(backbone["weights_hash"]),
        "backbone": json.dumps(backbone, default=str),
        "provenance": json.dumps(provenance, default=str),
    }
    write_tensors(path, tensors, metadata)
