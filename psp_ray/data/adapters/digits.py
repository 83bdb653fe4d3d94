"""The 1,797 handwritten digits that scikit-learn ships: 8 x 8 pixels, 10 classes, no download."""

from __future__ import annotations

import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psp_ray.core.errors import DatasetError
from psp_ray.data.dataset import Dataset, make_dataset
from psp_ray.data.parts import stratified_parts
from psp_ray.data.registry import Request, register_dataset

CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TEMPLATES = ["a photo of the number {}."]


@register_dataset("digits")
def load_digits(request: Request) -> Dataset:
    """Parts 50 % pool, 10 % val, 40 % test of each class, whatever the seed; ids `digits/0000` to `digits/1796`."""
    if request.split is not None:
        raise DatasetError("dataset 'digits' has fixed parts; drop --split")
    table = np.loadtxt(_file(), delimiter=",")  # 64 pixels of 0 to 16 and the digit, a row an image
    gray = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    ids = [f"digits/{row:04d}" for row in range(len(gray))]
    labels = [int(label) for label in table[:, -1]]
    return make_dataset(
        "digits",
        CLASSES,
        ids,
        stratified_parts(ids, labels, val=0.1, test=0.4),
        labels,
        images=[gray_png(image) for image in gray],
        templates=TEMPLATES,
        mirror=False,
    )


def _file() -> Path:
    """scikit-learn's file of them: importing scikit-learn takes seconds, also where settings are only checked."""
    found = find_spec("sklearn")
    for place in (found.submodule_search_locations or []) if found else []:
        path = Path(place) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise DatasetError("dataset 'digits': scikit-learn is installed without its digits.csv.gz; reinstall scikit-learn")


def gray_png(pixels: NDArray[np.uint8]) -> bytes:
    """A grayscale PNG of `pixels` (height, width), stored without compression (at most 64 KiB).

    Written here, not by Pillow: the bytes are part of the cache key and of what a label was paid for, so they must
    not change with a library's compressor.
    """
    height, width = pixels.shape
    raw = b"".join(b"\x00" + row.tobytes() for row in pixels)
    stored = b"\x01" + struct.pack("<HH", len(raw), len(raw) ^ 0xFFFF) + raw
    data = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(raw))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
