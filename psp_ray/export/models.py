"""The classifier that a run learned, with its model, in the forms that other programs take: ONNX, open_clip."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.clip.spec import offline
from psp_ray.core.errors import ConfigError, ModelError
from psp_ray.core.files import write_json, write_tensors, write_with
from psp_ray.core.paths import local_path
from psp_ray.core.writing import writing
from psp_ray.export.classifier import Classifier
from psp_ray.export.files import fresh_folder
from psp_ray.export.scripts import ONNX_SCRIPT, OPEN_CLIP_SCRIPT, write_script
from psp_ray.run.folder import PROMPTS
from psp_ray.run.prompts import read_prompts


def export_onnx(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    checkpoint: str | None = None,
    allow_hub: bool = False,
) -> Path:
    """Write `image_tower.onnx`, `classifier.json`, `class_embeddings.npy` and `predict.py` into an empty folder.

    The graph takes `pixels` (n, 3, height, width) uint8, resized and cropped as `classifier.json` says, and gives
    `features` (n, d), L2-normalized, and `probabilities` (n, C).

    Raises:
        ConfigError: the packages of `psp-ray[export]` are missing. ModelError: no prompts, or no tower to them.
        OutputError: a used folder.
    """
    _require_tower(run, "--onnx")
    try:
        import onnx
        import onnxscript  # noqa: F401  (what torch exports with)
    except ImportError as error:
        raise ConfigError(f"--onnx: {error.name} is not installed; run: pip install 'psp-ray[export]'") from None
    import torch

    classifier = Classifier.load(run, device="cpu", checkpoint=checkpoint, allow_hub=allow_hub)
    target = fresh_folder(folder)
    tower = classifier.tower
    graph = _graph(tower, classifier)
    height, width = tower.preprocessing.size
    example = torch.zeros((2, 3, height, width), dtype=torch.uint8)
    file = target / "image_tower.onnx"
    program = torch.onnx.export(
        graph,
        (example,),
        input_names=["pixels"],
        output_names=["features", "probabilities"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("n", min=1, max=4096)}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    with writing(file):
        program.save(str(file), external_data=False)
    onnx.checker.check_model(str(file))
    write_with(target / "class_embeddings.npy", lambda handle: np.save(handle, classifier.text.features))
    write_json(
        target / "classifier.json",
        {
            "classes": classifier.classes,
            "scale": classifier.text.logit_scale,
            "bias": classifier.text.offset.tolist(),
            "preprocessing": asdict(tower.preprocessing),
            "formula": "probabilities = softmax(scale * features @ class_embeddings.T + bias)",
            "caution": classifier.caution or None,
        },
    )
    write_script(target, ONNX_SCRIPT)
    return file


def _require_tower(run: str | os.PathLike[str], option: str) -> None:
    """Raise a ModelError where `option` is to export the tower of a run that had none."""
    learned = read_prompts(run)
    if not learned.has_tower:
        raise ModelError(
            f"{option}: {learned.path} was learned from embeddings and class embeddings alone, so there is no image "
            f"tower to export; `psp-ray predict --run {run} TABLE` classifies new embeddings"
        )


def _graph(tower: Any, classifier: Classifier) -> Any:
    """A torch module from uint8 pixels to features and probabilities, with nothing but the frozen tower inside."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Graph(nn.Module):
        embeddings: torch.Tensor
        bias: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.visual = tower.visual
            self.register_buffer("mean", 255.0 * torch.tensor(tower.preprocessing.mean).view(1, 3, 1, 1))
            self.register_buffer("std", 255.0 * torch.tensor(tower.preprocessing.std).view(1, 3, 1, 1))
            self.register_buffer("embeddings", torch.as_tensor(classifier.text.features))
            self.register_buffer("bias", torch.as_tensor(classifier.text.offset))

        def forward(self, pixels: Any) -> tuple[Any, Any]:
            found = self.visual((pixels.float() - self.mean) / self.std)
            features = functional.normalize(found[0] if isinstance(found, tuple) else found, dim=-1)
            scores = classifier.text.logit_scale * (features @ self.embeddings.T) + self.bias
            return features, scores.softmax(dim=-1)

    return Graph().eval()


def export_open_clip(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    checkpoint: str | None = None,
    allow_hub: bool = False,
) -> Path:
    """Write the model in open_clip's form, the class embeddings and prompts beside it, and a script of ten lines.

    Raises:
        ModelError: no prompts there, no tower to them, or its weights are not found. OutputError: a used folder.
    """
    from psp_ray.clip.backbone import build_model
    from psp_ray.core.files import read_tensors

    _require_tower(run, "--open-clip")
    classifier = Classifier.load(
        run, device="cpu", checkpoint=checkpoint, allow_hub=allow_hub
    )  # checks the weights' hash too
    assert classifier.spec is not None
    target = fresh_folder(folder)
    with offline(not allow_hub):
        model, found = build_model(classifier.spec)
    config = json.loads(json.dumps(found.config))
    height, width = found.preprocessing.size
    config["vision_cfg"]["image_size"] = height if height == width else [height, width]
    preprocessing = asdict(found.preprocessing)
    write_json(target / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocessing})
    state = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    write_tensors(target / "open_clip_model.safetensors", state)
    path = local_path(run)
    learned = read_tensors(path / PROMPTS if path.is_dir() else path)
    write_tensors(
        target / "prompts.safetensors",
        {
            "class_embeddings": classifier.text.features,
            "contexts": learned["contexts"],
            "scale": np.asarray(classifier.text.logit_scale, np.float32),
            "bias": classifier.text.offset,
        },
        {"caution": classifier.caution} if classifier.caution else None,
    )
    write_json(target / "classes.json", classifier.classes)
    write_script(target, OPEN_CLIP_SCRIPT)
    return target
