"""psp-ray: active prompt learning with CLIP, on one machine or a Ray cluster.

Importing this package is cheap: torch, open_clip and ray are imported only by what needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.core.lazily import lazily
from psp_ray.core.version import __version__

if TYPE_CHECKING:
    from psp_ray.export.classifier import Classifier
    from psp_ray.run.session import Session
__all__ = ["Classifier", "Session", "__version__"]

__getattr__ = lazily(__name__, {"Classifier": "export.classifier", "Session": "run.session"})
