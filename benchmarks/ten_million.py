"""A whole round over 10,000 to 10,000,000 made-up embeddings of 1,000 classes: seconds and memory, stage by stage.

    python -m benchmarks.ten_million --folder FOLDER [--sizes 1e4,1e5,1e6,1e7] [--rounds 2] [--threads 2]
        [--classes 1000 --dim 256] [--set KEY=VALUE ...]

Embeddings lie in clusters around their class's center; class sizes fall like a power of their rank, and the class
embeddings are the centers with noise, a teacher that is right on about half of the images. The same seed makes the same
files. They are written to FOLDER once, in half precision, and read memory-mapped.

Every size is a process of its own. Stages: what a round of `psp` does, with the program's own components (the policy's
update included; prompts are not learned, the head is in closed form). Memory is what the process holds of its own
(`RssAnon`): pages of the mapped file come and go with the file cache. A table in Markdown is printed. Seconds are those
that processors worked, over all threads: what a busy machine makes of them stands under `wall`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sampler_memory import FilePool
from psp_ray.core.records import Float16Array, Float32Array, Int32Array, TextState

TEST = 5_000
"""Images of the test part."""
PART = 1 << 16
"""Rows that are made at a time."""
CLUSTERS = 3
"""Clusters a class."""


@dataclass(frozen=True)
class World:
    """What a seed makes: `centers` (C, clusters, d), `shares` (C,) of the classes, and the `teacher`'s (C, d)."""

    centers: Float32Array
    shares: np.ndarray
    teacher: Float32Array
    noise: float

    @classmethod
    def make(
        cls,
        classes: int,
        dim: int,
        *,
        seed: int = 0,
        noise: float = 2.0,
        teacher_noise: float = 2.0,
        power: float = 0.5,
    ) -> World:
        """Centers of clusters of length about 1, a common part in all of them, and class sizes of rank^-power."""
        rng = np.random.default_rng([seed, classes, dim])
        scale = np.float32(1 / np.sqrt(dim))
        common = rng.standard_normal(dim, np.float32) * scale
        mean = rng.standard_normal((classes, dim), np.float32) * scale
        around = rng.standard_normal((classes, CLUSTERS, dim), np.float32) * scale
        shares = np.arange(1, classes + 1) ** -power
        teacher = mean + common + teacher_noise * rng.standard_normal((classes, dim), np.float32) * scale
        teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
        return cls(mean[:, None] + 0.6 * around + common, shares / shares.sum(), teacher, noise)

    def rows(self, number: int, count: int, seed: int = 0) -> tuple[Float16Array, Int32Array]:
        """Part `number`: embeddings (count, d) of length 1, and their classes (count,)."""
        classes, _, dim = self.centers.shape
        rng = np.random.default_rng([seed, number, 1])
        labels = rng.choice(classes, count, p=self.shares).astype(np.int32)
        rows = rng.standard_normal((count, dim), np.float32)
        rows *= np.float32(self.noise / np.sqrt(dim))
        rows += self.centers[labels, rng.integers(CLUSTERS, size=count)]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows.astype(np.float16), labels


def write(folder: Path, world: World, n: int, seed: int = 0) -> tuple[Path, Path]:
    """Embeddings and labels of `n` pool images and then the test part, as two .npy files; made once."""
    dim = world.centers.shape[2]
    base = folder / f"{n}-{len(world.shares)}-{dim}-{seed}"
    features, labels = Path(f"{base}.features.npy"), Path(f"{base}.labels.npy")
    if labels.exists():
        return features, labels
    folder.mkdir(parents=True, exist_ok=True)
    out = np.lib.format.open_memmap(features, "w+", np.float16, (n + TEST, dim))
    truth = np.empty(n + TEST, np.int32)
    for number, at in enumerate(range(0, n + TEST, PART)):
        count = min(PART, n + TEST - at)
        out[at : at + count], truth[at : at + count] = world.rows(number, count, seed)
    out.flush()
    np.save(labels, truth)
    return features, labels


@dataclass
class Meter:
    """Seconds, and the most memory of its own (MB) that the process held, by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    worked: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        over = threading.Event()
        top = [own_megabytes()]

        def watch() -> None:
            while not over.wait(0.01):
                top[0] = max(top[0], own_megabytes())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        start, worked = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.worked[name] = self.worked.get(name, 0.0) + time.process_time() - worked
            over.set()
            watcher.join()
            self.peak[name] = max(self.peak.get(name, 0.0), top[0], own_megabytes())


def own_megabytes() -> float:
    """What the process holds beside mapped files."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    return 0.0


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Play rounds over one pool, and say what every stage took."""
    from psp_ray.acquisition import create
    from psp_ray.config.config import Config
    from psp_ray.core.records import Feedback, LearnRequest, PoolState
    from psp_ray.core.threads import limit_threads
    from psp_ray.learn.evaluate import evaluate
    from psp_ray.learn.student import Student
    from psp_ray.selftrain.records import KnownLabels, ScoreRequest
    from psp_ray.selftrain.service import PseudoLabeler

    limit_threads(options.threads)
    n = int(float(options.sizes))
    settings = dict(pair.split("=", 1) for pair in options.set)
    config = Config(**{"strategy": "vssp", "seed": options.seed, **settings})
    world = World.make(options.classes, options.dim, seed=options.seed)
    files = write(Path(options.folder), world, n, options.seed)
    meters, accuracy = [], []
    opened = Meter()
    with opened.stage("open"):
        features, truth = np.load(files[0], mmap_mode="r"), np.load(files[1])
        pool, test = FilePool(features[:n]), np.array(features[n:])
        teacher = TextState(world.teacher, 20.0)
        sampler = create("vssp", pool, config.policy)
        labeler, student = (
            PseudoLabeler(pool, config.selftrain),
            Student(pool, config.learn, teacher, seed=options.seed),
        )
    text, known, doubt = teacher, KnownLabels.none(), None
    accuracy.append(evaluate(teacher, [test], truth[n:]).accuracy)
    for number in range(1, options.rounds + 1):
        meter = Meter()
        meters.append(meter)
        with meter.stage("neighbors"):
            labeler.score(ScoreRequest(number, teacher, np.arange(n)))
        with meter.stage("doubt"):
            doubt = labeler.doubt(teacher, known) if number > 1 else None
        unlabeled = np.setdiff1d(np.arange(n), known.positions)
        state = PoolState(
            number,
            options.seed,
            options.classes,
            options.classes,
            text,
            unlabeled,
            known.positions,
            known.labels,
            doubt,
        )
        with meter.stage("plan"):
            sampler.view(state)
        with meter.stage("draw"):
            proposal = sampler.propose(state)
        positions = np.concatenate([known.positions, proposal.positions])
        rounds = np.concatenate([known.rounds, np.full(len(proposal.positions), number)])
        known = KnownLabels(positions, truth[positions], rounds)
        with meter.stage("pseudo-labels"):
            scores = labeler.score(ScoreRequest(number, teacher, unlabeled))
            pseudo = labeler.select(scores, known, proposal.positions)
        with meter.stage("posterior"):
            soft = labeler.soft_labels(teacher, known, config.learn.head_folds)
        with meter.stage("head"):
            request = LearnRequest(
                number, positions, known.labels, len(proposal.positions), pseudo, text, soft.soft, soft.held_out
            )
            outcome = student.learn(request)
        left = np.setdiff1d(unlabeled, proposal.positions)
        labels = truth[proposal.positions]
        with meter.stage("update"):
            sampler.observe(Feedback(state, proposal, labels, outcome, left, number == options.rounds))
        text = outcome.text
        with meter.stage("predictions"):
            accuracy.append(evaluate(text, (pool.block(i) for i in range(pool.n_blocks)), truth[:n]).accuracy)
        right = float(np.mean(truth[pseudo.positions] == pseudo.labels)) if len(pseudo.positions) else float("nan")
        worked = sum(meter.worked.values())
        print(
            f"{n:,} images, round {number}: {worked:.0f} CPU s, accuracy {accuracy[-1]:.3f}, "
            f"{len(pseudo.positions):,} pseudo-labels, {right:.3f} right",
            file=sys.stderr,
        )
    return {
        "n": n,
        "accuracy": accuracy,
        "open": vars(opened),
        "rounds": [vars(meter) for meter in meters],
        "peak_mb": max(max(meter.peak.values()) for meter in meters),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where the made-up embeddings lie")
    parser.add_argument("--sizes", default="1e4,1e5,1e6", help="images, with commas; 10,000,000 take 5.2 GB of disk")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the program")
    for name, default in (("classes", 1000), ("dim", 256), ("rounds", 2), ("threads", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options)))
        return
    found = []
    for size in options.sizes.split(","):
        arguments = [f"--{name}={getattr(options, name)}" for name in ("folder", "classes", "dim", "rounds", "seed")]
        arguments += [f"--threads={options.threads}", f"--sizes={size}", "--child", *(["--set", *options.set])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        command = [sys.executable, "-m", "benchmarks.ten_million", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(table(found), flush=True)


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a line a stage, seconds of work (all threads) in the first and the last round, and the memory."""
    heads = [f"{item['n']:,} {what}" for item in found for what in ("first", "last")]
    lines = [f"| CPU seconds | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    lines += [
        _line(stage, [item["rounds"][at]["worked"][stage] for item in found for at in (0, -1)], 1)
        for stage in found[0]["rounds"][0]["worked"]
    ]
    lines.append(_line("all", [sum(item["rounds"][at]["worked"].values()) for item in found for at in (0, -1)], 1))
    lines.append(_line("wall", [sum(item["rounds"][at]["seconds"].values()) for item in found for at in (0, -1)], 1))
    peaks = [max(item["rounds"][at]["peak"].values()) for item in found for at in (0, -1)]
    lines.append(_line("most memory, MB", peaks, 0))
    accuracy = [100 * item["accuracy"][at] for item in found for at in (1, -1)]
    return "\n".join([*lines, _line("accuracy, %", accuracy, 1)])


def _line(name: str, values: list[float], digits: int) -> str:
    return f"| {name} | {' | '.join(f'{value:,.{digits}f}' for value in values)} |"


if __name__ == "__main__":
    main()
