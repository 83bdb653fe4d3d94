"""What commands cost that only look, over `python -c pass`. Goal: at most 1.0 s of CPU each, on cores that are free.

CPU seconds (user and system) of the whole process and its largest memory, median of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from psp_ray.labels import GroundTruthAnnotator, Oracle
from psp_ray.run.folder import open_out
from psp_ray.run.resolve import resolve
from tests.data.made import save

METER = """
import os, resource, subprocess, sys
subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
"""A process counts the memory of who started it before it became itself: a small one starts it."""


def cost(words: list[str], folder: Path) -> tuple[float, float]:
    """(CPU seconds, MiB) of `python WORDS` in `folder`."""
    command = [sys.executable, "-c", METER, sys.executable, *words]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    seconds, memory = map(float, told.split())
    return seconds, memory


def world(folder: Path) -> dict[str, list[str]]:
    """Pictures, a run whose table has a typo, and a ledger in `folder`; the commands by what they are called here."""
    (folder / "photos").mkdir()
    for number in range(24):
        save(folder / "photos" / f"{number:02d}.png", number)
    settings = {"dataset": str(folder / "photos"), "classes": "cat,dog", "oracle": "file"}
    out = folder / "run"
    open_out(resolve(settings | {"out": str(out)}), out)
    (out / "round_01").mkdir()
    (out / "round_01" / "query.csv").write_text("sample_id,label\n00.png,cat\n01.png,dgo\n")
    Oracle(folder / "ledger.sqlite", GroundTruthAnnotator({}), ["cat", "dog"]).close()
    program = ["-m", "psp_ray.main"]
    commands = {
        "--help": "--help",
        "run --help": "run --help",
        "run --dry-run": "run --dry-run",
        "check-data": "check-data --dataset photos --classes cat,dog",
        "continue, with a typo": "continue run",
        "oracle status": "oracle status --ledger ledger.sqlite",
    }
    return {"python -c pass": ["-c", "pass"], **{name: program + text.split() for name, text in commands.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path])
    ratios, bare = {}, 0.0
    with tempfile.TemporaryDirectory() as name:
        os.environ["PSP_RAY_CACHE"] = f"{name}/cache"
        for command, words in world(Path(name)).items():
            cost(words, Path(name))  # compiles, and fills the caches of the disk
            found = [cost(words, Path(name)) for _ in range(arguments.repeats)]
            seconds, memory = (statistics.median(one) for one in zip(*found, strict=True))
            bare = bare or seconds
            ratios[command] = seconds / bare
            print(f"{command:24}{seconds:7.2f} s CPU{memory:7.0f} MiB{seconds / bare:7.0f} x python")
    print(json.dumps({"benchmark": "small_commands", "bare_seconds": bare, "ratios": ratios}))


if __name__ == "__main__":
    main()
