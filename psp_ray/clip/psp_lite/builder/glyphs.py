"""What digits look like, from rendered fonts: ImageNet's classes say nothing about written characters.

Each digit is drawn with matplotlib's bundled fonts in many sizes, slants and resolutions and shown to the
image tower; the ten mean features, with what they share turned down, become the targets of the digits'
names.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from .sentence import package_file

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
    "cmtt10",
)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDINGS = (
    "{}",
    "the digit {}",
    "the number {}",
    "a picture of the digit {}",
    "a picture of the digit {}.",
    "a photo of the digit {}.",
    "a photo of the number {}.",
    'a photo of the number: "{}".',
    "a handwritten {}",
    "a handwritten digit {}",
    "the numeral {}",
    "a photo of the handwritten digit {}.",
    "digit {}",
    "number {}",
    "a photo of a {}.",
    "a scanned {}",
)
SHARED = 0.5  # weight of what all digits share, against 1 for what sets one apart


def draw(digit: int, rng: random.Random, side: int = 96) -> Image.Image:
    """One digit in a random font, place, slant and resolution, light on dark or dark on light."""
    font = ImageFont.truetype(
        package_file("matplotlib", "mpl-data", "fonts", "ttf", rng.choice(FONTS) + ".ttf"), rng.randint(72, 120)
    )
    image = Image.new("L", (128, 128), 0)
    pen = ImageDraw.Draw(image)
    at = (64 + rng.uniform(-8, 8), 64 + rng.uniform(-6, 6))
    pen.text(at, str(digit), fill=255, font=font, anchor="mm", stroke_width=rng.choice((0, 0, 2, 4)), stroke_fill=255)
    slant = rng.uniform(-0.25, 0.25)
    image = image.transform(
        (128, 128), Image.Transform.AFFINE, (1, slant, -64 * slant, 0, 1, 0), Image.Resampling.BILINEAR
    )
    image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)
    low = rng.choice((8, 12, 16, 28, 64))
    image = image.resize((low, low), Image.Resampling.BOX).resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.4:
        image = image.point([255 - v for v in range(256)])
    return image.convert("RGB")


@torch.inference_mode()
def digit_targets(visual: Any, per_digit: int = 80, seed: int = 0) -> Tensor:
    """``(10, d)`` unit targets from ``per_digit`` drawings each."""
    rng = random.Random(seed)
    mean, std = (torch.tensor(v)[:, None, None] for v in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    means = []
    for digit in range(10):
        x = torch.stack([(to_tensor(draw(digit, rng)) - mean) / std for _ in range(per_digit)])
        means.append(F.normalize(visual(x), dim=1).mean(0))
    stacked = torch.stack(means)
    common = stacked.mean(0)
    return F.normalize(SHARED * F.normalize(common, dim=0) + F.normalize(stacked - common, dim=1), dim=1)


def glyph_phrases(visual: Any) -> list[tuple[str, Tensor]]:
    """Phrases that name a digit, in figures and in words, each with its target."""
    targets = digit_targets(visual)
    return [(w.format(name), targets[d]) for d in range(10) for name in (str(d), WORDS[d]) for w in WORDINGS]
