"""What a GPU changes: the same numbers? how fast, against what the card can do? how much memory?

    make gpu-check          (python -m benchmarks.gpu_check --out gpu-check.md)
    python -m benchmarks.gpu_check --device cpu --tiny

Downloads nothing: random weights of ViT-B/32's shapes, the bundled psp-lite and the bundled digits. Prints every row as
it is measured and writes them all as Markdown. A part that fails is told and the others go on (exit code 1); what would
begin after `--minutes` is left out. Rates are medians; shares are of a matrix product measured here.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rounds import Data, choices
from benchmarks.softdtw import pair, wavefront_step
from benchmarks.text_step import build_tower, make_step
from psp_ray.cli.main import cli
from psp_ray.clip import BackboneSpec, Preprocessing, load_backbone
from psp_ray.clip.image import ImageTower
from psp_ray.core.records import TextState
from psp_ray.core.version import __version__
from psp_ray.features.fuse import fuse_conv_bn
from psp_ray.policy.softdtw import mean_cost, value_and_grad
from psp_ray.policy.softdtw_torch import softdtw_wavefront


@dataclass(frozen=True)
class Sizes:
    """How much each part does; the tests take the small ones."""

    matrix: int = 8192
    image: int = 224
    vision: tuple[int, int] = (768, 12)
    """Width and layers of the image tower."""
    batches: tuple[int, ...] = (128, 1024)
    lite_batch: int = 128
    text: tuple[int, int] = (512, 12)
    """Width and layers of the text tower."""
    classes: tuple[int, ...] = (100, 1000)
    lengths: tuple[int, ...] = (4000, 20_000, 100_000)
    pool: int = 4000
    rounds: int = 8
    compiled: bool = True
    seconds: float = 1.0
    """Time of each measurement, if it is not one long call."""


TINY = Sizes(256, 32, (64, 1), (2,), 2, (64, 2), (3,), (60,), 400, 2, False, 0.01)


@dataclass(frozen=True)
class Row:
    """One line of the table; `memory` the peak of the card's memory in MiB, None on a CPU."""

    part: str
    what: str
    value: str
    memory: float | None = None


@dataclass
class Bench:
    """Where to measure, how much, and what the card can do once `ceilings` has measured it."""

    device: str
    sizes: Sizes
    run_arguments: list[str]
    log: Path
    """What the runs print."""
    peak: dict[str, float]
    """FLOP/s of a matrix product by precision."""

    @property
    def gpu(self) -> bool:
        return self.device != "cpu"

    def wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], warm_up: int = 2) -> float:
        """Median seconds of a call, at least three of them, the device waited for."""
        for _ in range(warm_up):
            call()
        times: list[float] = []
        while len(times) < 3 or (sum(times) < self.sizes.seconds and len(times) < 200):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def once(self, call: Callable[[], object]) -> float:
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def memory(self) -> float | None:
        """Peak MiB since the last call."""
        if not self.gpu:
            return None
        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return peak


def versions(device: str) -> list[str]:
    """Card, driver and versions."""
    lines = [f"psp-ray {__version__}, Python {platform.python_version()}, open_clip {open_clip.__version__}"]
    lines.append(f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    lines.append(f"{os.cpu_count()} CPU cores ({platform.machine()})")
    if device == "cpu":
        return [*lines, "no GPU: CPU"]
    card = torch.cuda.get_device_properties(0)
    driver = "unknown"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    memory, kind = card.total_memory / 2**30, f"compute capability {card.major}.{card.minor}"
    return [*lines, f"{card.name}, {memory:.0f} GiB, {kind}, driver {driver}"]


def ceilings(bench: Bench) -> Iterator[Row]:
    """What the card can do: matrix products on random numbers, and a copy."""
    n = bench.sizes.matrix
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(n, n, device=bench.device, dtype=dtype) for _ in range(2))
        bench.peak[name] = 2 * n**3 / bench.seconds(partial(torch.matmul, a, b))
        what = f"matrix product {n} x {n}, {name}"
        yield Row("ceiling", what, f"{bench.peak[name] / 1e12:.4g} TFLOP/s", bench.memory())
    source = torch.randn(n * n * 4, device=bench.device)
    target = torch.empty_like(source)
    speed = 2 * source.nbytes / bench.seconds(partial(target.copy_, source))
    yield Row("ceiling", "copy, read and written", f"{speed / 1e9:.4g} GB/s", bench.memory())


def vision(sizes: Sizes) -> nn.Module:
    """A random image tower, by default of ViT-B/32's shapes."""
    torch.manual_seed(0)
    width, layers = sizes.vision
    config = CLIPVisionCfg(layers=layers, width=width, patch_size=32, image_size=sizes.image)
    model = CLIP(512, config, CLIPTextCfg(width=64, layers=1, heads=1), quick_gelu=True)
    visual: nn.Module = model.visual
    return visual.eval().requires_grad_(False)


def work(tower: nn.Module, size: int, device: str) -> float:
    """Floating-point operations of one image, counted on the matrix products, convolutions and attention."""
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into the fused one
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            tower(torch.zeros(1, 3, size, size, device=device))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return float(counter.get_total_flops())


def image_tower(bench: Bench) -> Iterator[Row]:
    """Images a second of ViT-B/32: the module alone on the card, and `encode` from bytes in main memory."""
    sizes = bench.sizes
    prep = Preprocessing(size=(sizes.image, sizes.image))
    visual = vision(sizes).to(bench.device)
    flops = work(visual, sizes.image, bench.device)
    for batch in sizes.batches:
        images = torch.randn(batch, 3, sizes.image, sizes.image, device=bench.device)
        for precision, last, compiled in variants(bench, batch):
            format = torch.channels_last if last else torch.contiguous_format
            module: Any = copy.deepcopy(visual).to(memory_format=format)
            given = images.contiguous(memory_format=format)
            if precision == "bf16 weights":
                module, given = module.bfloat16(), given.bfloat16()
            torch.compiler.reset()
            call = torch.compile(module) if compiled else module
            rate = batch / bench.seconds(partial(forward, call, given, precision), 3)
            share = rate * flops / bench.peak[precision[:4]]
            layout = "channels last" if last else "contiguous"
            what = f"batch {batch}, {precision}, {layout}, {'compiled' if compiled else 'eager'}"
            yield Row("image tower", what, f"{rate:,.0f} images/s, {share:.0%} of peak", bench.memory())
        for precision in ("fp32", "bf16") if bench.gpu else ("fp32",):
            yield encode_rate(bench, "image tower", ImageTower(visual, prep, bench.device, precision), batch)


def variants(bench: Bench, batch: int) -> list[tuple[str, bool, bool]]:
    """(precision, channels last, compiled) to measure; compiled, which takes long, with the largest batch only."""
    kinds = ["fp32", "bf16", "bf16 weights"] if bench.gpu else ["fp32"]
    found = [(kind, last, False) for kind in kinds for last in (False, True)]
    if bench.sizes.compiled and batch == bench.sizes.batches[-1]:
        found += [("bf16", False, True), ("bf16", True, True), ("bf16 weights", True, True)]
    return found


@torch.inference_mode()
def forward(tower: Callable[[Tensor], Tensor], images: Tensor, precision: str) -> Tensor:
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return tower(images)


def encode_rate(bench: Bench, part: str, tower: ImageTower, batch: int, note: str = "") -> Row:
    """As the program calls it: bytes of the CPU in, features on the CPU out."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *tower.preprocessing.size, 3), np.uint8)
    rate = batch / bench.seconds(partial(tower.encode, pixels.transpose(0, 3, 1, 2)))
    what = f"batch {batch}, {tower.precision}{note}, `encode` from bytes"
    return Row(part, what, f"{rate:,.0f} images/s", bench.memory())


def psp_lite(bench: Bench) -> Iterator[Row]:
    """The bundled model as the program loads it, and with its batch norms folded into the convolutions."""
    for precision in ("fp32", "bf16") if bench.gpu else ("fp32",):
        tower = load_backbone(BackboneSpec(device=bench.device, precision=precision), "image").image
        assert tower is not None
        yield encode_rate(bench, "psp-lite", tower, bench.sizes.lite_batch)
        if precision == "fp32":
            tower.visual = fuse_conv_bn(tower.visual, tower.preprocessing.size)
            yield encode_rate(bench, "psp-lite", tower, bench.sizes.lite_batch, ", folded")


def agreement(bench: Bench) -> Iterator[Row]:
    """The card's features, text gradients and choices against the CPU's."""
    sizes = bench.sizes
    prep = Preprocessing(size=(sizes.image, sizes.image))
    pixels = np.random.default_rng(1).integers(0, 256, (16, 3, sizes.image, sizes.image), np.uint8)
    wanted = ImageTower(vision(sizes), prep, "cpu").encode(pixels)
    for precision in ("fp32", "bf16") if bench.gpu else ("fp32",):
        found = ImageTower(vision(sizes), prep, bench.device, precision).encode(pixels)
        cosine = float((wanted * found).sum(1).min())
        yield Row("agreement", f"image features, {precision}", f"least cosine {cosine:.7f}", bench.memory())
    names = list(open_clip.IMAGENET_CLASSNAMES[: min(sizes.classes[0], 20)])
    steps = [make_step(build_tower(*sizes.text, device), names, False, "auto")() for device in ("cpu", bench.device)]
    error = float((steps[0] - steps[1].cpu()).abs().max() / steps[0].abs().max())
    yield Row("agreement", "gradient of the contexts", f"relative error {error:.1e}", bench.memory())
    world = gaussian_world(sizes.pool)
    played = [list(choices(world, "vssp", 0, min(sizes.rounds, 3), {}, device)) for device in ("cpu", bench.device)]
    for number, ((ours, _), (theirs, _)) in enumerate(zip(*played, strict=True), 1):
        same = len(np.intersect1d(ours, theirs))
        what = f"round {number}: choices of `vssp`"
        yield Row("agreement", what, f"{same} of {len(ours)} the same", bench.memory())


def gaussian_world(n: int, classes: int = 20, dim: int = 64) -> Data:
    """Clusters around unit centers, and a teacher that sees them through noise."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(classes, dim))
    labels = rng.integers(0, classes, n).astype(np.int32)
    rows = centers[labels] + 1.5 * rng.normal(size=(n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    text = centers + 1.5 * rng.normal(size=centers.shape)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    teacher = TextState(text.astype(np.float32), 30.0)
    test = max(n // 10, 1)
    names = [str(number) for number in range(n)]
    return Data(rows.astype(np.float16), labels, np.arange(test, n), np.arange(test), names, teacher)


def text_steps(bench: Bench) -> Iterator[Row]:
    """Steps a second through the text tower: forward and backward to the contexts, in fp32."""
    tower = build_tower(*bench.sizes.text, bench.device)
    for classes in bench.sizes.classes:
        names = list(open_clip.IMAGENET_CLASSNAMES[:classes])
        for shared in (False, True):
            for path in ("full", "auto"):
                rate = 1 / bench.seconds(make_step(tower, names, shared, path))
                contexts = "shared contexts" if shared else "class contexts"
                what = f"C = {classes}, {contexts}, {'fast' if path == 'auto' else '77 tokens'}"
                yield Row("text steps", what, f"{rate:.1f} steps/s", bench.memory())


def soft_dtw(bench: Bench) -> Iterator[Row]:
    """Value and gradient: the wavefront where the tensors are, against numba's kernel on the CPU."""
    lengths = bench.sizes.lengths
    removed = max(lengths[0] // 40, 1)
    cases: list[tuple[int, int | None]] = [(lengths[0], None), *((n, removed) for n in lengths)]
    for n, width in cases:
        x, y = pair(n, removed)
        gamma = 0.01 * mean_cost(x, y, width)
        value_and_grad(x[:200], y[: 200 - removed // 2], gamma, removed)  # compiles
        ours = bench.once(partial(value_and_grad, x, y, gamma, width))
        wave = bench.once(partial(wavefront_step, x, y, gamma, width, bench.device))
        memory = bench.memory()
        with torch.no_grad():
            short = (x[:2000], y[: 2000 - removed])
            found = float(softdtw_wavefront(*(torch.tensor(a, device=bench.device) for a in short), gamma, width))
        error = abs(found / value_and_grad(*short, gamma, width)[0] - 1)
        what = f"n = {n:,}, {'no band' if width is None else f'band {width}'}"
        times = f"wavefront {wave:.3g} s, CPU {ours:.3g} s: {wave / ours:.3g} x; error {error:.0e}"
        yield Row("Soft-DTW", what, times, memory)


def whole_runs(bench: Bench) -> Iterator[Row]:
    """Runs end to end, then again on the CPU over the features that the card made."""
    with tempfile.TemporaryDirectory() as folder:
        for head in ("auto", "prompt"):
            chosen = []
            for device in dict.fromkeys((bench.device, "cpu")):
                out = Path(folder, f"{head}-{device}")
                words = ["run", "--runner", "inline", "--rounds", str(bench.sizes.rounds), "--head", head]
                words += ["--device", device, "--cache", f"{folder}/cache", "--out", str(out), *bench.run_arguments]
                with bench.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                    seconds = bench.once(partial(cli.main, words, "psp-ray", standalone_mode=False))
                accuracy = pd.read_csv(out / "rounds.csv")["test_accuracy"].iloc[-1]
                asked = pd.read_parquet(out / "labels.parquet").groupby("round")["sample_id"].agg(set)
                chosen.append(asked)
                first = head == "auto" and device == bench.device
                what = (
                    f"{bench.sizes.rounds} rounds, head {head}, {device}, {'with' if first else 'without'} featurizing"
                )
                value = f"{seconds:.1f} s, {accuracy:.1%} accuracy"
                yield Row("run", what, value, bench.memory() if device != "cpu" else None)
            same = [len(a & b) / len(a) for a, b in zip(chosen[0], chosen[-1], strict=True)]
            listed = ", ".join(f"{share:.0%}" for share in same)
            yield Row("run", f"head {head}: choices of the rounds as on the CPU", listed)


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "ceiling": ceilings,
    "text": text_steps,
    "psp-lite": psp_lite,
    "image": image_tower,
    "softdtw": soft_dtw,
    "agreement": agreement,
    "run": whole_runs,
}


def markdown(rows: list[Row], device: str, seconds: float) -> str:
    lines = [f"- {line}" for line in versions(device)]
    lines += [f"- measured in {seconds:.0f} s", "", "| part | what | measured | peak MiB |", "|---|---|---|---|"]
    for row in rows:
        memory = "" if row.memory is None else f"{row.memory:,.0f}"
        lines.append(f"| {row.part} | {row.what} | {row.value} | {memory} |")
    return "\n".join(lines) + "\n"


def measure(bench: Bench, parts: list[str], minutes: float, out: Path) -> bool:
    """Print and write the rows of the parts; returns whether each came through. `out` is whole after every row."""
    rows: list[Row] = []
    start, fine = time.perf_counter(), True

    def add(row: Row) -> None:
        rows.append(row)
        seconds = time.perf_counter() - start
        memory = "" if row.memory is None else f"{row.memory:,.0f} MiB"
        print(f"{seconds:5.0f} s  {row.part:<12} {row.what:<58} {row.value}  {memory}", flush=True)
        out.write_text(markdown(rows, bench.device, seconds), encoding="utf-8")

    for name in parts:
        try:
            for row in PARTS[name](bench):
                add(row)
                if time.perf_counter() - start > 60 * minutes:
                    add(Row(name, f"the rest is left out: {minutes:g} minutes are over", ""))
                    return fine
        except Exception as error:  # whatever a driver does: the other parts are still worth having
            traceback.print_exc()
            reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
            add(Row(name, f"failed: {type(error).__name__}", reason))
            fine = False
    return fine


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the script itself")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}; ceiling comes first")
    parser.add_argument("--minutes", type=float, default=6.0, help="nothing begins after these")
    parser.add_argument("--run-arguments", default="", help="more arguments of `psp-ray run`")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.md"))
    options = parser.parse_args(arguments)
    wanted = options.parts.split(",")
    if unknown := [part for part in wanted if part not in PARTS]:
        parser.error(f"--parts {','.join(unknown)}: unknown; choose from {','.join(PARTS)}")
    if options.device == "cpu" and not options.tiny:
        parser.error("torch sees no GPU here; --device cpu --tiny tries the script itself on small shapes")
    sizes = TINY if options.tiny else Sizes()
    bench = Bench(options.device, sizes, options.run_arguments.split(), options.out.with_suffix(".log"), {})
    for line in versions(options.device):
        print(line)
    fine = measure(bench, list(dict.fromkeys(["ceiling", *wanted])), options.minutes, options.out)
    print(f"written: {options.out}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
