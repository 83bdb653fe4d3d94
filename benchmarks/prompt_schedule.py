"""The short learning schedules against the literal one of PCB (`--protocol pcb`) at few labels, on validation data.

    python -m benchmarks.prompt_schedule --data-root FOLDER [--shots 1 2 4 8] [--seeds 3] [--set KEY=VALUE ...]

Draws `shots` labels per class from the training part of RSSCN7 and ten classes of DTD, learns a prompt with the
settings of `psp` and of `psp-paper` and under PCB's protocol (no pseudo-labels), and reports accuracy on `val`, the
mean over seeds; `test` is never read. Features are encoded once and kept in `--cache`. `--set` changes settings of
`psp`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from psp_ray.clip import Backbone, BackboneSpec, load_backbone
from psp_ray.config.base import replace
from psp_ray.core.records import FeatureBlock, Float16Array, Int32Array, Int64Array, LearnRequest, PseudoLabels
from psp_ray.learn import LearnSettings, PromptLearner, evaluate

DATASETS = {
    "rsscn7": ("rsscn7/images", "rsscn7/split_rsscn7.json"),
    "dtd10": ("dtd/images", "dtd/split_dtd10.json"),
}


class Rows:
    """The labeled features of one draw, as a pool of one block."""

    def __init__(self, features: Float16Array):
        self.features = features
        self.n, self.dim = features.shape
        self.n_views, self.n_blocks, self.block_size = 0, 1, len(self.features)

    def block(self, index: int, *, views: bool = False) -> FeatureBlock:
        return FeatureBlock(index, 0, np.arange(self.n, dtype=np.uint64), self.features)

    def rows(self, positions: Int64Array) -> Float16Array:
        return self.features[positions]


def encode(backbone: Backbone, folder: Path, rows: list[Any], batch: int = 64) -> Float16Array:
    """Features (n, d) of the images of a split."""
    assert backbone.image is not None
    transform = backbone.preprocessing.transform()
    parts = []
    for start in range(0, len(rows), batch):
        images = torch.stack([transform(Image.open(folder / row[0])) for row in rows[start : start + batch]])
        parts.append(backbone.image.encode(images, normalized=True).numpy().astype(np.float16))
    return np.concatenate(parts)


def load(backbone: Backbone, root: Path, name: str, cache: Path) -> dict[str, Any]:
    """Class names, and features and labels of `train` and `val`."""
    folder, split = DATASETS[name]
    document = json.loads((root / split).read_text())
    names = dict(sorted((int(row[1]), row[2]) for part in ("train", "val") for row in document[part]))
    key = f"{backbone.weights_hash} {backbone.preprocessing} {hashlib.blake2b(repr(document).encode()).hexdigest()}"
    file = cache / f"{name}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.npz"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{part: encode(backbone, root / folder, document[part]) for part in ("train", "val")})
    features = np.load(file)
    data: dict[str, Any] = {"names": list(names.values())}
    for part in ("train", "val"):
        data[part] = features[part]
        data[f"{part}_labels"] = np.array([row[1] for row in document[part]], np.int32)
    return data


def few(labels: Int32Array, shots: int, seed: int) -> Int64Array:
    """`shots` rows of each class."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def one_run(
    backbone: Backbone, data: dict[str, Any], settings: LearnSettings, shots: int, seed: int, threads: int
) -> tuple[float, float]:
    """(accuracy on val, seconds of learning) of one draw."""
    assert backbone.text is not None
    chosen = few(data["train_labels"], shots, seed)
    learner = PromptLearner(
        backbone.text, data["names"], Rows(data["train"][chosen]), settings, seed=seed, threads=threads
    )
    teacher = learner.zero_shot()
    everyone = np.arange(len(chosen), dtype=np.int64)
    labels = data["train_labels"][chosen]
    begin = time.perf_counter()
    outcome = learner.learn(LearnRequest(1, everyone, labels, len(chosen), PseudoLabels.empty(), teacher))
    seconds = time.perf_counter() - begin
    return evaluate(outcome.text, [data["val"]], data["val_labels"]).accuracy, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="psp-lite")
    parser.add_argument("--checkpoint")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "psp-ray-prompt-schedule")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of psp to change")
    options = parser.parse_args()
    changes = {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in options.set)}
    base = LearnSettings()
    literal = {"protocol": "pcb", "context_length": 16, "context_init": "random"}
    paper = {**literal, "protocol": "short", "learning_steps": 300, "learning_rate": 0.002, "weight_decay": 0.0}
    protocols = {
        "psp": replace(base, **changes),
        "psp-paper": replace(base, **paper),
        "pcb": replace(base, **literal),
    }
    backbone = load_backbone(BackboneSpec(options.model, options.checkpoint))
    report: dict[str, Any] = {}
    for name in DATASETS:
        data = load(backbone, options.data_root, name, options.cache)
        for shots in options.shots:
            row = {}
            for protocol, settings in protocols.items():
                runs = [one_run(backbone, data, settings, shots, s, options.threads) for s in range(options.seeds)]
                row[protocol] = (float(np.mean([r[0] for r in runs])), float(np.mean([r[1] for r in runs])))
            report[f"{name}/{shots}"] = row
            shown = "   ".join(f"{p} {100 * a:5.1f} % in {s:5.1f} s" for p, (a, s) in row.items())
            print(f"{name:7s} {shots:2d} labels a class   {shown}", flush=True)
    means = {name: float(np.mean([row[name][0] for row in report.values()])) for name in protocols}
    for name in ("psp", "psp-paper"):
        print(f"the short schedule of {name}: {100 * (means[name] - means['pcb']):+.1f} points over pcb on average")
    print(json.dumps({"benchmark": "prompt_schedule", "mean_accuracy": means, "runs": report}))


if __name__ == "__main__":
    main()
