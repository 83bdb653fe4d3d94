"""A run's state as a checkpoint, and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from psp_ray.core.errors import OutputError
from psp_ray.core.records import Evaluation, Float32Array, PseudoLabels, StateDict, TextState
from psp_ray.report.round_report import RoundReport, estimate_from_json
from psp_ray.run.checkpoint import Checkpoint
from psp_ray.run.crossfitted import CrossFitted
from psp_ray.run.state import PoolNames, RunState


def to_checkpoint(
    state: RunState, names: PoolNames, experiment_id: str, sampler: StateDict, learner: StateDict
) -> Checkpoint:
    """Everything that `from_checkpoint` and the components `sampler` and `learner` need to go on."""
    prompt: StateDict = {
        "text_features": state.text.features,
        "logit_scale": np.asarray(state.text.logit_scale, np.float64),
        "bias": state.text.offset,
        "contexts": state.contexts,
        "logits": state.logits,
    }
    labels = {
        "position": state.asked,
        "label": state.answers,
        "log_prob": state.log_prob,
        "round": state.asked_in,
        "by_chance": state.by_chance,
    }
    pseudo = {
        "position": state.pseudo.positions,
        "label": state.pseudo.labels,
        "confidence": state.pseudo.confidence,
        "uncertainty": state.pseudo.uncertainty,
    }
    tables = {"labels": pa.table(labels), "pseudo": pa.table(pseudo)}
    if state.updates:
        tables["policy"] = pa.concat_tables(state.updates, promote_options="default")
    record = {
        "experiment_id": experiment_id,
        "zero_shot": None if state.zero_shot is None else asdict(state.zero_shot),
        "last": None if state.last is None else asdict(state.last),
        "rows": [report.as_json() for report in state.reports],
        "labels_paid": state.labels_paid,
        "zero_shot_estimate": None if state.zero_shot_estimate is None else state.zero_shot_estimate.as_dict(),
        "stopped": state.stopped,
        "wall_seconds": state.wall_seconds,
        "n_pool": len(names.sample_ids),
        "pool": names.fingerprint,
    }
    tensors = {"sampler": sampler, "learner": learner, "prompt": prompt, "judged": state.judged.state_dict()}
    return Checkpoint(state.round, record, tensors, tables)


def from_checkpoint(checkpoint: Checkpoint, names: PoolNames, out: Path) -> RunState:
    """The state in a checkpoint of the run in `out`.

    Raises:
        OutputError: of another pool than `names`, or of another version of psp-ray.
    """
    _check_pool(checkpoint.state, names, out)
    return state_of(checkpoint, out)


def state_of(checkpoint: Checkpoint, out: Path) -> RunState:
    """The same for who only looks: whether the pool is still what it was is not asked."""
    try:
        return _restored(checkpoint)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise OutputError(
            f"{out}: another version of psp-ray wrote the checkpoint ({reason}); go on with that version, or start in "
            "a new --out folder: labels in the same --ledger are not paid again"
        ) from None


def _check_pool(record: dict[str, Any], names: PoolNames, out: Path) -> None:
    if record.get("n_pool") != len(names.sample_ids):
        raise OutputError(
            f"{out}: the checkpoint saw {record.get('n_pool')} pool images, now there are "
            f"{len(names.sample_ids)}; restore the data or start in a new --out folder"
        )
    if record.get("pool", names.fingerprint) != names.fingerprint:
        raise OutputError(
            f"{out}: images or classes of the pool are not those that the checkpoint knows (renamed, replaced "
            "or changed files?); restore them, or start in a new --out folder with --initial-labels"
        )


def _restored(checkpoint: Checkpoint) -> RunState:
    record, tables = checkpoint.state, checkpoint.tables
    prompt, labels, pseudo = checkpoint.tensors["prompt"], tables["labels"], tables["pseudo"]
    estimate = record["zero_shot_estimate"]
    return RunState(
        text=TextState(prompt["text_features"], float(prompt["logit_scale"]), _bias(prompt.get("bias"))),
        contexts=prompt["contexts"],
        zero_shot=_evaluation(record["zero_shot"]),
        last=_evaluation(record["last"]),
        asked=labels["position"].to_numpy(),
        answers=labels["label"].to_numpy(),
        log_prob=labels["log_prob"].to_numpy(),
        asked_in=labels["round"].to_numpy(),
        by_chance=labels["by_chance"].to_numpy(zero_copy_only=False),
        logits=prompt["logits"],
        judged=CrossFitted.restored(checkpoint.tensors["judged"]),
        pseudo=PseudoLabels(
            pseudo["position"].to_numpy(),
            pseudo["label"].to_numpy(),
            pseudo["confidence"].to_numpy(),
            pseudo["uncertainty"].to_numpy(),
        ),
        reports=tuple(RoundReport.from_json(row) for row in record["rows"]),
        updates=(tables["policy"],) if "policy" in tables else (),
        labels_paid=record["labels_paid"],
        zero_shot_estimate=None if estimate is None else estimate_from_json(estimate),
        stopped=record["stopped"],
        wall_seconds=record["wall_seconds"],
    )


def _bias(stored: Float32Array | None) -> Float32Array | None:
    """None for prompts, which have none: the same bits as before they were saved."""
    return stored if stored is not None and stored.any() else None


def _evaluation(stored: dict[str, Any] | None) -> Evaluation | None:
    """None where there were no images to evaluate on (older checkpoints say so by a count of 0)."""
    return None if stored is None or not stored["n"] else Evaluation(**stored)
