"""Everything that touches open_clip: backbones, tokens and the text tower.

Importing this package imports neither torch nor open_clip; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.clip.spec import BackboneSpec
from psp_ray.core.lazily import lazily

if TYPE_CHECKING:
    from psp_ray.clip.backbone import Backbone, backbone_hash, load_backbone
    from psp_ray.clip.text import TextTower
    from psp_ray.clip.zero_shot import zero_shot_text

__all__ = [
    "Backbone",
    "BackboneSpec",
    "Preprocessing",
    "TextTower",
    "backbone_hash",
    "load_backbone",
    "zero_shot_text",
]


__getattr__ = lazily(
    __name__,
    {
        "Backbone": "backbone",
        "backbone_hash": "backbone",
        "load_backbone": "backbone",
        "TextTower": "text",
        "zero_shot_text": "zero_shot",
    },
)
