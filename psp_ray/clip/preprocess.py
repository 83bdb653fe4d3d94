"""Image preprocessing that belongs to a set of weights: it travels with them, never with the data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from psp_ray.core.errors import ModelError

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """How an RGB image becomes the input of an image tower.

    `size` (height, width) in pixels; `mean` and `std` per channel for values in [0, 1]; `interpolation` is
    `bicubic`, `bilinear` or `nearest`; `resize_mode` is `shortest` (resize the short edge, center crop), `longest`
    (resize the long edge, pad with `fill_color` 0..255) or `squash` (stretch). The meanings are open_clip's.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Preprocessing:
        """Build from open_clip's `preprocess_cfg`; unknown keys are ignored, `size` may be a number or a pair.

        Raises:
            ModelError: a value open_clip doesn't know.
        """
        try:
            return cls._built(config)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
            raise ModelError(f"the model's preprocessing is malformed ({error}); restore its preprocess_cfg") from None

    @classmethod
    def _built(cls, config: Mapping[str, Any]) -> Preprocessing:
        size = config.get("size", 224)
        pair = (int(size), int(size)) if isinstance(size, int | float) else (int(size[0]), int(size[-1]))
        built = cls(
            size=pair,
            mean=_triple(config.get("mean", _MEAN)),
            std=_triple(config.get("std", _STD)),
            interpolation=str(config.get("interpolation", "bicubic")),
            resize_mode=str(config.get("resize_mode", "shortest")),
            fill_color=int(config.get("fill_color", 0)),
        )
        if min(built.size) < 1:
            raise ModelError(f"the model's preprocessing has size {list(built.size)}; give two positive numbers")
        if built.resize_mode not in ("shortest", "longest", "squash"):
            raise ModelError(
                f"the model's preprocessing has resize_mode {built.resize_mode!r}; use shortest, longest or squash"
            )
        if built.interpolation not in ("bicubic", "bilinear", "nearest", "random"):
            raise ModelError(
                f"the model's preprocessing has interpolation {built.interpolation!r}; use bicubic, bilinear or nearest"
            )
        return built

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for provenance and cache keys."""
        return asdict(self)

    def transform(self) -> Callable[[Any], Any]:
        """open_clip's own inference transform: PIL image -> float32 tensor (3, height, width), normalized."""
        from open_clip.transform import PreprocessCfg, image_transform_v2

        config = PreprocessCfg(
            size=self.size,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resize_mode=self.resize_mode,
            fill_color=self.fill_color,
        )
        transform: Callable[[Any], Any] = image_transform_v2(config, is_train=False)
        return transform


def _triple(values: Any) -> tuple[float, float, float]:
    numbers = [float(value) for value in values] if not isinstance(values, int | float) else [float(values)]
    if len(numbers) == 1:
        numbers = numbers * 3
    if len(numbers) != 3:
        raise ModelError(f"the model's preprocessing has {len(numbers)} channel statistics; three are needed")
    return (numbers[0], numbers[1], numbers[2])
