"""One training step through the text tower: the fast path against open_clip's own 77-token path.

    python -m benchmarks.text_step [--threads N] [--repeats N]

ViT-B/32's text shapes (width 512, 12 layers, 8 heads; random weights, all frozen), M = 16 context vectors, 100 short
class names; forward and backward to the context vectors. Times are medians of interleaved repeats, ratios are within
this run. Gradients of both paths are compared first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from psp_ray.clip.text import TextTower
from psp_ray.clip.tokens import learned_prompts


def build_tower(width: int = 512, layers: int = 12, device: str = "cpu") -> TextTower:
    """A random text tower, by default of ViT-B/32's shapes (the image tower is a stub that is dropped)."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32)
    model = CLIP(512, vision, CLIPTextCfg(width=width, layers=layers, heads=width // 64), quick_gelu=True)
    model.visual = None
    return TextTower(model.to(device), open_clip.SimpleTokenizer())


def short_names(count: int) -> list[str]:
    """ImageNet names of one or two words."""
    names = [name for name in open_clip.IMAGENET_CLASSNAMES if len(name.split()) <= 2]
    return names[:count]


def make_step(tower: TextTower, names: list[str], shared: bool, path: str) -> Callable[[], torch.Tensor]:
    """A function that runs one forward and backward pass and returns the gradient of the context vectors."""
    prompts = learned_prompts(tower.tokenizer, names, 16)
    plan = tower.plan(prompts, shared=shared, path=path, memory_mib=8192)
    generator = torch.Generator().manual_seed(1)
    contexts = (torch.randn(plan.contexts_shape, generator=generator) * 0.02).to(tower.device).requires_grad_()
    direction = torch.randn(len(names), 512, generator=generator).to(tower.device)

    def step() -> torch.Tensor:
        loss = (F.normalize(tower.encode(plan, contexts), dim=-1) * direction).sum()
        (gradient,) = torch.autograd.grad(loss, contexts)
        return gradient

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tower, names = build_tower(), short_names(100)
    steps = {
        "plain 77 tokens, class contexts": make_step(tower, names, False, "full"),
        "fast, class contexts": make_step(tower, names, False, "auto"),
        "plain 77 tokens, shared contexts": make_step(tower, names, True, "full"),
        "fast, shared contexts": make_step(tower, names, True, "auto"),
    }
    gradients = [step() for step in steps.values()]  # also the warm-up
    for plain, fast in ((gradients[0], gradients[1]), (gradients[2], gradients[3])):
        error = float((plain - fast).abs().max() / plain.abs().max())
        if error > 1e-3:
            raise SystemExit(f"the paths disagree: relative gradient error {error:.2e}")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.repeats):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    class_ratio = median["plain 77 tokens, class contexts"] / median["fast, class contexts"]
    shared_ratio = median["plain 77 tokens, shared contexts"] / median["fast, shared contexts"]
    for name, value in median.items():
        print(f"{name:34s} {value * 1e3:9.1f} ms")
    print(f"class contexts:  {class_ratio:5.2f} x faster (aim 3)")
    print(f"shared contexts: {shared_ratio:5.2f} x faster (aim 8)")
    print(
        json.dumps(
            {
                "benchmark": "text_step",
                "threads": options.threads,
                "class_ratio": round(class_ratio, 2),
                "shared_ratio": round(shared_ratio, 2),
                "milliseconds": {name: round(value * 1e3, 1) for name, value in median.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
