"""The frozen image tower: pictures in, normalized features out."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.core.errors import ModelError

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class ImageTower:
    """open_clip's image tower with its preprocessing.

    Args:
        visual: the model's `visual` module, with weights.
        preprocessing: mean, standard deviation and size that belong to the weights.
        device: where to compute.
        precision: fp32, or fp16 / bf16 on a GPU (autocast; normalization layers stay in fp32).
    """

    def __init__(self, visual: nn.Module, preprocessing: Preprocessing, device: str, precision: str = "fp32"):
        self.preprocessing = preprocessing
        self.device = torch.device(device)
        self.precision = precision
        self._dtype = _DTYPES[precision]
        self.visual = visual.to(self.device).eval().requires_grad_(False)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(preprocessing.mean, device=self.device).view(shape)
        self._std = torch.tensor(preprocessing.std, device=self.device).view(shape)

    @torch.inference_mode()
    def encode(self, images: torch.Tensor | np.ndarray, *, normalized: bool = False) -> torch.Tensor:
        """Features of a batch of RGB images.

        Args:
            images: (n, 3, height, width); uint8 in 0..255 or floating point in 0..1.
            normalized: mean and standard deviation have been applied already (floating point only).

        Returns:
            (n, dim) float32, L2-normalized, on the CPU.

        Raises:
            ModelError: images of another size than the tower's.
        """
        batch = torch.as_tensor(images)
        height, width = self.preprocessing.size
        if batch.ndim != 4 or tuple(batch.shape[1:]) != (3, height, width):
            raise ModelError(
                f"the image tower takes images of shape (n, 3, {height}, {width}), not {tuple(batch.shape)}; "
                f"resize them or set --image-size"
            )
        is_bytes = batch.dtype == torch.uint8
        batch = batch.to(self.device).float()
        if not normalized or is_bytes:
            if is_bytes:
                batch = batch / 255.0
            batch = (batch - self._mean) / self._std
        batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self.precision != "fp32"):
            features = self.visual(batch)
        if isinstance(features, tuple):
            features = features[0]
        return F.normalize(features.float(), dim=-1).cpu()
