"""The end of a run: the final prompts are judged, probabilities calibrated, and predictions written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.config.config import Config
from psp_ray.core.answers import IGNORE
from psp_ray.core.probability import softmax
from psp_ray.core.words import counted
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.features.tower import backbone_spec
from psp_ray.posterior.accuracy import share_of_none
from psp_ray.posterior.calibration import (
    Calibration,
    Reliability,
    Unseen,
    calibrate,
    caution,
    reliability,
    unseen_logits,
)
from psp_ray.report.curve import plot_calibration
from psp_ray.run.context import RunContext
from psp_ray.run.folder import PROMPTS
from psp_ray.run.output import write_curve, write_pool_predictions
from psp_ray.run.prompts import save_prompts
from psp_ray.run.state import PoolNames, RunState


def finish(
    config: Config,
    data: FeaturizedDataset,
    run: RunContext,
    state: RunState,
    out: Path,
    backbone: dict[str, Any],
) -> dict[str, Any]:
    """Write predictions, prompts and pictures; returns what the summary says beside the rounds."""
    answers = run.answers(state)
    unseen = unseen_logits(answers, state.judged.logits)
    calibration = calibrate(unseen)
    _write_predictions(data, run, state, out, calibration.temperature)
    save_prompts(
        out / PROMPTS,
        state.text,
        state.contexts,
        run.names.classes,
        backbone,
        backbone_spec(config.model),
        {"dataset": config.data.dataset, "strategy": config.policy.shown_strategy, "config": config.identity()},
        calibration,
    )
    if config.output.pictures:
        write_curve(out, config, state)
        _draw_calibration(config, run, state, out, calibration, unseen)
    none = share_of_none(answers) if (state.answers == IGNORE).any() else None
    return {"calibration": calibration.as_dict(), "share_of_no_class": None if none is None else none.as_dict()}


def _write_predictions(
    data: FeaturizedDataset, run: RunContext, state: RunState, out: Path, temperature: float
) -> None:
    predicted = run.components.learner.predict_pool(state.text, temperature, state.pseudo).result()
    write_pool_predictions(
        out,
        state,
        run.names,
        data.dataset.pool["path"],
        predicted["class_index"].to_numpy(),
        predicted["probability"].to_numpy(),
    )


def _draw_calibration(
    config: Config,
    run: RunContext,
    state: RunState,
    out: Path,
    calibration: Calibration,
    unseen: Unseen,
) -> None:
    curves = label_curves(unseen, calibration.temperature) if len(unseen.labels) else {}
    table = run.components.learner.evaluation_confidence(state.text, calibration.temperature).result()
    if table.num_rows:
        tested = reliability(table["confidence"].to_numpy(), table["correct"].to_numpy())
        curves[f"{config.data.evaluate_on}, calibrated"] = tested
    title = (
        f"{Path(config.data.dataset).name} · T = {calibration.temperature:.2f} from {counted(calibration.n, 'label')}"
    )
    title += " (a guess)" if caution(calibration.n) else ""
    plot_calibration(out / "calibration.png", curves, title)


def label_curves(unseen: Unseen, temperature: float) -> dict[str, Reliability]:
    """Reliability on labels that the classifier had not seen, as it was and at `temperature`."""
    right = (unseen.logits.argmax(axis=1) == unseen.labels).astype(np.float64)
    return {
        name: reliability(softmax(unseen.logits / divisor).max(axis=1), right)
        for name, divisor in (("labels, as it was", 1.0), ("labels, calibrated", temperature))
    }


def pool_names(data: FeaturizedDataset) -> PoolNames:
    return PoolNames(data.sample_ids, data.content_hashes, list(data.dataset.classes), data.pool.keys)
