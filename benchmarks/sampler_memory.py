"""Peak memory of the sampler: propose and observe over a large pool, beyond what its imports take.

    python -m benchmarks.sampler_memory [--n 100000 --classes 196 --dim 512 --rounds 2 --pool file|memory]

Each measurement is a process of its own (`ru_maxrss`). With `--pool file` the features are a memory-mapped file, as in
a run, and its pages count where they are touched; `memory` holds them in the process. Goal at the defaults: 1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from psp_ray.core.noise import sample_keys
from psp_ray.core.records import (
    BLOCK_SIZE,
    FeatureBlock,
    Feedback,
    Float16Array,
    Int64Array,
    LearnOutcome,
    PoolState,
    TextState,
)


class FilePool:
    """A pool over features (n, d) on disk or in memory, without views; `names` of its samples, else their numbers."""

    n_views = 0

    def __init__(self, features: Float16Array, names: Sequence[str] | None = None) -> None:
        self.features = features
        self.n, self.dim = features.shape
        self.n_blocks, self.block_size = -(-self.n // BLOCK_SIZE), BLOCK_SIZE
        self.keys = sample_keys(map(str, range(self.n)) if names is None else names)

    def block(self, index: int, *, views: bool = False) -> FeatureBlock:
        low = index * BLOCK_SIZE
        return FeatureBlock(index, low, self.keys[low : low + BLOCK_SIZE], self.features[low : low + BLOCK_SIZE])

    def rows(self, positions: Int64Array) -> Float16Array:
        return np.asarray(self.features[positions])


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


def child(options: argparse.Namespace) -> dict[str, float]:
    """Build the strategy, run the rounds, and tell the peak before and after."""
    import numba  # noqa: F401
    import torch

    from psp_ray.acquisition.vssp import VSSP
    from psp_ray.policy import sac, softdtw  # noqa: F401

    torch.set_num_threads(1)
    baseline = megabytes()
    features = np.load(options.file, mmap_mode="r" if options.pool == "file" else None)
    rng = np.random.default_rng(0)
    text = rng.normal(size=(options.classes, options.dim)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    strategy = VSSP(FilePool(features))
    unlabeled = np.arange(options.n)
    labeled, labels = np.zeros(0, np.int64), np.zeros(0, np.int32)
    seconds = {"propose": 0.0, "observe": 0.0}
    for number in range(1, options.rounds + 1):
        state = PoolState(
            number, 0, options.classes, options.classes, TextState(text, 100.0), unlabeled, labeled, labels
        )
        start = time.perf_counter()
        proposal = strategy.propose(state)
        seconds["propose"] += time.perf_counter() - start
        answers = rng.integers(options.classes, size=options.classes).astype(np.int32)
        gap = rng.uniform(0, 0.1, options.classes).astype(np.float32)
        none = np.zeros(0, np.float32)
        outcome = LearnOutcome(TextState(text, 100.0), np.zeros((1, 1), np.float32), gap, none, gap, none, 0.0, 1, 0)
        unlabeled = np.setdiff1d(unlabeled, proposal.positions)
        labeled, labels = np.concatenate([labeled, proposal.positions]), np.concatenate([labels, answers])
        start = time.perf_counter()
        strategy.observe(Feedback(state, proposal, answers, outcome, unlabeled, False))
        seconds["observe"] += time.perf_counter() - start
    strategy.state_dict()
    return {"imports_mb": baseline, "peak_mb": megabytes(), **{f"{k}_seconds": v for k, v in seconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("n", 100_000), ("classes", 196), ("dim", 512), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--pool", choices=["file", "memory"], default="memory")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file:
        print(json.dumps(child(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy"
        features = np.lib.format.open_memmap(file, "w+", np.float16, (options.n, options.dim))
        rng = np.random.default_rng(0)
        for low in range(0, options.n, BLOCK_SIZE):
            rows = rng.normal(size=(min(BLOCK_SIZE, options.n - low), options.dim)) + 1.0
            features[low : low + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        features.flush()
        arguments = [f"--{k}={v}" for k, v in vars(options).items() if k != "file"]
        command = [sys.executable, "-m", "benchmarks.sampler_memory", *arguments, f"--file={file}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    over = found["peak_mb"] - found["imports_mb"]
    dense = options.n * options.classes * options.dim * 4 / 2**20
    print(f"pool: {options.n} samples, {options.classes} classes, width {options.dim}, features in {options.pool}")
    print(f"{'imports':<34}{found['imports_mb']:>10.0f} MB")
    print(f"{'peak':<34}{found['peak_mb']:>10.0f} MB")
    print(f"{'peak over imports':<34}{over:>10.0f} MB (goal 1536)")
    print(f"{'a dense gradient embedding':<34}{dense:>10.0f} MB ({dense / over:.0f} x)")
    seconds = {name: found[f"{name}_seconds"] / options.rounds for name in ("propose", "observe")}
    print(f"seconds a round: propose {seconds['propose']:.1f}, observe {seconds['observe']:.1f}")
    record = {"benchmark": "sampler_memory", "over_imports_mb": round(over, 1), "goal_met": over <= 1536}
    print(json.dumps({**record, **{k: round(v, 2) for k, v in found.items()}}))


if __name__ == "__main__":
    main()
