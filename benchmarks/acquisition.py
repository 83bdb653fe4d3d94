"""Seconds and peak memory of one proposal, strategy by strategy, relative to `entropy` in the same run.

    python -m benchmarks.acquisition [--n 10000,100000 --classes 200 --dim 512 --strategies entropy,badge,...]

Each measurement is a process of its own with one thread; the features are a memory-mapped file. It proposes C of n
samples with C labels known (a second round). Memory is the peak beyond what the imports take, pages of the file
included. `badge+pcb` chooses n / 10 candidates first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.sampler_memory import FilePool, megabytes
from psp_ray.acquisition import create, strategy_names
from psp_ray.core.records import BLOCK_SIZE, PoolState, TextState

FIRST = ["entropy", "random"]


def child(options: argparse.Namespace) -> dict[str, float]:
    """Build the strategy and propose once."""
    import sklearn.cluster  # noqa: F401

    from psp_ray.core.threads import limit_threads
    from psp_ray.policy import sampling  # noqa: F401

    limit_threads(1)
    if options.strategy.startswith("vssp"):
        import numba  # noqa: F401

        from psp_ray.policy import sac, softdtw  # noqa: F401
    features = np.load(options.file, mmap_mode="r")
    n, dim = features.shape
    rng = np.random.default_rng(0)
    text = rng.normal(size=(options.classes, dim)).astype(np.float32)
    text = text / np.linalg.norm(text, axis=1, keepdims=True)
    labeled = np.sort(rng.choice(n, options.classes, replace=False))
    state = PoolState(
        round=2,
        seed=0,
        n_query=options.classes,
        n_classes=options.classes,
        text=TextState(text, 100.0),
        unlabeled=np.setdiff1d(np.arange(n), labeled),
        labeled=labeled,
        labels=rng.integers(options.classes, size=len(labeled)).astype(np.int32),
    )
    strategy = create(options.strategy, FilePool(features))
    before = megabytes()
    start = time.perf_counter()
    strategy.propose(state)
    return {"seconds": time.perf_counter() - start, "mb": megabytes() - before}


def write_features(file: Path, n: int, dim: int, classes: int) -> None:
    """Clusters with a large common part, as CLIP features have."""
    rng = np.random.default_rng(0)
    centers = 0.05 * rng.normal(size=(2 * classes, dim)).astype(np.float32)
    out = np.lib.format.open_memmap(file, "w+", np.float16, (n, dim))
    for low in range(0, n, BLOCK_SIZE):
        m = min(BLOCK_SIZE, n - low)
        rows = 0.06 + centers[rng.integers(len(centers), size=m)] + 0.03 * rng.normal(size=(m, dim))
        out[low : low + m] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    out.flush()


def measure(file: Path, strategy: str, options: argparse.Namespace) -> dict[str, float] | None:
    command = [sys.executable, "-m", "benchmarks.acquisition", f"--file={file}", f"--strategy={strategy}"]
    try:
        done = subprocess.run(
            [*command, f"--classes={options.classes}"], capture_output=True, text=True, timeout=options.timeout
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        raise SystemExit(f"{strategy}: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", default="10000,100000", help="pool sizes")
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--strategies", help="default: all but vssp, and badge+pcb")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one proposal")
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--strategy", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file:
        print(json.dumps(child(options)))
        return
    names = [name for name in strategy_names() if name != "vssp"] + ["badge+pcb"]
    names = options.strategies.split(",") if options.strategies else names
    names = [*FIRST, *(name for name in names if name not in FIRST)]
    print(f"{options.classes} classes, {options.classes} queries, {options.classes} labels, width {options.dim}")
    for n in map(int, options.n.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "features.npy"
            write_features(file, n, options.dim, options.classes)
            dense = n * options.classes * options.dim * 4 / 2**20
            print(f"\nn = {n:,} (a dense gradient embedding would take {dense:,.0f} MB)")
            print(f"{'strategy':<14}{'seconds':>10}{'x entropy':>11}{'MB':>9}{'x entropy':>11}")
            base: dict[str, float] = {}
            for name in names:
                found = measure(file, name, options)
                if found is None:
                    print(f"{name:<14}{'> ' + format(options.timeout, '.0f'):>10}", flush=True)
                    continue
                base = base or found
                print(
                    f"{name:<14}{found['seconds']:>10.2f}{found['seconds'] / base['seconds']:>11.1f}"
                    f"{found['mb']:>9.0f}{found['mb'] / base['mb']:>11.1f}",
                    flush=True,
                )
                print(json.dumps({"benchmark": "acquisition", "n": n, "strategy": name, **found}), file=sys.stderr)


if __name__ == "__main__":
    main()
