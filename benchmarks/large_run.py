"""`psp-ray run` as a user starts it, over made-up embeddings of 10,000 to 10,000,000 images: seconds and memory.

    python -m benchmarks.large_run --folder FOLDER [--sizes 1e4,1e5,1e6] [--classes 100 --dim 64] [--rounds 3]
        [--runner inline] [--set --shards=2 ...]

A table of embeddings (Parquet, half precision, with names, classes and parts) and one of class embeddings are made as
`benchmarks.ten_million` makes its files, once; then the program runs over them in a process of its own. Memory is what
it and all its children hold of their own (`RssAnon`) at the same time: pages of mapped files come and go with the file
cache. Seconds are those that processors worked. A table in Markdown is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.ten_million import PART, TEST, World
from psp_ray.core.files import write_json
from psp_ray.features.segments import half_lists
from psp_ray.run.checkpoint import latest_round

TICK = 1.0


def write_tables(folder: Path, n: int, classes: int, dim: int, seed: int = 0) -> tuple[Path, Path]:
    """A table of `n` pool images and then the test part, and one of class embeddings; made once."""
    world = World.make(classes, dim, seed=seed)
    base = folder / f"{n}-{classes}-{dim}-{seed}"
    table, teacher = Path(f"{base}.parquet"), folder / f"classes-{classes}-{dim}-{seed}.parquet"
    names = pa.array([f"kind {number:04d}" for number in range(classes)])
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {b"logit_scale": b"20.0"}
    rows = pa.table({"class": names, "embedding": list(world.teacher)})
    pq.write_table(rows.replace_schema_metadata(metadata), teacher)
    if table.exists():
        return table, teacher
    fields = [("sample_id", pa.string()), ("part", pa.string()), ("label", pa.string())]
    schema = pa.schema([*fields, ("embedding", pa.list_(pa.float16(), dim))])
    aside = table.with_suffix(".tmp")
    with pq.ParquetWriter(aside, schema) as writer:
        for number, at in enumerate(range(0, n + TEST, PART)):
            count = min(PART, n + TEST - at)
            vectors, labels = world.rows(number, count, seed)
            ids = pa.array([f"img-{row:08d}" for row in range(at, at + count)])
            parts = pa.array(["pool" if row < n else "test" for row in range(at, at + count)])
            writer.write_table(pa.table([ids, parts, names.take(pa.array(labels)), half_lists(vectors)], schema=schema))
    aside.rename(table)
    return table, teacher


def own_bytes(process: int) -> dict[int, int]:
    """`RssAnon` of a process and all below it, by process."""
    parents: dict[int, int] = {}
    own: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/status") as status:
                lines = dict(line.split(":", 1) for line in status)
        except OSError:
            continue
        parents[int(entry)] = int(lines["PPid"])
        own[int(entry)] = int(lines.get("RssAnon", "0").split()[0]) * 1024
    below = {process}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return {one: own.get(one, 0) for one in below}


def measured(command: list[str], environment: dict[str, str], done: Callable[[], int]) -> dict[str, Any]:
    """Run a command; seconds of wall and of processors, the most memory at any time, together and of one process, and
    together while `done` tells a number of rounds: 0, 1, 2, ..."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    together = alone = 0
    by_round: dict[int, int] = {}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None:
        now = own_bytes(process.pid)
        together, alone, rounds = max(together, sum(now.values())), max(alone, *now.values()), done()
        by_round[rounds] = max(by_round.get(rounds, 0), sum(now.values()))
        time.sleep(TICK)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"wall": time.perf_counter() - start, "worked": worked, "code": process.returncode}
    found |= {"together_mb": together / 2**20, "alone_mb": alone / 2**20}
    return found | {"by_round_mb": [by_round[rounds] / 2**20 for rounds in sorted(by_round)]}


def run(options: argparse.Namespace, n: int) -> dict[str, Any]:
    """One run; what `measured` says, with the seconds of its rounds."""
    folder = Path(options.folder)
    table, teacher = write_tables(folder, n, options.classes, options.dim, options.seed)
    out = folder / f"run-{n}-{options.classes}-{options.dim}-{options.runner}{options.name}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "psp_ray", "run", "--dataset", str(table), "--class-embeddings", str(teacher)]
    command += ["--out", str(out), "--cache", str(folder / "cache"), "--runner", options.runner]
    command += ["--rounds", str(options.rounds), "--threads", str(options.threads), *options.set]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}

    def done() -> int:
        return latest_round(out / "checkpoints")

    found = measured(command, environment, done) | {"n": n}
    if found["code"]:
        raise SystemExit(found["code"])
    summary = json.loads((out / "summary.json").read_text())
    found |= {"rounds": [row["wall_seconds"] for row in summary["rounds"]], "accuracy": summary["final_accuracy"]}
    write_json(folder / f"{out.name}.json", found)
    return found


def table_of(found: list[dict[str, Any]]) -> str:
    """Markdown: a line a size."""
    lines = ["| images | wall s | CPU s | s a round | most memory, MB | of one process | by round |", "|---:" * 7 + "|"]
    for item in found:
        rounds = " / ".join(f"{seconds:.1f}" for seconds in item["rounds"])
        by_round = " / ".join(f"{megabytes:,.0f}" for megabytes in item["by_round_mb"])
        memory = f"{item['together_mb']:,.0f} | {item['alone_mb']:,.0f} | {by_round}"
        lines.append(f"| {item['n']:,} | {item['wall']:.0f} | {item['worked']:.0f} | {rounds} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="where tables, feature cache and runs lie")
    parser.add_argument("--sizes", default="1e4,1e5", help="images, with commas; 10,000,000 take 5 GB of disk")
    parser.add_argument("--runner", default="inline", choices=("inline", "ray"))
    parser.add_argument("--name", default="", help="behind the run folder's name")
    for name, default in (("classes", 100), ("dim", 64), ("rounds", 3), ("threads", 1), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--set", nargs=argparse.REMAINDER, default=[], help="more options of psp-ray run")
    options = parser.parse_args()
    print(table_of([run(options, int(float(size))) for size in options.sizes.split(",")]))


if __name__ == "__main__":
    main()
