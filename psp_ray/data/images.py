"""From bytes to pixels: robust decoding, the backbone's preprocessing, and augmented views. No torch here."""

from __future__ import annotations

import hashlib
import io
import math
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.core import noise
from psp_ray.core.records import Float64Array, UInt64Array

UInt8Array = NDArray[np.uint8]
HASH_BYTES = 16
DRAWS_PER_VIEW = 5
"""Noise per view: area, aspect ratio, left, top, mirror."""
MAX_UNROLLED = 64
"""A resized image may be this many times the crop before only the crop's part is computed (very long strips)."""

# EPS and WMF would start other programs; the rest need plugins or hold no pixels of their own.
_SKIPPED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}


class ImageError(ValueError):
    """An image can't be decoded; the message is a short reason."""


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _SKIPPED_FORMATS))


@cache
def image_extensions() -> frozenset[str]:
    """Lower-case file extensions, dot included, of the formats that `decode` reads."""
    formats = set(_formats())
    return frozenset(ext.lower() for ext, kind in Image.registered_extensions().items() if kind in formats)


def may_be_image(head: bytes) -> bool:
    """Whether the first bytes of a file are like those of an image format that `decode` reads. Opens nothing."""
    for kind in _formats():
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
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()):
            pass
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a malformed header makes them stumble over
        raise ImageError(_reason(error)) from None


def decode(data: bytes) -> Image.Image:
    """An upright RGB image, 8 bits a channel.

    EXIF rotation is applied; transparency is laid on white; 16-bit, 32-bit and float gray is scaled to 8 bits.

    Raises:
        ImageError: empty, truncated, too large or not an image.
    """
    if not data:
        raise ImageError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            image.load()
            return _to_rgb(_upright(image))
    except ImageError:
        raise
    except Exception as error:  # as above: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
        raise ImageError(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return "image too large (decompression bomb limit)"
    if isinstance(error, FileNotFoundError):
        return "file not found"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF must not cost the picture
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _gray_to_rgb(np.asarray(image), image.mode)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode == "La":  # premultiplied gray has no direct way to RGBA
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        opaque = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(opaque, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _gray_to_rgb(values: NDArray[Any], mode: str) -> Image.Image:
    """Deep gray to 8 bits: by the range of the type where it is known (16 bit), else by the values that occur."""
    gray = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    top = float(gray.max(initial=0.0))
    if mode.startswith("I;16"):
        scale = 255.0 / 65535.0
    elif mode == "F":
        scale = 255.0 if top <= 1.0 else 1.0 if top <= 255.0 else 255.0 / top
    else:
        scale = 1.0 if top <= 255.0 else 255.0 / max(top, 65535.0)
    return Image.fromarray(np.clip(np.rint(gray * scale), 0, 255).astype(np.uint8)).convert("RGB")


_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


def _resampling(prep: Preprocessing) -> Image.Resampling:
    return _RESAMPLING.get(prep.interpolation, Image.Resampling.BICUBIC)  # open_clip takes `random` as bicubic


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


def center_view(image: Image.Image, prep: Preprocessing) -> UInt8Array:
    """The image as the backbone's inference preprocessing shows it: (height, width, 3) uint8.

    Pixel for pixel what `open_clip.image_transform(..., is_train=False)` feeds to its normalization, for RGB input.
    """
    height, width = prep.size
    source_w, source_h = image.size
    if prep.resize_mode == "squash":
        return np.asarray(image.resize((width, height), _resampling(prep)))
    if prep.resize_mode == "longest":
        ratio = max(source_h / height, source_w / width)
        target_h, target_w = round(source_h / ratio), round(source_w / ratio)
    elif height == width:
        short, long = sorted((source_w, source_h))
        other = int(height * long / short)
        target_h, target_w = (other, width) if source_w <= source_h else (height, other)
    else:
        ratio = min(source_h / height, source_w / width)
        target_h, target_w = round(source_h / ratio), round(source_w / ratio)
    target_h, target_w = max(target_h, 1), max(target_w, 1)
    if target_h * target_w > MAX_UNROLLED * height * width:
        return _center_of_strip(image, (target_h, target_w), prep)
    if (target_w, target_h) != (source_w, source_h):
        image = image.resize((target_w, target_h), _resampling(prep))
    return _crop_or_pad(np.asarray(image), height, width, prep.fill_color if prep.resize_mode == "longest" else 0)


def _center_of_strip(image: Image.Image, target: tuple[int, int], prep: Preprocessing) -> UInt8Array:
    """The central crop of a resize too large to hold, computed directly from the part of the image that it shows."""
    height, width = prep.size
    scale_y, scale_x = image.size[1] / target[0], image.size[0] / target[1]
    top, left = max((target[0] - height) // 2, 0) * scale_y, max((target[1] - width) // 2, 0) * scale_x
    box = (left, top, min(left + width * scale_x, image.size[0]), min(top + height * scale_y, image.size[1]))
    return np.asarray(image.resize((width, height), _resampling(prep), box=box))


def _crop_or_pad(pixels: UInt8Array, height: int, width: int, fill: int) -> UInt8Array:
    over_h, over_w = max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0)
    if over_h or over_w:
        around = ((over_h // 2, (over_h + 1) // 2), (over_w // 2, (over_w + 1) // 2), (0, 0))
        pixels = np.pad(pixels, around, constant_values=fill)
    top = round((pixels.shape[0] - height) / 2.0)
    left = round((pixels.shape[1] - width) / 2.0)
    return pixels[top : top + height, left : left + width]


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
        pixels = np.asarray(image.resize((width, height), _resampling(prep), box=box))
        out[view] = pixels[:, ::-1] if views.flip and numbers[4] < 0.5 else pixels
    return out


def is_url(path: str) -> bool:
    """Whether a path is one of fsspec's: `s3://…`, `https://…`, `memory://…`."""
    return "://" in path


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, or of what a URL names (fsspec); ImageError where they can't be read."""
    try:
        if isinstance(path, str) and is_url(path):
            import fsspec

            with fsspec.open(path, "rb") as remote:
                data: bytes = remote.read()
            return data
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        raise ImageError("file not found") from None
    except OSError as error:
        raise ImageError(str(error.strerror or error)) from None
    except (ImportError, ValueError) as error:  # fsspec: an unknown protocol, or its package is not installed
        raise ImageError(" ".join(str(error).split())) from None
