"""What a program gives to a session's methods, looked at before anything is done with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psp_ray.core.errors import ConfigError, DatasetError, OracleError
from psp_ray.core.records import Float32Array
from psp_ray.data.embedded.classes import unit_rows

SOURCES = (str, os.PathLike, bytes, Image.Image)


def whole(name: str, value: Any, least: int) -> int:
    """A number of things: whole, `least` or more; Python's and NumPy's alike. Raises ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigError(f"{name} {value!r}: give a whole number, at least {least}")
    return int(value)


def answers_of(given: Any) -> Mapping[Any, Any]:
    """Answers by id. Raises OracleError for what is no mapping."""
    if not isinstance(given, Mapping):
        raise OracleError(f"answers: {type(given).__name__} is no mapping; give {{id: class, ...}}")
    return given


def label_number(name: Any, given: Any) -> int:
    """A class index or code; whole floats (1.0), as tables have them where a cell is empty, are whole numbers.

    Raises OracleError for anything else: what is cut to an integer would be a label that nobody gave.
    """
    if isinstance(given, float | np.floating) and float(given).is_integer():
        return int(given)
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise OracleError(f"{name!r}: {given!r} is no answer; give a class, its number, 'skip' or 'ignore'")
    return int(given)


def text_of(name: str, given: Any) -> str:
    """A text. Raises OracleError for anything else."""
    if not isinstance(given, str):
        raise OracleError(f"{name} {given!r}: give a text")
    return given


def images_of(given: Any) -> list[Any]:
    """Images as a list, each a path, encoded bytes or a PIL image. Raises DatasetError, naming what is none."""
    if isinstance(given, SOURCES) or not isinstance(given, Iterable):
        raise DatasetError(f"images: {type(given).__name__} is no list; give a list of images, [image]")
    found = list(given)
    for row, image in enumerate(found):
        if not isinstance(image, SOURCES):
            raise DatasetError(f"images[{row}]: {type(image).__name__} is none; give a path, bytes or a PIL image")
    return found


def embeddings_of(given: NDArray[Any], width: int) -> Float32Array:
    """Embeddings (n, width), of length one. Raises DatasetError: other shapes; rows of NaN, infinity or zeros only."""
    if given.ndim != 2 or given.shape[1] != width or given.dtype.kind not in "fiu":
        raise DatasetError(
            f"embeddings of shape {given.shape} ({given.dtype}): those of this run have {width} numbers in a row"
        )
    found: Float32Array = unit_rows(given, range(len(given)), "embeddings").astype(np.float32)
    return found


def vector_of(name: str, given: Any) -> list[float] | None:
    """The embedding (d,) of a class as finite numbers; None stays None. Raises ConfigError for anything else."""
    if given is None:
        return None
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        found = np.zeros((0, 0))
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ConfigError(f"embedding of class {name!r}: give one row of numbers")
    return [float(number) for number in found]
