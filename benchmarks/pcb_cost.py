"""A whole `psp` run against what PCB's recipe takes for the same rounds, from its measured unit costs.

    python -m benchmarks.pcb_cost [--dataset digits] [--data-root FOLDER] [--image-size N] [--rounds N]

PCB's code (Bang et al., CVPR 2024) trains 200 epochs a round in batches of 32; every step decodes and encodes its
images anew through the frozen tower and sends all prompts, 77 tokens long and with 16 context vectors a class, forward
and backward through the text tower; each round also encodes the rest of the pool (to choose from it) and the test
images. That would take hours here, so its time is the number of these steps times what one takes, measured on this
machine in this run with our image encoder and open_clip's own text path: an estimate, and a kind one, since optimizer,
data loading and the choice itself are left out. The `psp` run is timed whole, with process start-up: once with an empty
feature cache, once with the features that the first run left.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.runs import run_psp
from psp_ray.core.threads import limit_threads


def unit_costs(options: dict[str, Any], threads: int, repeats: int) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds for an image and for a step through the text tower, and the sizes of the problem."""
    limit_threads(threads)
    import torch
    import torch.nn.functional as F

    from psp_ray.clip import load_backbone
    from psp_ray.clip.tokens import learned_prompts
    from psp_ray.data.images import content_hash, read_file
    from psp_ray.features.encoder import TASK_SCHEMA, ChunkTask
    from psp_ray.features.tower import backbone_spec, make_encoder
    from psp_ray.run.prepare import prepare
    from psp_ray.run.resolve import resolve

    prepared = prepare(resolve(options))
    dataset = prepared.dataset
    encoder = make_encoder(prepared.config.model, prepared.config.runtime.threads)
    part = dataset.pool.slice(0, 64)
    contents = [row["image"] if row["path"] is None else read_file(row["path"]) for row in part.to_pylist()]
    images = pa.table(
        {
            "content_hash": [content_hash(data) for data in contents],
            "path": part["path"],
            "image": part["image"],
            "center": np.ones(part.num_rows, bool),
            "views": np.zeros(part.num_rows, bool),
        },
        schema=TASK_SCHEMA,
    )
    tower = load_backbone(backbone_spec(prepared.config.model), towers="text").text
    plan = tower.plan(learned_prompts(tower.tokenizer, dataset.prompt_names, 16), shared=False, path="full")
    contexts = (torch.randn(plan.contexts_shape) * 0.02).requires_grad_()

    def step() -> None:
        F.normalize(tower.encode(plan, contexts), dim=-1).sum().backward()

    if encoder.encode_chunk(ChunkTask(0, images)).broken:
        raise SystemExit(f"{dataset.name}: unreadable images among the first {part.num_rows}")
    image = _median(lambda: encoder.encode_chunk(ChunkTask(0, images)), repeats) / part.num_rows
    sizes = {"pool": dataset.pool.num_rows, "test": dataset.test.num_rows, "classes": len(dataset.classes)}
    return {"image": image, "text_step": _median(step, repeats)}, sizes


def _median(work: Callable[[], Any], repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--image-size")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    given = {"dataset": arguments.dataset, "data_root": arguments.data_root, "image_size": arguments.image_size}
    options = {key: value for key, value in given.items() if value is not None}
    unit, sizes = unit_costs({**options, "rounds": arguments.rounds}, arguments.threads, arguments.repeats)
    steps = images = 0
    for round in range(1, arguments.rounds + 1):
        labeled = round * sizes["classes"]
        in_round = 200 * max(1, labeled // 32)
        steps += in_round
        images += in_round * min(32, labeled) + (sizes["pool"] - labeled) + sizes["test"]
    pcb = {"images": images * unit["image"], "text": steps * unit["text_step"]}
    print(
        f"PCB's recipe, {arguments.rounds} rounds x {sizes['classes']} labels: {sum(pcb.values()):.0f} s for "
        f"{images:,} images at {1e3 * unit['image']:.2f} ms, {steps:,} text steps at {1e3 * unit['text_step']:.1f} ms"
    )
    command = [piece for key, value in options.items() for piece in ("--" + key.replace("_", "-"), str(value))]
    command += ["--rounds", str(arguments.rounds), "--runner", "inline"]
    seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PSP_RAY_CACHE"] = cache
        for name in ("with an empty cache", "with cached features"):
            start = time.perf_counter()
            run_psp(*command)
            seconds[name] = time.perf_counter() - start
            ratio = sum(pcb.values()) / seconds[name]
            print(f"psp {name:21s} {seconds[name]:7.1f} s: 1/{ratio:.0f} of it")
    record = {"benchmark": "pcb_cost", "dataset": arguments.dataset, "pcb_seconds": pcb, "unit_seconds": unit}
    print(json.dumps({**record, "psp_seconds": seconds, "ratio": sum(pcb.values()) / seconds["with cached features"]}))


if __name__ == "__main__":
    main()
