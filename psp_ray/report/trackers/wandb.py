"""Weights & Biases: its own variables (WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY, ...) say where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psp_ray.report.tracking import PROJECT, TRACKERS, Tracked, Tracker, needed


class WandbRun(Tracked):
    """A run of wandb."""

    def __init__(self, run: Any):
        self._run, self.id = run, str(run.id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"round": step, **metrics}, step=step)

    def attach(self, file: Path) -> None:
        self._run.save(str(file), base_path=str(file.parent), policy="now")

    def end(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


@TRACKERS.register("wandb", source="wandb.ai")
class Wandb(Tracker):
    """Weights & Biases; children of a comparison or a sweep share its group."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._wandb = needed("wandb", "wandb")

    def open(
        self, name: str, settings: Mapping[str, Any], *, known: str | None = None, parent: Tracked | None = None
    ) -> Tracked:
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(self.folder),
            name=name,
            config=dict(settings),
            id=known,
            group=None if parent is None else parent.id,
            resume="allow" if known is not None else None,
            reinit="create_new",
        )
        return WandbRun(run)
