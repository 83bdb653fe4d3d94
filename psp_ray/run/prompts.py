"""`prompts.safetensors`: what a run has learned, with all that `psp_ray.export.classifier` needs to predict."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, Json, ValidationError
from safetensors import SafetensorError, safe_open

from psp_ray.clip.spec import BackboneSpec
from psp_ray.core.errors import ModelError
from psp_ray.core.files import write_tensors
from psp_ray.core.paths import is_file, local_path, local_text
from psp_ray.core.records import Float32Array, StateDict, TextState
from psp_ray.core.words import short
from psp_ray.posterior.calibration import Calibration, caution
from psp_ray.run.folder import PROMPTS
from psp_ray.run.remains import written_by

FORMAT = "psp-ray-prompts-1"
LOCAL = "local-dir:"
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
    calibration: Calibration,
) -> None:
    """Write everything that prediction needs into one safetensors file.

    Tensors: `class_embeddings` (C, d), `contexts`, `logit_scale` (), `bias` (C,), `temperature` (): probabilities are
    `softmax((logit_scale * f @ class_embeddings.T + bias) / temperature)`. The header's metadata holds the
    class names, the model with the hash of its weights, how many labels the temperature is fitted to, and the settings
    of the prompts, as JSON texts.
    """
    tensors = {
        "class_embeddings": text.features.astype(np.float32),
        "contexts": contexts.astype(np.float32),
        "logit_scale": np.asarray(text.logit_scale, np.float32),
        "bias": text.offset,
        "temperature": np.asarray(calibration.temperature, np.float32),
    }
    metadata = {
        "format": FORMAT,
        "classes": json.dumps(list(classes), ensure_ascii=False),
        **(model_metadata(spec) | ({"model": NO_TOWER} if backbone["model"] == NO_TOWER else {})),
        "weights_hash": str(backbone["weights_hash"]),
        "calibrated_by": json.dumps(calibration.n),
        "backbone": json.dumps(backbone, default=str),
        "provenance": json.dumps(provenance, default=str),
    }
    write_tensors(path, tensors, metadata)


def model_metadata(spec: BackboneSpec) -> dict[str, str]:
    """How a model is named in the file's header, so that it is found from any folder: paths are absolute.

    `image_size` is the one that was asked for: where none was, the model's own, square or not, is taken again.
    """
    model = spec.model
    if model.startswith(LOCAL):
        model = LOCAL + os.path.abspath(local_text(model.removeprefix(LOCAL)))
    checkpoint = None if spec.checkpoint is None else os.path.abspath(local_text(spec.checkpoint))
    return {"model": model, "checkpoint": json.dumps(checkpoint), "image_size": json.dumps(spec.image_size)}


class _Header(BaseModel):
    """The metadata of a prompts file."""

    format: Literal["psp-ray-prompts-1"]
    classes: Annotated[Json[list[str]], Field(min_length=2)]
    model: Annotated[str, Field(min_length=1)]
    checkpoint: Json[str | None]
    image_size: Json[int | None]
    weights_hash: str
    calibrated_by: Json[int | None] = None


@dataclass(frozen=True, eq=False)
class Learned:
    """What a prompts file holds: a classifier at its temperature, its class names, and the model it belongs to."""

    path: Path
    text: TextState
    classes: list[str]
    spec: BackboneSpec
    """As the header names it; `NO_TOWER` stands for the model where there is none."""
    weights_hash: str
    calibrated_by: int | None = None
    """Labels that the temperature is fitted to; None in files that don't say."""

    @property
    def caution(self) -> str:
        """What must be said wherever its probabilities are shown; empty where nothing need be."""
        return "" if self.calibrated_by is None else caution(self.calibrated_by)

    @property
    def has_tower(self) -> bool:
        return self.spec.model != NO_TOWER


def read_prompts(run: str | os.PathLike[str]) -> Learned:
    """Read a run's prompts, from its output folder or from the file itself. Loads no model.

    Raises:
        ModelError: in one line: not safetensors, or not as psp-ray writes it. OutputError: no such file or folder, or
            one without prompts; which, and what helps.
    """
    path = local_path(run)
    path = path if is_file(path) else written_by(path, PROMPTS)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises whatever a damaged header makes it stumble over
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        kind = "not a readable safetensors file" if isinstance(error, SafetensorError) else "can't be read"
        raise ModelError(f"{path}: {kind} ({reason}); restore it, or write it anew with psp-ray continue") from None
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{path}: not written by psp-ray, or by a newer version of it")
    try:
        header = _Header.model_validate(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(
            f"{path}: its header is damaged ({first['loc'][0]}: {first['msg'].lower()}); restore it"
        ) from None
    spec = BackboneSpec(model=header.model, checkpoint=header.checkpoint, image_size=header.image_size)
    text = _classifier(path, tensors, len(header.classes))
    return Learned(path, text, header.classes, spec, header.weights_hash, header.calibrated_by)


def _classifier(path: Path, tensors: StateDict, n_classes: int) -> TextState:
    """The classifier in a file's tensors. Raises ModelError where they don't fit together."""
    features = tensors.get("class_embeddings", np.zeros(0))
    scale, temperature = (tensors.get(name, np.asarray(1.0)) for name in ("logit_scale", "temperature"))
    bias = tensors.get("bias")
    numbers = [features, scale, temperature, *([] if bias is None else [bias])]
    fits = (
        features.ndim == 2
        and len(features) == n_classes
        and features.shape[1] > 0
        and scale.shape == temperature.shape == ()
        and (bias is None or bias.shape == (n_classes,))
        and all(array.dtype.kind == "f" and bool(np.isfinite(array).all()) for array in numbers)
        and float(scale) > 0
        and float(temperature) > 0
    )
    if not fits:
        raise ModelError(f"{path}: its tensors are no classifier of {n_classes} classes; restore the file")
    learned = TextState(features.astype(np.float32), float(scale), None if bias is None else bias.astype(np.float32))
    return learned.cooled(float(temperature))


def trusted_spec(learned: Learned, *, checkpoint: str | None, device: str) -> BackboneSpec:
    """The model to load for a prompts file, which may come from anybody.

    The header's paths are taken where they lie beside the file, or where the settings in the same folder name them
    too, as in the output folder of a run.

    Raises:
        ModelError: the header names weights elsewhere.
    """
    spec = replace(learned.spec, device=device, checkpoint=checkpoint or learned.spec.checkpoint)
    folder = learned.path.absolute().parent
    named = [] if checkpoint is not None or spec.checkpoint is None else [spec.checkpoint]
    if spec.model.startswith(LOCAL):
        named.append(spec.model.removeprefix(LOCAL))
    strange = [name for name in named if not Path(os.path.abspath(local_text(name))).is_relative_to(folder)]
    if strange and not _says_so(folder, learned.spec):
        raise ModelError(
            f"{learned.path}: names weights outside of its folder, {short(strange[0])}; if you trust it, give "
            "--checkpoint PATH, or the output folder of the run that it is from"
        )
    return spec


def _says_so(folder: Path, spec: BackboneSpec) -> bool:
    """Whether the settings beside a prompts file name the same model."""
    import yaml

    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        own = BackboneSpec(str(settings["model"]), settings["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return False
    keys = ("model", "checkpoint")
    return [model_metadata(own)[key] for key in keys] == [model_metadata(spec)[key] for key in keys]
