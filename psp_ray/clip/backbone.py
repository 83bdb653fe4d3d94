"""Frozen CLIP towers, loaded from a name, a file or the bundled asset.

Both towers, or only one of them, come out of `load_backbone`; what is not asked for is freed. torch and open_clip are
imported when a model is loaded, not before.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from psp_ray.clip.architectures import register_bundled
from psp_ray.clip.preprocess import Preprocessing
from psp_ray.clip.spec import BackboneSpec, ResolvedModel, resolve
from psp_ray.clip.weights import file_hash, model_hash, read_checkpoint
from psp_ray.core.errors import ModelError

if TYPE_CHECKING:
    from psp_ray.clip.image import ImageTower
    from psp_ray.clip.text import TextTower

TOWERS = ("both", "image", "text")


@dataclass(frozen=True)
class Backbone:
    """A loaded model. `dim` is the width of the joint space; `logit_scale` multiplies cosines (about 1..100)."""

    spec: BackboneSpec
    name: str
    dim: int
    logit_scale: float
    weights_hash: str
    """Content hash of the weights and of the architecture that reads them."""
    preprocessing: Preprocessing
    device: str
    precision: str
    image: ImageTower | None
    text: TextTower | None

    def describe(self) -> dict[str, Any]:
        """Plain values for provenance: what was loaded, from where, and how images are prepared."""
        import open_clip

        return {
            "model": self.spec.model,
            "open_clip_name": self.name,
            "checkpoint": self.spec.checkpoint,
            "weights_hash": self.weights_hash,
            "dim": self.dim,
            "logit_scale": self.logit_scale,
            "image_size": list(self.preprocessing.size),
            "preprocessing": asdict(self.preprocessing),
            "device": self.device,
            "precision": self.precision,
            "text_path": None if self.text is None else self.text.path,
            "open_clip_version": open_clip.__version__,
        }


def backbone_hash(spec: BackboneSpec) -> str:
    """`Backbone.weights_hash` without building the model.

    Raises:
        ModelError: as `resolve`.
    """
    return _hash(resolve(spec))


def load_backbone(spec: BackboneSpec, towers: str = "both") -> Backbone:
    """Load the frozen towers of a model.

    Args:
        spec: the model as the user names it.
        towers: `both`, `image` or `text`; the other tower's memory is freed.

    Raises:
        ModelError: unknown names, missing or unfitting weights, a precision or device that isn't there.
    """
    if towers not in TOWERS:
        raise ValueError(f"towers must be one of {TOWERS}, not {towers!r}")
    device = choose_device(spec.device)
    precision = choose_precision(spec.precision, device)
    found = resolve(spec)
    model = _build(spec, found)
    dim = int(found.config["embed_dim"])
    logit_scale = float(model.logit_scale.detach().double().exp().reshape(-1)[0])

    image: ImageTower | None = None
    text: TextTower | None = None
    visual, model.visual = model.visual, None
    if towers != "text":
        from psp_ray.clip.image import ImageTower

        image = ImageTower(visual, found.preprocessing, device, precision)
    del visual
    if towers != "image":
        from psp_ray.clip.text import TextTower

        text = TextTower(model.to(device), _tokenizer(spec, found))
    return Backbone(
        spec=spec,
        name=found.name,
        dim=dim,
        logit_scale=logit_scale,
        weights_hash=_hash(found),
        preprocessing=found.preprocessing,
        device=device,
        precision=precision,
        image=image,
        text=text,
    )


def build_model(spec: BackboneSpec) -> tuple[Any, ResolvedModel]:
    """The whole open_clip model with its weights, on the CPU, and what it was resolved to.

    Raises:
        ModelError: as `resolve`, or weights that don't fit.
    """
    found = resolve(spec)
    return _build(spec, found), found


def choose_device(device: str) -> str:
    """The device to use; `auto` prefers CUDA, then the CPU.

    Raises:
        ModelError: a device this machine doesn't have.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise ModelError(f"--device {device} is unknown; use auto, cpu, cuda, cuda:N or mps")
    if kind == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[kind]
    if not present or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise ModelError(f"--device {device} is not available here; use --device cpu")
    return device


def precision_on(device: str, precision: str) -> str:
    """The precision that `load_backbone` would choose. torch is imported only where this machine has a say in it.

    Raises:
        ModelError: as `choose_device` and `choose_precision`.
    """
    free = device == "auto" and precision in ("auto", "fp32")  # the same on every device
    return choose_precision(precision, device if free else choose_device(device))


def choose_precision(precision: str, device: str) -> str:
    """The image tower's precision on a device: half only on a GPU that computes in it.

    Raises:
        ModelError: unknown, or not available on the device.
    """
    if precision not in ("auto", "fp32", "fp16", "bf16"):
        raise ModelError(f"--precision {precision} is unknown; use auto, fp32, fp16 or bf16")
    if precision in ("auto", "fp32"):
        # Features are cached as float16 whatever the tower computes in, so full precision is the safe default.
        return "fp32"
    if device.startswith("cuda"):
        import torch

        if precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise ModelError("--precision bf16 is not available on this GPU; use --precision fp16 or fp32")
        return precision
    raise ModelError(f"--precision {precision} needs a CUDA device, not {device}; use --precision fp32 or auto")


def _build(spec: BackboneSpec, found: ResolvedModel) -> Any:
    import open_clip

    state = read_checkpoint(found.weights)
    # open_clip warns about activations and missing weights, both of which are settled here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        register_bundled()
        model = _create(open_clip, spec, found)
    _load(model, state, found)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def _create(open_clip: Any, spec: BackboneSpec, found: ResolvedModel) -> Any:
    import logging

    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        return open_clip.create_model(
            found.name,
            load_weights=False,
            device="cpu",
            precision="fp32",
            force_image_size=spec.image_size,
        )
    except Exception as error:  # a config from anybody makes open_clip and timm stumble in every way
        reason = str(error).strip() or type(error).__name__
        raise ModelError(f"--model {found.name} can't be built ({reason.splitlines()[0][:200]})") from error
    finally:
        quiet.setLevel(level)


def _load(model: Any, state: dict[str, Any], found: ResolvedModel) -> None:
    """Fill the model strictly, after open_clip's own conversions (layout, size of the position grids)."""
    import torch
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    try:
        state = convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        for name in ("logit_scale", "logit_bias"):
            own = getattr(model, name, None)
            if name in state and own is not None:
                state[name] = state[name].reshape(own.shape)
        if getattr(model, "logit_bias", None) is not None:
            state.setdefault("logit_bias", torch.zeros_like(model.logit_bias))
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
        model.load_state_dict(state, strict=True)
    except Exception as error:  # tensors of other shapes and kinds make the conversions stumble in every way
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[1:3] or lines[:1])[:300] or type(error).__name__
        raise ModelError(
            f"the weights in {found.weights} don't fit --model {found.name}: {reason}; name the architecture they "
            f"were trained with"
        ) from error


def _tokenizer(spec: BackboneSpec, found: ResolvedModel) -> Any:
    import open_clip

    text = found.config["text_cfg"]
    if "context_length" in text and not text.get("hf_tokenizer_name") and "siglip" not in found.name.lower():
        # Straight from the config: the name may be a folder or a hub repository.
        options = json.dumps(text.get("tokenizer_kwargs") or {}, sort_keys=True)
        return _simple_tokenizer(int(text["context_length"]), options)
    try:
        return open_clip.get_tokenizer(found.name)
    except Exception as error:  # the tokenizer's files come from a hub, in whatever way that fails
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ModelError(
            f"--model {found.name}: its tokenizer can't be loaded ({reason}); choose a model with CLIP's own "
            f"tokenizer, such as ViT-B-32-quickgelu/openai"
        ) from error


@cache
def _simple_tokenizer(context_length: int, options: str) -> Any:
    """CLIP's own tokenizer: one a process, since reading its vocabulary takes longer than building psp-lite."""
    import open_clip

    return open_clip.SimpleTokenizer(context_length=context_length, **json.loads(options))


def _hash(found: ResolvedModel) -> str:
    return model_hash(file_hash(found.weights), found.config)
