"""One training step through the text tower: against its GEMM bound, and against open_clip's own 77-token path.

    python -m benchmarks.text_step [--threads N] [--repeats N] [--classes N]

Two towers of random frozen weights: ViT-B/32's shapes (width 512, 12 layers) and psp-lite's (256, 3 layers, MLP twice
as wide); M = 16 context vectors, 100 short class names; forward and backward to the context vectors. The bound is the
step's floating point operations in matrix products, counted by torch, over the rate of one large float32 product, which
is measured between the steps. Times are medians of interleaved repeats (the 77-token path: one run, whose gradients
are compared with the fast one's); ratios are within this run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch.utils.flop_counter import FlopCounterMode

from psp_ray.clip.text import TextTower
from psp_ray.clip.tokens import learned_prompts

TOWERS: Mapping[str, Mapping[str, Any]] = {
    "ViT-B/32": {"width": 512, "layers": 12},
    "psp-lite": {"width": 256, "layers": 3, "mlp_ratio": 2.0},
}
GEMM = 1536
"""Rows and columns of the product whose rate is the peak: about as large as those of a step, and out of the caches."""


def build_tower(width: int = 512, layers: int = 12, device: str = "cpu", mlp_ratio: float = 4.0) -> TextTower:
    """A random text tower, by default of ViT-B/32's shapes (the image tower is a stub that is dropped)."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=32)
    text = CLIPTextCfg(width=width, layers=layers, heads=width // 64, mlp_ratio=mlp_ratio)
    model = CLIP(512, vision, text, quick_gelu=True)
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


def count_flops(step: Callable[[], torch.Tensor]) -> int:
    """Floating point operations of a step in matrix products and attention, backward pass included."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def make_gemm() -> Callable[[], torch.Tensor]:
    """One product of 2 `GEMM`^3 operations."""
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(GEMM, GEMM, generator=generator) for _ in range(2))
    return lambda: left @ right


def timed(step: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Seconds of a step (with one thread: of CPU, whoever else uses the machine; else by the clock) and its result."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    result = step()
    return clock() - begin, result


def measure(steps: Mapping[str, Callable[[], torch.Tensor]], repeats: int) -> dict[str, float]:
    """Median seconds of each step; they take turns, so that whatever slows the machine down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            seconds[name].append(timed(step)[0])
    return {name: statistics.median(times) for name, times in seconds.items()}


def compare(tower: TextTower, names: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """For class-specific and shared contexts: milliseconds, the ratio to the bound, and how much faster than plain."""
    found = {}
    for kind, shared in (("class contexts", False), ("shared contexts", True)):
        step = make_step(tower, names, shared, "auto")
        plain_seconds, plain = timed(make_step(tower, names, shared, "full"))
        error = float((plain - step()).abs().max() / plain.abs().max())  # also the warm-up
        if error > 1e-3:
            raise SystemExit(f"the paths disagree: relative gradient error {error:.2e}")
        median = measure({"step": step, "gemm": make_gemm()}, repeats)
        flops, peak = count_flops(step), 2 * GEMM**3 / median["gemm"]
        found[kind] = {
            "milliseconds": 1e3 * median["step"],
            "gflop": flops / 1e9,
            "peak_gflops": peak / 1e9,
            "over_bound": median["step"] * peak / flops,
            "faster_than_plain": plain_seconds / median["step"],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--classes", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = {}
    for model, shape in TOWERS.items():
        results[model] = compare(build_tower(**shape), short_names(options.classes), options.repeats)
        for kind, row in results[model].items():
            print(
                f"{model:9} {kind:16} {row['milliseconds']:8.1f} ms, {row['gflop']:6.1f} GFLOP at "
                f"{row['peak_gflops']:.0f} GFLOP/s: {row['over_bound']:.2f} x its bound (aim 1.3), "
                f"{row['faster_than_plain']:.2f} x as fast as 77 tokens"
            )
    rounded = {m: {k: {n: round(v, 2) for n, v in row.items()} for k, row in r.items()} for m, r in results.items()}
    print(json.dumps({"benchmark": "text_step", "threads": options.threads, **rounded}))


if __name__ == "__main__":
    main()
