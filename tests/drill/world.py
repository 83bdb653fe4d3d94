"""What is drilled: a small world, and what a run in it comes to."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

ROUNDS = 3
TABLES = ("labels", "picks", "policy", "pool_predictions")


@dataclass
class World:
    """A folder of pictures, a model, a warm cache, and what an undisturbed run makes of them."""

    root: Path
    data: Path
    model: str
    table: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def cases(self) -> int:
        return sum(self.table.values())

    def options(self, out: Path, *more: str) -> list[str]:
        given = {
            "dataset": self.data,
            "model": self.model,
            "cache": self.root / "cache",
            "rounds": ROUNDS,
            "labels-per-round": 3,
            "learning-steps": 3,
            "update-steps": 2,
            "views": 2,
            "confidence-min": 0.0,
            "uncertainty-max": 1.0,
            "runner": "inline",
            "threads": 1,
            "out": out,
        }
        return [*(word for key, value in given.items() for word in (f"--{key}", str(value))), *more]

    def note(self, fault: str, stage: str, outcome: str, what: str = "") -> None:
        self.table[fault, stage, outcome] += 1
        if outcome.isupper():
            self.failures.append(f"{fault}, {stage}: {what}")

    def show(self) -> str:
        lines = [f"{'fault':14}{'stage':46}{'outcome':12}{'count':>7}"]
        rows = sorted(self.table.items())
        lines += [f"{fault:14}{stage:46}{outcome:12}{count:>7,}" for (fault, stage, outcome), count in rows]
        bad = sum(count for (_, _, outcome), count in self.table.items() if outcome.isupper())
        return "\n".join([*lines, f"{self.cases():,} cases, {bad:,} of them bad"])


def make_world(root: Path) -> World:
    """Pictures, a tiny model and a warm cache below `root`."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from tests.conftest import COLORS, TINY, paint

    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        for number in range(12):
            paint(root / "data" / name / f"{number:02d}.png", color, rng)
    torch.manual_seed(0)
    folder = root / "model"
    folder.mkdir()
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = open_clip.model.CLIP(embed_dim=24, vision_cfg=TINY["vision_cfg"], text_cfg=TINY["text_cfg"])
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    world = World(root, root / "data", f"local-dir:{folder}")
    from psp_ray.cli.main import main

    try:  # in this process: what is imported and compiled now, no case pays for
        main(world.options(root / "warm"))
    except SystemExit as end:
        if end.code:
            raise
    return world


def result_of(out: Path):
    """All that a run computed, without times and where; None where it has not finished."""
    try:
        summary = json.loads((out / "summary.json").read_text())
    except (OSError, ValueError):
        return None
    if summary.get("status") != "finished":
        return None
    for key in ("wall_seconds", "versions", "runner"):
        summary.pop(key, None)
    for row in summary["rounds"]:
        row.pop("seconds", None)
        row.pop("wall_seconds", None)
    try:
        tables = [pq.read_table(out / f"{name}.parquet").to_pydict() for name in TABLES]
        return repr(summary), repr(tables), (out / "prompts.safetensors").read_bytes()
    except (OSError, ValueError):  # "finished", but with a file gone or damaged
        return None


def told(output: str) -> str:
    """What a failed command said: one line, or not."""
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    return "one line" if len(lines) == 1 and "Traceback" not in output else "TRACEBACK"
