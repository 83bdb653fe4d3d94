"""Measure the asset: ``python -m psp_ray.clip.psp_lite.builder.evaluate --data DIR [--only caltech-101 ...]``.

``DIR`` holds image folders with CoOp split files. Every line printed names data set, split and image size.
Nothing here is used to build the asset.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

HERE = Path(__file__).parents[1]
SETS = {
    "caltech-101": ("caltech-101/101_ObjectCategories", "caltech-101/split_zhou_Caltech101.json", "a photo of a {}."),
    "rsscn7": ("rsscn7/images", "rsscn7/split_rsscn7.json", "a satellite photo of {}."),
    "dtd-10": ("dtd/images", "dtd/split_dtd10.json", "{} texture."),
}
DIGIT_TEMPLATE = "a picture of the digit {}."


def load(image_size: int | None = None, weights: Path | None = None) -> tuple[Any, Any, Any]:
    """Model, transform and tokenizer, through open_clip alone."""
    if "psp-lite" not in open_clip.list_models():
        open_clip.add_model_config(HERE / "psp-lite.json")
    model, _, transform = open_clip.create_model_and_transforms(
        "psp-lite", pretrained=str(weights or HERE / "psp-lite.safetensors"), force_image_size=image_size
    )
    return model.eval().requires_grad_(False), transform, open_clip.get_tokenizer("psp-lite")


def coop_split(root: Path, dataset: str, split: str) -> tuple[list[Path], Tensor, list[str]]:
    """Image paths, labels (n,) int64 and class names (underscores to spaces) of a CoOp split file."""
    folder, file, _ = SETS[dataset]
    items = json.loads((root / file).read_text())[split]
    names = {int(y): name.replace("_", " ") for _, y, name in items}
    return (
        [root / folder / p for p, _, _ in items],
        torch.tensor([y for _, y, _ in items]),
        [names[i] for i in sorted(names)],
    )


def digits() -> tuple[list[Image.Image], Tensor, list[str]]:
    """scikit-learn's 1,797 8 x 8 digits as images."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = [Image.fromarray(np.uint8(np.clip(x * 16, 0, 255))).convert("RGB") for x in data.images]
    return images, torch.from_numpy(data.target).long(), [str(i) for i in range(10)]


@torch.inference_mode()
def encode_images(model: Any, transform: Any, images: Sequence[Path | Image.Image], batch: int = 64) -> Tensor:
    """(n, 256) unit embeddings of paths or PIL images."""
    out = []
    for at in range(0, len(images), batch):
        opened = [i if isinstance(i, Image.Image) else Image.open(i) for i in images[at : at + batch]]
        x = torch.stack([transform(i.convert("RGB")) for i in opened])
        out.append(F.normalize(model.encode_image(x), dim=1))
    return torch.cat(out)


@torch.inference_mode()
def encode_names(model: Any, tokenizer: Any, names: list[str], template: str) -> Tensor:
    """(classes, 256) unit embeddings of the names in the template."""
    return F.normalize(model.encode_text(tokenizer([template.format(n) for n in names])), dim=1)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Percent of rows whose largest score is the label's."""
    return 100 * scores.argmax(1).eq(labels).float().mean().item()


def calibration_error(scores: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent, equal-width bins."""
    confidence, guess = scores.softmax(1).max(1)
    right, error = guess.eq(labels).float(), 0.0
    which = (confidence * bins).long().clamp(max=bins - 1)
    for b in which.unique():
        m = which == b
        error += m.float().mean().item() * abs(right[m].mean().item() - confidence[m].mean().item())
    return 100 * error


def linear_probe(x: Tensor, y: Tensor, test: Tensor, test_y: Tensor, c: float = 30.0) -> float:
    """Percent right of scikit-learn's LogisticRegression on unit embeddings."""
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=c, max_iter=2000).fit(x.numpy(), y.numpy())
    return 100 * float(probe.score(test.numpy(), test_y.numpy()))


def learn_prompts(
    model: Any,
    tokenizer: Any,
    names: list[str],
    x: Tensor,
    y: Tensor,
    steps: int = 300,
    context: int = 16,
    rate: float = 0.01,
    seed: int = 0,
) -> tuple[Tensor, float]:
    """(classes, 256) embeddings of prompts with class-specific context vectors, and seconds per step.

    Context vectors before the name, Adam, cosine schedule, cross-entropy at the model's logit scale over all
    of ``x`` (n, 256), ``y`` (n,).
    """
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer([f"{n}." for n in names])
    end = ids.argmax(1) + context
    length = int(end.max()) + 1
    words = model.token_embedding(ids)
    vectors = (torch.randn(len(names), context, words.shape[-1], generator=generator) * 0.02).requires_grad_()
    opt = torch.optim.Adam([vectors], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    scale = model.logit_scale.exp()

    def classes() -> Tensor:
        h = torch.cat([words[:, :1], vectors, words[:, 1:]], 1)[:, :length] + model.positional_embedding[:length]
        h = model.transformer(h, attn_mask=model.attn_mask[:length, :length])
        return F.normalize(model.ln_final(h)[torch.arange(len(names)), end] @ model.text_projection, dim=1)

    began = time.time()
    for _ in range(steps):
        loss = F.cross_entropy(scale * x @ classes().T, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
    return classes().detach(), (time.time() - began) / steps


def report(root: Path | None, dataset: str, sizes: list[int], weights: Path | None, steps: int) -> None:
    """Print all figures of one data set: zero-shot at every size, probe and prompts at the first."""
    for size in sizes:
        model, transform, tokenizer = load(size, weights)
        if dataset == "digits":
            images, y, names = digits()
            began = time.time()
            x = encode_images(model, transform, images)
            parts = {"train": (x[:900], y[:900]), "test": (x[900:], y[900:])}
            print(f"digits @{size}: {len(x) / (time.time() - began):.0f} images/s")
            template = DIGIT_TEMPLATE
        else:
            assert root is not None
            template, parts = SETS[dataset][2], {}
            for split in ("train", "val", "test") if size == sizes[0] else ("val", "test"):
                paths, y, names = coop_split(root, dataset, split)
                parts[split] = encode_images(model, transform, paths), y
        scale = model.logit_scale.exp()
        for split in [s for s in ("val", "test") if s in parts]:
            x, y = parts[split]
            for t in dict.fromkeys(["a photo of a {}.", template]):
                z = scale * x @ encode_names(model, tokenizer, names, t).T
                print(
                    f"{dataset} {split} @{size}: zero-shot {accuracy(z, y):.1f} % (calibration error "
                    f"{calibration_error(z, y):.1f}) with {t!r}",
                    flush=True,
                )
        if "train" not in parts:
            continue
        judged = [s for s in ("val", "test") if s in parts]
        text, seconds = learn_prompts(model, tokenizer, names, *parts["train"], steps=steps)
        for split in judged:
            probe = linear_probe(*parts["train"], *parts[split])
            learned = accuracy(parts[split][0] @ text.T, parts[split][1])
            print(
                f"{dataset} {split} @{size}: linear probe {probe:.1f} %, prompts {learned:.1f} % "
                f"({100 * learned / probe:.1f} % of it; {seconds:.2f} s/step)",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the data sets' folders; digits need none")
    parser.add_argument("--weights", type=Path, help="another safetensors file than the bundled one")
    parser.add_argument("--only", nargs="*", default=["digits", *SETS])
    parser.add_argument("--steps", type=int, default=300, help="prompt learning steps")
    parser.add_argument("--sizes", type=int, nargs="*", help="image sizes in place of 96 (digits) or 224 and 128")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for dataset in args.only:
        if dataset != "digits" and (args.data is None or not (args.data / SETS[dataset][1]).is_file()):
            print(f"{dataset}: not under {args.data}")
            continue
        sizes = args.sizes or ([96] if dataset == "digits" else [224, 128])
        report(args.data, dataset, sizes, args.weights, args.steps)


if __name__ == "__main__":
    main()
