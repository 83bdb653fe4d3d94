"""Featurizing files: today's Ray workers against Ray Data, and decoders of JPEGs, on the same made-up pictures.

    python -m benchmarks.featurize_engines --folder FOLDER [--images 20000] [--workers 2] [--image-size 64]
        [--engines workers data data-bytes]

Engines encode the same files with the same encoder (psp-lite, one thread a worker) and are asked for the same chunks.
`workers` are those of `psp-ray featurize`; `data` gives paths to Ray Data (`map_batches` with a pool of actors), which
`data-bytes` also has read the files (`read_binary_files`). What counts is from the first result to the last, so that
no start-up does: images a second of the clock, and milliseconds that all processes together worked for an image, which
hold on a busy machine too. `tower` is what the network alone takes, on pixels that are there.

Decoders are given bytes in memory and make the pixels that the tower sees. Those that are not installed are left out;
none is a dependency but Pillow.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from psp_ray.clip.preprocess import Preprocessing
from psp_ray.config.config import Config
from psp_ray.config.model import ModelSettings
from psp_ray.core.threads import limit_threads
from psp_ray.data.decoding import center_view, decode
from psp_ray.data.images import content_hash
from psp_ray.features.encoder import TASK_SCHEMA, ChunkEncoder, ChunkTask
from psp_ray.features.featurize import CHUNK_SIZE
from psp_ray.features.tower import backbone_spec, make_encoder

Decoder = Callable[[bytes, tuple[int, int]], Image.Image]
"""Bytes, and the size that the tower wants, to an RGB image."""
LARGER = (500, 375)
"""Width and height of the decoders' second kind of pictures: about what ImageNet has."""


def picture(number: int, width: int, height: int) -> bytes:
    """A JPEG of smooth patches with some grain, as heavy as a photograph's, from a seed of its own."""
    rng = np.random.default_rng([number, width])
    coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


@dataclass(frozen=True)
class Pictures:
    """Files by their `paths`, and the `hashes` of what is in them, which a run has looked up before it encodes."""

    paths: list[str]
    hashes: list[bytes]

    def table(self, low: int, high: int) -> pa.Table:
        return pa.table({"path": self.paths[low:high], "content_hash": self.hashes[low:high]})


def write_pictures(folder: Path, count: int) -> Pictures:
    """Files of 128 to 192 pixels in `folder`, made once."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [folder / f"{number:07d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        if not name.exists():
            name.write_bytes(picture(number, 128 + 16 * (number % 5), 128 + 16 * (number // 5 % 5)))
    return Pictures([str(name) for name in names], [content_hash(name.read_bytes()) for name in names])


def chunk(hashes: list[bytes], paths: list[str] | None, images: list[bytes] | None = None, index: int = 0) -> ChunkTask:
    """Images, by their paths or as bytes, that want a center feature."""
    columns = {
        "content_hash": hashes,
        "path": pa.nulls(len(hashes), pa.string()) if paths is None else paths,
        "image": pa.nulls(len(hashes), pa.binary()) if images is None else images,
        "center": [True] * len(hashes),
        "views": [False] * len(hashes),
    }
    return ChunkTask(index, pa.table(columns, schema=TASK_SCHEMA))


class Encode:
    """What an actor of Ray Data does with a batch: columns `path` and perhaps `bytes` to features."""

    def __init__(self, model: ModelSettings) -> None:
        limit_threads(1)
        self.encoder = make_encoder(model, 1)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if "bytes" in batch.column_names:
            held = batch["bytes"].to_pylist()
            task = chunk([content_hash(data) for data in held], None, held)
        else:
            task = chunk(batch["content_hash"].to_pylist(), batch["path"].to_pylist())
        result = self.encoder.encode_chunk(task)
        return pa.table({"features": list(result.features)})


def on_workers(model: ModelSettings, pictures: Pictures, workers: int) -> Iterator[int]:
    """Images in each result of the workers of `psp-ray featurize`."""
    from psp_ray.actors.runtime import RayRuntime

    config = Config()
    runtime = config.runtime.model_copy(update={"workers": workers, "threads": 1})
    engine = RayRuntime(config.model_copy(update={"model": model, "runtime": runtime}))
    spans = (slice(at, at + CHUNK_SIZE) for at in range(0, len(pictures.paths), CHUNK_SIZE))
    tasks = (chunk(pictures.hashes[span], pictures.paths[span], index=span.start) for span in spans)
    try:
        for result in engine.map_chunks(tasks):
            yield result.encodings
    finally:
        engine.close()


def on_data(model: ModelSettings, pictures: Pictures, workers: int, *, read: bool) -> Iterator[int]:
    """Images in each result of Ray Data; `read`: which reads the files too."""
    import ray.data

    ray.init(address="local", include_dashboard=False, num_cpus=workers, log_to_driver=False)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        if read:
            source = ray.data.read_binary_files(pictures.paths, include_paths=True)
        else:
            n = len(pictures.paths)
            source = ray.data.from_arrow([pictures.table(at, at + CHUNK_SIZE) for at in range(0, n, CHUNK_SIZE)])
        encoded = source.map_batches(
            Encode,
            fn_constructor_args=(model,),
            batch_size=CHUNK_SIZE,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1 if not read else 0.5,  # whoever reads needs a share too
        )
        for batch in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield len(batch)
    finally:
        ray.shutdown()


ENGINES: dict[str, Callable[[ModelSettings, Pictures, int], Iterable[int]]] = {
    "workers": on_workers,
    "data": lambda model, pictures, workers: on_data(model, pictures, workers, read=False),
    "data-bytes": lambda model, pictures, workers: on_data(model, pictures, workers, read=True),
}


class Worked:
    """Seconds that this process and all that it started have worked, those included that have ended since they were
    last looked at."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}

    def __call__(self) -> float:
        parents: dict[int, int] = {}
        ticks: dict[int, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(") ")[2].split()
            except OSError:  # it has just ended
                continue
            pid = int(stat.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
        mine = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
            mine |= more
        self._known.update({pid: ticks[pid] / os.sysconf("SC_CLK_TCK") for pid in mine})
        return sum(self._known.values())


def measure(results: Iterable[int]) -> dict[str, float]:
    """Images a second from the first result to the last, milliseconds of work for each, and seconds to the first."""
    worked, start = Worked(), time.perf_counter()
    first: tuple[float, float] | None = None
    count, last = 0, (0.0, 0.0)
    for images in results:
        last = time.perf_counter(), worked()
        if first is None:
            first = last
        else:
            count += images
    assert first is not None, "no result at all"
    clock, work = last[0] - first[0], last[1] - first[1]
    return {
        "images_per_second": count / max(clock, 1e-9),
        "cpu_ms": 1e3 * work / max(count, 1),
        "first_s": first[0] - start,
    }


def tower_alone(encoder: ChunkEncoder, repeats: int = 12) -> float:
    """Milliseconds of work an image, on ready pixels: the fastest pass."""
    height, width = encoder.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 256, (encoder.batch_size, height, width, 3), dtype=np.uint8)
    encoder.run_tower(pixels)
    fastest = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        encoder.run_tower(pixels)
        fastest = min(fastest, time.process_time() - start)
    return 1e3 * fastest / len(pixels)


def decoders() -> dict[str, Callable[[bytes, tuple[int, int]], Image.Image]]:
    """By name, those that are installed: bytes and the tower's size to an RGB image."""
    found: dict[str, Callable[[bytes, tuple[int, int]], Image.Image]] = {
        "Pillow (as it is)": lambda data, _: decode(data)
    }

    def draft(data: bytes, size: tuple[int, int]) -> Image.Image:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", size)
        return image.convert("RGB")

    found["Pillow, draft mode"] = draft
    try:
        import torch
        from torchvision.io import decode_jpeg

        def by_torchvision(data: bytes, _: tuple[int, int]) -> Image.Image:
            raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return Image.fromarray(decode_jpeg(raw).permute(1, 2, 0).contiguous().numpy())

        found["torchvision"] = by_torchvision
    except ImportError:
        pass
    try:
        import simplejpeg

        found["simplejpeg (libjpeg-turbo)"] = lambda data, _: Image.fromarray(simplejpeg.decode_jpeg(data))
    except ImportError:
        pass
    try:
        import pyvips

        found["pyvips"] = lambda data, _: Image.fromarray(pyvips.Image.new_from_buffer(data, "").numpy())
    except (ImportError, OSError):
        pass
    return found


def compare_decoders(
    how: Preprocessing, kinds: dict[str, list[bytes]], repeats: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """By kind of picture and decoder: milliseconds of work an image, the tower's view included, and by how much its
    pixels differ from Pillow's on average. The decoders take turns, the fastest pass counts."""
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for kind, pictures in kinds.items():
        known = decoders()
        fastest = dict.fromkeys(known, float("inf"))
        for _ in range(repeats):
            for name, opened in known.items():
                start = time.process_time()
                for data in pictures:
                    center_view(opened(data, how.size), how)
                fastest[name] = min(fastest[name], time.process_time() - start)
        shown = {
            name: np.stack([center_view(opened(data, how.size), how) for data in pictures[:20]]).astype(np.int16)
            for name, opened in known.items()
        }
        reference = shown["Pillow (as it is)"]
        table[kind] = {
            name: (1e3 * fastest[name] / len(pictures), float(np.abs(shown[name] - reference).mean())) for name in known
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where the pictures lie")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--image-size", type=int, help="of the tower; less than its own leaves more to the engine")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--repeats", type=int, default=5, help="passes of the decoders")
    options = parser.parse_args()
    limit_threads(1)
    model = Config().model.model_copy(update={"image_size": options.image_size})
    pictures = write_pictures(Path(options.folder), options.images)
    encoder = make_encoder(model, 1)
    alone = tower_alone(encoder)
    kinds = {
        "128 to 192 px": [Path(path).read_bytes() for path in pictures.paths[:200]],
        f"{LARGER[0]} x {LARGER[1]} px": [picture(number, *LARGER) for number in range(60)],
    }
    print(f"tower alone: {alone:.2f} ms an image, {1e3 / alone:.0f} images/s a core ({backbone_spec(model).model})")
    table = compare_decoders(encoder.preprocessing, kinds, options.repeats)
    for kind, rows in table.items():
        for name, (cost, off) in rows.items():
            ratio = rows["Pillow (as it is)"][0] / cost
            print(f"decode, {kind:14s} {name:28s} {cost:6.2f} ms {ratio:5.2f} x  pixels off by {off:.2f}")
    found = {}
    for name in options.engines:
        found[name] = measure(ENGINES[name](model, pictures, options.workers))
        row = found[name]
        print(
            f"engine {name:11s} {row['images_per_second']:7.1f} images/s, {row['cpu_ms']:.2f} ms of work an image "
            f"({alone / row['cpu_ms']:.2f} of it the tower), first result after {row['first_s']:.1f} s",
            flush=True,
        )
    print(json.dumps({"benchmark": "featurize_engines", "tower_ms": alone, "engines": found, "decoders": table}))


if __name__ == "__main__":
    main()
