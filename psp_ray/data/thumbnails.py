"""Pictures for people to look at: upright JPEGs no larger than a page needs."""

from __future__ import annotations

import io

from PIL import Image

from psp_ray.data.images import ImageError, decode, read_file

SIZES = {"thumb": 256, "full": 1600}
"""Pixels of the longer side. A smaller picture is enlarged by the page, not here."""


def jpeg(path: str | None, image: bytes | None, size: str) -> bytes | None:
    """The picture in a file or in bytes, in `SIZES[size]`; None where there is neither, or it can't be read."""
    if path is None and image is None:
        return None
    try:
        picture = decode(image if path is None and image is not None else read_file(str(path)))
    except ImageError:
        return None
    side = SIZES[size]
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=88)
    return sink.getvalue()
