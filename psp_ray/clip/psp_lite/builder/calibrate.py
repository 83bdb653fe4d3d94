"""The logit scale: how sure a prompt may be whose class the text tower has never been told about.

The image tower's own ImageNet classifier knows what is in a picture. The rule: of unlabeled crops of the
sample photographs in scikit-image and scikit-learn, take the classifier's probabilities as the truth,
let the *unseen* predictions of the class names (each made without its own class) answer instead, and choose
the scale at which their cross-entropy is least. Tasks of 100 classes are drawn at random, each with
the classifier's favorite among them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

from .sentence import package_file

SKIMAGE = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "brick.png",
    "grass.png",
    "gravel.png",
    "moon.png",
    "hubble_deep_field.jpg",
    "page.png",
    "clock_motion.png",
)
SKLEARN = ("china.jpg", "flower.jpg")
CROPS, TASK, TASKS = 24, 100, 8


@torch.no_grad()
def pooled_features(visual: Any) -> Tensor:
    """(crops, 1280) features of random crops of the sample photographs."""
    files = [package_file("skimage", "data", n) for n in SKIMAGE]
    files += [package_file("sklearn", "datasets", "images", n) for n in SKLEARN]
    view = T.Compose(
        [
            T.RandomResizedCrop(224, (0.3, 1.0), interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
        ]
    )
    out = []
    for file in files:
        image = Image.open(file).convert("RGB")
        out.append(visual.trunk(torch.stack([view(image) for _ in range(CROPS)])))
    return torch.cat(out)


@torch.no_grad()
@torch.no_grad()
def calibrated_scale(visual: Any, classifier: dict[str, Tensor], unseen: Tensor) -> float:
    """The scale of least cross-entropy; ``unseen``: (1000, d) unit predictions."""
    torch.manual_seed(0)
    pooled = pooled_features(visual)
    truth = F.linear(pooled, classifier["weight"], classifier["bias"])
    cosine = F.normalize(visual.head(pooled).detach(), dim=1) @ unseen.T
    rows = torch.arange(len(truth))[:, None]
    tasks = []
    for _ in range(TASKS):
        others = torch.rand(truth.shape).scatter_(1, truth.argmax(1, keepdim=True), 2.0)
        columns = others.topk(TASK, dim=1).indices
        tasks.append((truth[rows, columns].softmax(1), cosine[rows, columns]))
    losses = {}
    for tenth in range(20, 1001, 5):
        scale = tenth / 10
        losses[scale] = sum(-(p * (scale * c).log_softmax(1)).sum(1).mean().item() for p, c in tasks)
    return min(losses, key=losses.__getitem__)
