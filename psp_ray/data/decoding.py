"""From the bytes of an image file to the pixels that a model sees.

Needs Pillow and numpy, nothing of psp_ray: `psp-ray export` writes this very file beside its scripts, so that an image
is read by them as by `psp-ray predict`.

    image = decode(bytes)             upright RGB, transparency on white, deep gray scaled to 8 bits
    pixels = center_view(image, how)  (height, width, 3) uint8, resized and cropped as the model wants it
"""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

UInt8Array = NDArray[np.uint8]

BUDGET = 1 << 30
"""Bytes that decoding one image may take. What would take more is refused by its header, before a pixel is read."""
LARGE = 64_000_000
"""Pixels from which a JPEG is decoded at half its size (or a quarter, an eighth), which costs no more memory."""
MAX_UNROLLED = 64
"""A resized image may be this many times the crop before only the crop's part is computed (very long strips)."""
_STRIP = 1 << 22
"""Pixels that are converted at a time where a conversion needs much memory."""

# EPS and WMF would start other programs; the rest need plugins or hold no pixels of their own.
_SKIPPED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
_COMMON = ("BMP", "GIF", "JPEG", "PNG", "PPM")
"""What `Image.preinit` knows."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes that Pillow takes for a pixel of a mode; 4 for all others."""
_CLEAR = ("RGBA", "LA", "PA", "RGBa", "La")
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}

# Pillow warns of large images where it still takes them; the budget decides here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ImageError(ValueError):
    """An image can't be decoded; the message is a short reason."""


class Shown(Protocol):
    """How a model wants its images. `size` is (height, width); `resize_mode` is `shortest` (resize the short edge,
    crop the center), `longest` (resize the long edge, pad with `fill_color`) or `squash` (stretch)."""

    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def resize_mode(self) -> str: ...
    @property
    def fill_color(self) -> int: ...


@cache
def formats() -> tuple[str, ...]:
    """The formats that are read, by Pillow's names."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _SKIPPED_FORMATS))


def opened(source: BinaryIO | str) -> Image.Image:
    """`Image.open` for the formats that are read: common ones first, the others take a tenth of a second to import."""
    Image.preinit()
    try:
        return Image.open(source, formats=_COMMON)
    except UnidentifiedImageError:
        return Image.open(source, formats=formats())


def decode(data: bytes) -> Image.Image:
    """An upright RGB image, 8 bits a channel.

    EXIF rotation is applied; transparency is laid on white; gray of more than 8 bits is scaled to 8: by 16 bits, by 12
    where no pixel needs more (as cameras and scanners keep them), and where there are negative values from the lowest
    to the highest. JPEGs above `LARGE` are decoded at half their size.

    Raises:
        ImageError: empty, truncated, not an image, or larger than `BUDGET`.
    """
    if not data:
        raise ImageError("empty file")
    try:
        with opened(io.BytesIO(data)) as image:
            _shrink(image)
            _require_budget(image)
            image.load()
            return upright_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a malformed file makes them stumble over
        raise ImageError(reason(error)) from None


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened image as `decode` gives it: upright RGB, 8 bits a channel."""
    return _to_rgb(_upright(image))


def reason(error: Exception) -> str:
    """Why an image could not be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"image too large, more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; shrink it or cut it up"
    if isinstance(error, FileNotFoundError):
        return "file not found"
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _shrink(image: Image.Image) -> None:
    width, height = image.size
    halves = 0
    while (width >> halves) * (height >> halves) > LARGE and halves < 3:
        halves += 1
    if halves and image.format in ("JPEG", "MPO"):
        image.draft(None, (width >> halves, height >> halves))


def _require_budget(image: Image.Image) -> None:
    """Raise an ImageError where decoding would take more than `BUDGET`: the file's pixels, RGB and a copy of them."""
    width, height = image.size
    a_pixel = _BYTES.get(image.mode, 4) + 4 + 3 + (4 if image.mode in _CLEAR or "transparency" in image.info else 0)
    need = width * height * a_pixel
    if need > BUDGET:
        raise ImageError(
            f"image too large: {width} x {height} pixels would take {need / 2**30:.1f} GiB (limit {BUDGET / 2**30:g}); "
            "shrink it or save it as JPEG"
        )


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF must not cost the picture
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _gray_to_rgb(image)
    if image.mode in _CLEAR or "transparency" in image.info:
        page = Image.new("RGB", image.size)
        for top, bottom in _strips(image):
            page.paste(_on_white(image.crop((0, top, image.width, bottom))), (0, top))
        return page
    return image if image.mode == "RGB" else image.convert("RGB")


def _strips(image: Image.Image) -> list[tuple[int, int]]:
    """(top, bottom) of parts of an image that are converted one by one."""
    step = max(1, _STRIP // image.width)
    return [(top, min(top + step, image.height)) for top in range(0, image.height, step)]


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied gray has no direct way to RGBA
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    opaque = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(opaque, rgba).convert("RGB")


def _gray_to_rgb(image: Image.Image) -> Image.Image:
    values: NDArray[Any] = np.asarray(image)
    parts = _strips(image)
    ends = [_ends(values[top:bottom]) for top, bottom in parts]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    base, scale = _gray_scale(image.mode, low, high)
    gray = np.empty(values.shape, np.uint8)
    for top, bottom in parts:
        part = _finite(values[top:bottom]) - base
        gray[top:bottom] = np.clip(np.rint(part * scale), 0, 255)
    return Image.fromarray(gray).convert("RGB")


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    wide = values.astype(np.float64)
    return np.nan_to_num(wide, copy=False, posinf=0.0, neginf=0.0) if values.dtype.kind == "f" else wide


def _ends(values: NDArray[Any]) -> tuple[float, float]:
    finite = _finite(values) if values.dtype.kind == "f" else values
    return float(finite.min(initial=0.0)), float(finite.max(initial=0.0))


def _gray_scale(mode: str, low: float, high: float) -> tuple[float, float]:
    """(what is black, gray levels for each step of the values) for gray of more than 8 bits."""
    if low < 0:
        return low, 255.0 / (high - low)
    if mode == "F":
        return 0.0, 255.0 if high <= 1.0 else 1.0 if high <= 255.0 else 255.0 / high
    full = next((float(top) for top in (255, 4095, 65535) if high <= top), high)
    return 0.0, 255.0 / full


# ---- what the model sees ---------------------------------------------------------------------------------------------


def resampling(how: Shown) -> Image.Resampling:
    """Pillow's filter of an interpolation; open_clip takes `random` as bicubic."""
    return _RESAMPLING.get(how.interpolation, Image.Resampling.BICUBIC)


def center_view(image: Image.Image, how: Shown) -> UInt8Array:
    """The image as the backbone's inference preprocessing shows it: (height, width, 3) uint8.

    Pixel for pixel what `open_clip.image_transform(..., is_train=False)` feeds to its normalization, for RGB input.
    """
    height, width = how.size
    source_w, source_h = image.size
    if how.resize_mode == "squash":
        return np.asarray(image.resize((width, height), resampling(how)))
    if how.resize_mode == "longest":
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
        return _center_of_strip(image, (target_h, target_w), how)
    if (target_w, target_h) != (source_w, source_h):
        image = image.resize((target_w, target_h), resampling(how))
    return _crop_or_pad(np.asarray(image), height, width, how.fill_color if how.resize_mode == "longest" else 0)


def _center_of_strip(image: Image.Image, target: tuple[int, int], how: Shown) -> UInt8Array:
    """The central crop of a resize too large to hold, computed directly from the part of the image that it shows."""
    height, width = how.size
    scale_y, scale_x = image.size[1] / target[0], image.size[0] / target[1]
    top, left = max((target[0] - height) // 2, 0) * scale_y, max((target[1] - width) // 2, 0) * scale_x
    box = (left, top, min(left + width * scale_x, image.size[0]), min(top + height * scale_y, image.size[1]))
    return np.asarray(image.resize((width, height), resampling(how), box=box))


def _crop_or_pad(pixels: UInt8Array, height: int, width: int, fill: int) -> UInt8Array:
    over_h, over_w = max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0)
    if over_h or over_w:
        around = ((over_h // 2, (over_h + 1) // 2), (over_w // 2, (over_w + 1) // 2), (0, 0))
        pixels = np.pad(pixels, around, constant_values=fill)
    top = round((pixels.shape[0] - height) / 2.0)
    left = round((pixels.shape[1] - width) / 2.0)
    return pixels[top : top + height, left : left + width]
