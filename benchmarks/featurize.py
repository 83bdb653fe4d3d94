"""Encoding speed: the image tower plain, channels last and with folded batch norms; and what decoding costs beside it.

Ratios within one run: variants take turns, the fastest pass of each counts. The tower is psp-lite's architecture
(timm's tf_efficientnet_lite0) with random weights, so that nothing has to be there.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import timm
import torch

from psp_ray.clip.image import ImageTower
from psp_ray.clip.preprocess import Preprocessing
from psp_ray.core.threads import limit_threads
from psp_ray.data.adapters.digits import gray_png
from psp_ray.data.images import ViewSettings, content_hash
from psp_ray.features.encoder import TASK_SCHEMA, ChunkEncoder, ChunkTask
from psp_ray.features.fuse import fuse_conv_bn


def best_of(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Fastest time of each call in seconds; the calls take turns."""
    fastest = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    return fastest


def chunk_of(images: int) -> ChunkTask:
    """Noise pictures of 64 x 64 pixels, each wanting a center feature and views."""
    rng = np.random.default_rng(0)
    data = [gray_png(rng.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in range(images)]
    table = pa.table(
        {
            "content_hash": [content_hash(item) for item in data],
            "path": pa.nulls(images, pa.string()),
            "image": data,
            "center": [True] * images,
            "views": [True] * images,
        },
        schema=TASK_SCHEMA,
    )
    return ChunkTask(0, table, ViewSettings(count=5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 224])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=32, help="images of the end-to-end chunk, six encodings each")
    options = parser.parse_args()
    limit_threads(options.threads)
    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval().requires_grad_(False)
    result: dict[str, object] = {"benchmark": "featurize", "threads": options.threads}
    for size in options.sizes:
        last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        folded = fuse_conv_bn(plain, (size, size))
        calls: dict[str, Callable[[], object]] = {}
        count: dict[str, int] = {}
        for batch in (16, 32, 64):
            images = torch.randn(batch, 3, size, size)
            nhwc = images.contiguous(memory_format=torch.channels_last)
            for name, tower, given in (
                ("plain", plain, images),
                ("channels last", last, nhwc),
                ("channels last, folded", folded, nhwc),
            ):
                key = f"{name}, batch {batch}"
                calls[key], count[key] = partial(torch.inference_mode()(tower), given), batch
        prep = Preprocessing(size=(size, size))
        encoder = ChunkEncoder(partial(ImageTower, folded, prep, "cpu"), prep, decode_threads=options.threads)
        calls["whole chunk, folded"] = partial(encoder.encode_chunk, chunk_of(options.images))
        count["whole chunk, folded"] = options.images * 6
        seconds = best_of(calls, options.repeats)
        speed = {name: count[name] / seconds[name] for name in calls}
        base = speed["plain, batch 32"]
        print(f"{size} px, {options.threads} threads")
        for name, value in speed.items():
            print(f"  {name:34s} {value:8.1f} encodings/s {value / base:6.2f} x")
        result[f"size_{size}"] = {name: round(value / base, 2) for name, value in speed.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
