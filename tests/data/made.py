"""Small data sets made on the spot, and a tower that needs no torch."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.features.encoder import ChunkEncoder

SHARED = Path(__file__).resolve().parents[3] / "shared" / "datasets"
PREP = Preprocessing(size=(16, 16))
DIM = 6


def picture(seed: int, size: tuple[int, int] = (20, 14), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def save(path: Path, seed: int, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, **options).save(path)


def class_folders(root: Path, classes=("cat", "dog"), per_class: int = 10, suffix: str = ".png") -> Path:
    for c, name in enumerate(classes):
        for i in range(per_class):
            save(root / name / f"{i:03d}{suffix}", 1000 * c + i)
    return root


def coop_tree(root: Path, images: str, split_file: str, classes=("cat", "dog"), per_part=(4, 2, 3)) -> Path:
    """A data set in CoOp's layout: `root/images/CLASS/*.png` and `root/split_file`."""
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for c, name in enumerate(classes):
        number = 0
        for part, count in zip(split, per_part, strict=True):
            for _ in range(count):
                relative = f"{name}/{number:03d}.png"
                save(root / images / relative, 1000 * c + number)
                split[part].append([relative, c, name])
                number += 1
    (root / split_file).write_text(json.dumps(split))
    return root


class ToyTower:
    """A fixed linear map of the pixels. Counts its batches; may be told to fail after some."""

    def __init__(self, dim: int = DIM, fail_after: int | None = None):
        self.dim, self.fail_after, self.batches, self.shapes = dim, fail_after, 0, set()

    def encode(self, images):
        images = np.asarray(images)
        if self.fail_after is not None and self.batches >= self.fail_after:
            raise KeyboardInterrupt
        self.batches += 1
        self.shapes.add(images.shape)
        assert images.dtype == np.uint8
        assert images.shape[1] == 3
        flat = images.reshape(len(images), -1).astype(np.float32) / 255 - 0.5
        weights = np.random.default_rng(5).standard_normal((flat.shape[1], self.dim)).astype(np.float32)
        # A row at a time: the toy must not itself depend on the batch, or bit equality would test numpy's BLAS.
        return np.stack([row @ weights for row in flat])


def toy_encoder(tower: ToyTower | None = None, **options) -> ChunkEncoder:
    tower = tower or ToyTower()
    return ChunkEncoder(lambda: tower, PREP, **{"batch_size": 8, "decode_threads": 2, **options})
