"""Settings of the frozen model and of the views that it encodes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from psp_ray.config.base import Settings


class ModelSettings(Settings):
    """The CLIP model, where and how exactly it runs, and the augmented views of each image."""

    model: str = Field("psp-lite", description="open_clip model: NAME or NAME/TAG")
    checkpoint: str | None = Field(None, description="weights from a file: safetensors or a plain state dict")
    image_size: int | None = Field(
        None,
        ge=32,
        le=1024,
        description="image side in pixels; default: 96 for digits with psp-lite, else the model's own",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32", "fp16", "bf16"] = Field(
        "auto", description="precision of the image tower; auto: fp32 everywhere; fp16 and bf16 need a GPU"
    )
    views: str = Field(
        "cached:5",
        description="altered copies of each image that self-training looks at: a number, and cached, fresh (anew each "
        "round) or on-demand (only of likely pseudo-labels), as in fresh:3",
    )
    view_scale: float = Field(0.5, gt=0, le=1, description="smallest share of the image area that a view shows")
    view_flip: bool = Field(True, description="views may be mirrored; switch off where mirrored images change class")
    view_seed: int = Field(0, ge=0, description="seed of the cached views (part of the cache key)")

    @field_validator("views", mode="before")
    @classmethod
    def _views_text(cls, value: Any) -> str:
        mode, count = parse_views(str(value))
        return f"{mode}:{count}"

    @property
    def view_mode(self) -> str:
        """`cached`: encoded once; `fresh`: encoded anew each round; `on-demand`: once, for samples that need them."""
        return parse_views(self.views)[0]

    @property
    def view_count(self) -> int:
        """L, the number of augmented views a sample."""
        return parse_views(self.views)[1]


def parse_views(text: str) -> tuple[str, int]:
    """`5`, `cached`, `fresh`, `on-demand`, `cached:3`, `fresh:3` ... -> (mode, count). Raises ValueError otherwise."""
    mode, _, count = text.strip().partition(":")
    if mode.isdigit() and not count:
        mode, count = "cached", mode
    if mode not in ("cached", "fresh", "on-demand") or not (count or "5").isdigit() or int(count or 5) < 1:
        raise ValueError("give a number of views of at least 1, 'cached', 'fresh' or 'on-demand', or both as 'fresh:3'")
    return mode, int(count or 5)
