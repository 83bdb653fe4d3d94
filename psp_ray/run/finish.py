"""The end of a run: the final prompts are judged, probabilities calibrated, and predictions written."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from psp_ray.config.config import Config
from psp_ray.core.answers import IGNORE
from psp_ray.core.probability import softmax
from psp_ray.core.records import Float32Array, Float64Array
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.features.tower import backbone_spec
from psp_ray.posterior.accuracy import pooled_estimate, pooled_weights, share_of_none
from psp_ray.posterior.calibration import Calibration, calibrate, reliability
from psp_ray.report.curve import plot_calibration
from psp_ray.run.loop import Experiment
from psp_ray.run.output import write_curve, write_pool_predictions
from psp_ray.run.prompts import PROMPTS, save_prompts
from psp_ray.run.state import PoolNames, RunState

FOLDS = 4
"""Parts of the cross-fitting where there is no test set."""
ENOUGH = 50
"""Labels that a temperature is fitted to, where so many are there: the latest ones come first."""


def finish(
    config: Config,
    data: FeaturizedDataset,
    experiment: Experiment,
    state: RunState,
    out: Path,
    backbone: dict[str, Any],
) -> tuple[RunState, dict[str, Any]]:
    """Write predictions, prompts and pictures; returns the state with the last round judged, and what the summary says
    beside the rounds."""
    names = experiment.context.names
    n_pool = len(names.sample_ids)
    has_test = state.zero_shot is not None
    count = (0 if has_test else FOLDS) if config.labels.estimate_folds is None else config.labels.estimate_folds
    judged = experiment.crossfit(state, count) if count >= 2 else None
    if judged is not None:
        estimate = pooled_estimate(state.audit, judged, n_pool)
        state = state.with_last_report(replace(state.reports[-1], pool_accuracy_estimate=estimate))
    logits, weights = _unseen(state, judged, n_pool)
    calibration = calibrate(logits, np.maximum(state.answers, 0), weights)
    _write_predictions(data, experiment, state, out, calibration.temperature)
    save_prompts(
        out / PROMPTS,
        state.text,
        state.contexts,
        names.classes,
        backbone,
        backbone_spec(config.model),
        {"dataset": config.data.dataset, "strategy": config.policy.shown_strategy, "config": config.identity()},
        calibration.temperature,
    )
    write_curve(out, config, state)
    _draw_calibration(config, experiment, state, out, calibration, logits, weights)
    none = share_of_none(state.audit, n_pool) if (state.answers == IGNORE).any() else None
    return state, {"calibration": asdict(calibration), "share_of_no_class": None if none is None else none.as_dict()}


def _unseen(state: RunState, judged: Float32Array | None, n_pool: int) -> tuple[Float64Array, Float64Array]:
    """Logits (m, C) to prompts that had not seen the answer, and weights (m,), 0 where there are none.

    From cross-fitting where that was done; else of each round's teacher, the latest rounds first. Where a strategy's
    probabilities are unknown all labels weigh the same.
    """
    cosines = state.cosines if judged is None else judged
    usable = (state.answers >= 0) & (state.asked_in > 0) & np.isfinite(cosines).all(axis=1)
    weights, _ = pooled_weights(state.audit, n_pool)
    weights = np.where(usable, weights, 0.0)
    if not weights.any():
        weights = usable.astype(np.float64)
    if judged is None:
        for number in range(state.round, 0, -1):
            if (weights[state.asked_in >= number] > 0).sum() >= ENOUGH:
                weights[state.asked_in < number] = 0.0
                break
    return state.text.logit_scale * np.nan_to_num(cosines.astype(np.float64)), weights


def _write_predictions(
    data: FeaturizedDataset, experiment: Experiment, state: RunState, out: Path, temperature: float
) -> None:
    predicted = experiment.context.components.learner.predict_pool(state.text, temperature, state.pseudo).result()
    write_pool_predictions(
        out,
        state,
        experiment.context.names,
        data.dataset.pool["path"].to_pylist(),
        predicted["class_index"].to_numpy(),
        predicted["probability"].to_numpy(),
    )


def _draw_calibration(
    config: Config,
    experiment: Experiment,
    state: RunState,
    out: Path,
    calibration: Calibration,
    logits: Float64Array,
    weights: Float64Array,
) -> None:
    rows = weights > 0
    curves = {}
    if rows.any():
        correct = (logits[rows].argmax(axis=1) == state.answers[rows]).astype(np.float64)
        for name, temperature in (("labels, as it was", 1.0), ("labels, calibrated", calibration.temperature)):
            chance = softmax(logits[rows] / temperature).max(axis=1)
            curves[name] = reliability(chance, correct, weights[rows])
    learner = experiment.context.components.learner
    table = learner.evaluation_confidence(state.text, calibration.temperature).result()
    if table.num_rows:
        tested = reliability(table["confidence"].to_numpy(), table["correct"].to_numpy())
        curves[f"{config.data.evaluate_on}, calibrated"] = tested
    title = f"{Path(config.data.dataset).name} · T = {calibration.temperature:.2f} from {calibration.n} labels"
    plot_calibration(out / "calibration.png", curves, title)


def pool_names(data: FeaturizedDataset) -> PoolNames:
    return PoolNames(data.sample_ids, data.content_hashes, list(data.dataset.classes))
