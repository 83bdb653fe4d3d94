"""TensorBoard, by tensorboardX: event files in `tensorboard/` of the output folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psp_ray.report.tracking import TRACKERS, Tracked, Tracker, needed

FOLDER = "tensorboard"


class TensorboardRun(Tracked):
    """A folder of event files."""

    def __init__(self, writer: Any, place: str):
        self._writer, self.id = writer, place

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def attach(self, file: Path) -> None:
        """Event files hold no files; pictures and pages stay in the output folder."""

    def end(self, finished: bool) -> None:
        self._writer.close()


@TRACKERS.register("tensorboard", source="tensorboard.dev, tensorboardX")
class Tensorboard(Tracker):
    """Event files for `tensorboard --logdir DIR/tensorboard`, a folder for each run."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._writers = needed("tensorboardX", "tensorboard")

    def open(
        self, name: str, settings: Mapping[str, Any], *, known: str | None = None, parent: Tracked | None = None
    ) -> Tracked:
        place = known or name
        logdir = str(self.folder / FOLDER / place)
        # Files are named by the second: one that goes on at once must not write over the one before.
        writer = self._writers.SummaryWriter(logdir=logdir, filename_suffix=f".{time.time_ns()}")
        if known is None:
            lines = [f"    {key}: {value}" for key, value in settings.items()]
            writer.add_text("settings", "\n".join(lines))
        return TensorboardRun(writer, place)
