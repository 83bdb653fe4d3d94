"""Settings of what a run leaves behind."""

from __future__ import annotations

from pydantic import Field

from psp_ray.config.base import Settings


class OutputSettings(Settings):
    """The output folder and its copy."""

    out: str | None = Field(None, description="output folder; default: runs/DATASET-STRATEGY-seedN")
    resume: bool = Field(False, description="continue the run in the output folder, or start it")
    storage: str | None = Field(
        None,
        description="folder or URI (s3://, gs://, ...) that keeps a copy of the run and its features for all nodes",
    )
    pictures: bool = Field(True, description="draw learning_curve.png and calibration.png at the end")
