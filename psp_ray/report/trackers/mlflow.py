"""MLflow, by its client: where MLFLOW_TRACKING_URI says, else in `mlruns` of the current folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psp_ray.report.tracking import PROJECT, TRACKERS, Tracked, Tracker, needed

LONGEST = 500
"""Characters of a parameter that every store of MLflow takes."""
PER_BATCH = 100
"""Parameters that it takes at once."""


class MlflowRun(Tracked):
    """An MLflow run."""

    def __init__(self, client: Any, entities: Any, run_id: str):
        self._client, self._entities, self.id = client, entities, run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        values = [self._entities.Metric(key, value, now, step) for key, value in metrics.items()]
        self._client.log_batch(self.id, metrics=values)

    def attach(self, file: Path) -> None:
        self._client.log_artifact(self.id, str(file))

    def end(self, finished: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


@TRACKERS.register("mlflow", source="mlflow.org")
class Mlflow(Tracker):
    """MLflow's tracking: a server, a database, or files in `mlruns`."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        # Files have no server to keep up to date; newer versions want to be told that they are meant.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        needed("mlflow", "mlflow")
        tracking = needed("mlflow.tracking", "mlflow")
        self._entities = needed("mlflow.entities", "mlflow")
        where = os.environ.get("MLFLOW_TRACKING_URI") or (Path.cwd() / "mlruns").as_uri()
        self._client = tracking.MlflowClient(tracking_uri=where)

    def open(
        self, name: str, settings: Mapping[str, Any], *, known: str | None = None, parent: Tracked | None = None
    ) -> Tracked:
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            return MlflowRun(self._client, self._entities, known)
        tags = {"mlflow.runName": name} | ({} if parent is None else {"mlflow.parentRunId": parent.id})
        run_id = self._client.create_run(self._experiment(), tags=tags).info.run_id
        values = [self._entities.Param(key, str(value)[:LONGEST]) for key, value in settings.items()]
        for start in range(0, len(values), PER_BATCH):
            self._client.log_batch(run_id, params=values[start : start + PER_BATCH])
        return MlflowRun(self._client, self._entities, run_id)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))
