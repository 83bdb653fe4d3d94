"""Images: what is one, where it lies, its hash, and augmented views; `decoding` makes pixels of it. No torch here."""

from __future__ import annotations

import hashlib
import io
import math
import os
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.core import noise
from psp_ray.core.records import Float64Array, UInt64Array
from psp_ray.data.decoding import (
    ImageError,
    UInt8Array,
    center_view,
    decode,
    formats,
    opened,
    reason,
    resampling,
    upright_rgb,
)
from psp_ray.data.remote import RemoteError, fetch, is_url

__all__ = [
    "DRAWS_PER_VIEW",
    "HASH_BYTES",
    "ImageError",
    "UInt8Array",
    "ViewSettings",
    "augmented_views",
    "center_view",
    "check_header",
    "content_hash",
    "crop_box",
    "decode",
    "hash_keys",
    "image_extensions",
    "is_url",
    "may_be_image",
    "read_file",
    "upright_rgb",
    "view_noise",
]

HASH_BYTES = 16
DRAWS_PER_VIEW = 5
"""Noise per view: area, aspect ratio, left, top, mirror."""
MAX_FILE = 1 << 30
"""Bytes of the largest file that is read as an image."""


@cache
def image_extensions() -> frozenset[str]:
    """Lower-case file extensions, dot included, of the formats that `decode` reads."""
    read = set(formats())
    return frozenset(ext.lower() for ext, kind in Image.registered_extensions().items() if kind in read)


def may_be_image(head: bytes) -> bool:
    """Whether the first bytes of a file are like those of an image format that `decode` reads. Opens nothing."""
    for kind in formats():
        accepts = Image.OPEN[kind][1]
        try:
            if accepts is not None and accepts(head) is True:
                return True
        except Exception:  # a plugin that stumbles over a few bytes doesn't take them
            continue
    return False


def content_hash(data: bytes) -> bytes:
    """16 bytes of BLAKE2b of an image file's bytes: the image's identity in the cache and in the ledger."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def check_header(source: str | bytes) -> None:
    """Raise ImageError where a file (by path) or bytes don't even begin like an image. Pixels are not decoded."""
    try:
        if isinstance(source, str) and is_url(source):
            source = read_file(source)
        with opened(io.BytesIO(source) if isinstance(source, bytes) else source):
            pass
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a malformed header makes them stumble over
        raise ImageError(reason(error)) from None


@dataclass(frozen=True)
class ViewSettings:
    """Augmented views: random resized crop and mirroring. All of it is part of the cache key of the views."""

    count: int = 5
    """Views per image (L)."""
    scale_min: float = 0.5
    """Smallest share of the image's area that a view shows."""
    scale_max: float = 1.0
    """Largest share of the image's area that a view shows."""
    ratio_max: float = 4.0 / 3.0
    """Widest aspect ratio of a crop; the tallest is its inverse."""
    flip: bool = True
    """Mirror half of the views."""
    seed: int = 0
    """Seed of the views' noise (`view_seed`)."""

    def __post_init__(self) -> None:
        if self.count < 1 or not 0.0 < self.scale_min <= self.scale_max <= 1.0 or self.ratio_max < 1.0:
            raise ValueError(f"views want count >= 1, 0 < scale_min <= scale_max <= 1, ratio_max >= 1: {self}")


def view_noise(hashes: NDArray[np.uint8], views: ViewSettings, round: int = 0) -> Float64Array:
    """Uniform numbers (n, L, 5) that decide the views of images with content hashes (n, 16).

    Keyed on view seed, content hash, view index and round: cached views are round 0, fresh ones have the round's.
    """
    keys = hash_keys(hashes)
    out = np.empty((len(keys), views.count, DRAWS_PER_VIEW))
    for view in range(views.count):
        for number in range(DRAWS_PER_VIEW):
            draw = view * DRAWS_PER_VIEW + number
            out[:, view, number] = noise.uniform(views.seed, "view", keys, round=round, draw=draw)
    return out


def hash_keys(hashes: NDArray[np.uint8]) -> UInt64Array:
    """64-bit noise keys (n,) of content hashes (n, 16): their first 8 bytes."""
    first = np.ascontiguousarray(np.asarray(hashes, np.uint8).reshape(-1, HASH_BYTES)[:, :8])
    return first.view("<u8")[:, 0].astype(np.uint64)


def crop_box(width: int, height: int, draws: Float64Array, views: ViewSettings) -> tuple[float, float, float, float]:
    """A random crop (left, top, right, bottom) in fractional pixels, so that 8-pixel images get real variety too.

    The area is uniform in [scale_min, scale_max] of the image, the aspect ratio log-uniform among those allowed that
    fit into the image at this area; where none fits (long strips) the crop is cut to the image.
    """
    area = (views.scale_min + (views.scale_max - views.scale_min) * draws[0]) * width * height
    bound = math.log(views.ratio_max)
    low = min(max(math.log(area / (height * height)), -bound), bound)
    high = max(min(math.log(width * width / area), bound), -bound)
    ratio = math.exp(low + (max(high, low) - low) * draws[1])
    crop_w, crop_h = min(math.sqrt(area * ratio), float(width)), min(math.sqrt(area / ratio), float(height))
    left, top = (width - crop_w) * draws[2], (height - crop_h) * draws[3]
    return left, top, min(left + crop_w, float(width)), min(top + crop_h, float(height))


def augmented_views(image: Image.Image, prep: Preprocessing, views: ViewSettings, draws: Float64Array) -> UInt8Array:
    """The L views (L, height, width, 3) uint8 of a decoded image; `draws` (L, 5) comes from `view_noise`."""
    height, width = prep.size
    # A large photograph is shrunk once by a whole factor, keeping twice the resolution that the smallest crop needs.
    shortest = min(image.size) * math.sqrt(views.scale_min / views.ratio_max)
    factor = int(shortest // (2 * max(height, width)))
    if factor >= 2:
        image = image.reduce(factor)
    out = np.empty((views.count, height, width, 3), np.uint8)
    for view, numbers in enumerate(draws):
        box = crop_box(*image.size, numbers, views)
        pixels = np.asarray(image.resize((width, height), resampling(prep), box=box))
        out[view] = pixels[:, ::-1] if views.flip and numbers[4] < 0.5 else pixels
    return out


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, or of what an address names (`psp_ray.data.remote`).

    Raises:
        ImageError: it can't be read, is no regular file, or is larger than `MAX_FILE`.
    """
    if isinstance(path, str) and is_url(path):
        try:
            return fetch(path)
        except RemoteError as error:
            raise ImageError(str(error)) from None
    try:
        with open(path, "rb") as handle:
            info = os.fstat(handle.fileno())
            if info.st_size > MAX_FILE:
                raise ImageError(
                    f"a file of {info.st_size / 2**30:.1f} GiB; more than {MAX_FILE / 2**30:g} is not read"
                )
            return handle.read()
    except FileNotFoundError:
        raise ImageError("file not found") from None
    except OSError as error:
        raise ImageError(str(error.strerror or error)) from None
    except ValueError as error:  # a text that can't be a path; ImageError is one, too
        raise (error if isinstance(error, ImageError) else ImageError("it can't be a path")) from None
