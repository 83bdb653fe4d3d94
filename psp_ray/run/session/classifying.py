"""From what a program holds in its hands to the features that a run classifies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_ray.core.errors import DatasetError, UserError
from psp_ray.data.images import ImageError, center_view, decode, read_file, upright_rgb
from psp_ray.features.tower import backbone_spec, load_image_tower
from psp_ray.run.command import Rounds
from psp_ray.run.session.given import embeddings_of, images_of

Images = Sequence["str | os.PathLike[str] | bytes | Image.Image"] | NDArray[Any] | None
"""Files, encoded bytes or PIL images; or embeddings (n, d)."""
BATCH = 64


class Encoder:
    """The run's image tower, loaded when the first image comes."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._tower: Any = None

    def __call__(self, images: Images) -> NDArray[Any] | None:
        """L2-normalized features (n, d) float32; None stays None.

        Raises:
            DatasetError: what is no image or can't be read; embeddings of another width, or of NaN or zeros.
            UserError: images, where the run has embeddings and no model.
        """
        if images is None:
            return None
        if isinstance(images, np.ndarray) and images.dtype.kind not in "OUS":
            return embeddings_of(images, self._rounds.data.pool.dim)
        if self._rounds.data.dataset.embeddings is not None and self._rounds.config.data.class_embeddings:
            raise UserError("this run has embeddings and no model: give embeddings (n, d) of the same kind")
        sources = images_of(images)
        if self._tower is None:
            self._tower = load_image_tower(backbone_spec(self._rounds.config.model))[0]
        parts = [self._encode(sources[start : start + BATCH]) for start in range(0, len(sources), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, self._rounds.data.pool.dim), np.float32)

    def _encode(self, sources: Sequence[Any]) -> NDArray[Any]:
        pixels = [center_view(_decoded(source), self._tower.preprocessing).transpose(2, 0, 1) for source in sources]
        found: NDArray[Any] = self._tower.encode(np.stack(pixels)).numpy()
        return found


def _decoded(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return upright_rgb(source)
    try:
        return decode(source if isinstance(source, bytes) else read_file(source))
    except ImageError as error:
        name = f"{len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
        raise DatasetError(f"{name}: {error}") from None
