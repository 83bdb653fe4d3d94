"""psp-ray: active prompt learning with CLIP, on one machine or a Ray cluster.

Importing this package is cheap: torch, open_clip and ray are imported only by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from psp_ray.core.version import __version__

if TYPE_CHECKING:
    from psp_ray.export.classifier import Classifier
    from psp_ray.run.session import Session
__all__ = ["Classifier", "Session", "__version__"]

_PLACES = {"Classifier": "psp_ray.export.classifier", "Session": "psp_ray.run.session"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'psp_ray' has no attribute {name!r}")
