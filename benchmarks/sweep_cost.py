"""What a sweep over embeddings costs: five data sets, so many trials, as a user starts it.

    python -m benchmarks.sweep_cost --features FOLDER/clip-vit-b32 --out FOLDER [--trials 32] [--classes 10]
        [-- --scheduler asha --grace-rounds 1 ...]

The data sets are those of `docs/studies/frozen.yaml`: DTD and Oxford Pets, each with a strong and a weak teacher, and
Caltech-101 with a strong one. A sweep judges by `val`, so that every second test image becomes one. `--classes 10`
keeps the first ten classes (of Caltech-101 the largest ten). What follows `--` goes to `psp-ray sweep`. Seconds are
those that processors worked, of the program, its Ray and all trials together; a table in Markdown is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from psp_ray.studies.sweep.plan import DONE, load_trials

SETS = {
    "dtd": ("dtd", "published"),
    "dtd-weak": ("dtd", "weak"),
    "pets": ("oxford_pets", "published"),
    "pets-weak": ("oxford_pets", "weak"),
    "caltech101": ("caltech101", "published"),
}
LOGIT_SCALE = 100
TICK = 1.0
MARK = "PSP_RAY_BENCHMARK"


@dataclass(frozen=True)
class Embedded:
    """A data set of embeddings and the embeddings of its classes."""

    table: Path
    classes: Path


def prepare(features: Path, folder: Path, most_classes: int | None) -> list[Embedded]:
    """The five data sets in `folder`, with every second test image as one of `val`; made once."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, (source, teacher) in SETS.items():
        own = Embedded(folder / f"{name}.parquet", folder / f"{name}-classes.parquet")
        found.append(own)
        if own.classes.exists():
            continue
        table = pq.read_table(features / f"{source}.parquet")
        parts, tests = table["part"].to_pylist(), 0
        for row, part in enumerate(parts):
            if part == "test":
                parts[row], tests = ("val", "test")[tests % 2], tests + 1
        table = table.set_column(table.schema.get_field_index("part"), "part", pa.array(parts))
        classes = pq.read_table(features / f"{source}-classes-{teacher}.parquet")
        if most_classes is not None:
            counts = Counter(table["label"].to_pylist())
            ordered = sorted(counts, key=lambda name: (-counts[name] if source == "caltech101" else 0, name))
            kept = pa.array(ordered[:most_classes])
            table = table.filter(pc.is_in(table["label"], value_set=kept))
            classes = classes.filter(pc.is_in(classes["class"], value_set=kept))
        pq.write_table(table, own.table)
        pq.write_table(classes, own.classes)
    return found


def command_of(sets: list[Embedded], out: Path, trials: int, more: list[str]) -> list[str]:
    """The sweep as it is typed."""
    command = [sys.executable, "-m", "psp_ray", "sweep", "--datasets", ",".join(str(one.table) for one in sets)]
    command += ["--set", f"logit_scale={LOGIT_SCALE}"]
    for one in sets:
        command += ["--set", f"{one.table.name}:class_embeddings={one.classes}"]
    return [*command, "--num-samples", str(trials), "--out", str(out), *more]


class Meter:
    """Processor seconds of all processes that carry a mark in their environment, those that have ended included."""

    def __init__(self, mark: str) -> None:
        self._mark = f"{MARK}={mark}".encode()
        self._seconds: dict[tuple[str, str], float] = {}
        self._ticks = os.sysconf("SC_CLK_TCK")

    def look(self) -> float:
        """Seconds so far; to be called more often than processes end."""
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                key = (entry, fields[19])
                if key in self._seconds or self._mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                    self._seconds[key] = (int(fields[11]) + int(fields[12])) / self._ticks
            except (OSError, IndexError):
                continue
        return sum(self._seconds.values())


def main(words: list[str]) -> int:
    """Prepare, sweep, tell what it cost; returns the sweep's exit code."""
    own, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--classes", type=int)
    options = parser.parse_args(own)
    sets = prepare(options.features, options.out / "data", options.classes)
    out = options.out / "sweep"
    before = sum(len(trial.rounds) for trial in load_trials(out))
    mark = f"{os.getpid()}-{time.time_ns()}"
    meter, started, prepared = Meter(mark), time.perf_counter(), None
    process = subprocess.Popen(
        command_of(sets, out, options.trials, more), env={**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"}
    )
    while process.poll() is None:
        worked = meter.look()
        if prepared is None and any((out / "trials").glob("*")):
            prepared = worked
        time.sleep(TICK)
    worked, trials = meter.look(), load_trials(out)
    rounds = sum(len(trial.rounds) for trial in trials) - before
    done = sum(trial.status in DONE for trial in trials)
    print(
        "\n| trials done | rounds of all five | CPU s until the first trial | CPU s in all | a round | s by the clock |"
    )
    print("|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {done} | {rounds} | {prepared or worked:.0f} | {worked:.0f} | "
        f"{(worked - (prepared or worked)) / max(rounds, 1):.1f} | {time.perf_counter() - started:.0f} |"
    )
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
