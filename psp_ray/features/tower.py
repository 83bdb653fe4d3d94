"""From the model's settings to its image tower, and to an encoder over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.clip.spec import BackboneSpec, resolve
from psp_ray.config.model import ModelSettings
from psp_ray.data.images import ViewSettings
from psp_ray.features.cache import EncoderSpec
from psp_ray.features.encoder import ChunkEncoder

if TYPE_CHECKING:  # torch takes seconds to import
    from psp_ray.clip.backbone import Backbone
    from psp_ray.clip.image import ImageTower

GPU_BATCH = 128
"""Images per pass of the image tower on a GPU."""


def backbone_spec(model: ModelSettings) -> BackboneSpec:
    return BackboneSpec(model.model, model.checkpoint, model.image_size, model.precision, model.device)


def view_settings(model: ModelSettings) -> ViewSettings:
    return ViewSettings(count=model.view_count, scale_min=model.view_scale, flip=model.view_flip, seed=model.view_seed)


def encoder_spec(model: ModelSettings) -> EncoderSpec:
    """What features depend on."""
    from psp_ray.clip.backbone import backbone_hash, precision_on

    spec = backbone_spec(model)
    found = resolve(spec)
    precision = precision_on(model.device, model.precision)
    return EncoderSpec(backbone_hash(spec), found.preprocessing, int(found.config["embed_dim"]), precision)


def load_image_tower(spec: BackboneSpec) -> tuple[ImageTower, Backbone]:
    """(image tower, backbone); on a CPU with batch norms folded into the convolutions."""
    from psp_ray.clip import load_backbone
    from psp_ray.features.fuse import fuse_conv_bn

    backbone = load_backbone(spec, towers="image")
    tower = backbone.image
    assert tower is not None
    if tower.device.type == "cpu" and tower.precision == "fp32":
        tower.visual = fuse_conv_bn(tower.visual, backbone.preprocessing.size)
    return tower, backbone


def make_encoder(model: ModelSettings, threads: int) -> ChunkEncoder:
    """An encoder over the image tower, which is loaded when the first image has been decoded by `threads` threads."""
    from psp_ray.clip.backbone import choose_device

    spec = backbone_spec(model)
    batch_size = None if choose_device(model.device) == "cpu" else GPU_BATCH
    return ChunkEncoder(
        lambda: load_image_tower(spec)[0],
        resolve(spec).preprocessing,
        batch_size=batch_size,
        decode_threads=threads,
    )
