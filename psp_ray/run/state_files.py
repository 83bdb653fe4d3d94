"""A run's state as a checkpoint, and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, TypeAdapter

from psp_ray.core.errors import OutputError
from psp_ray.core.records import Evaluation, Grounds, PseudoLabels, StateDict, TextState
from psp_ray.core.sealed import Document
from psp_ray.core.words import counted
from psp_ray.report.round_report import RoundReport, estimate_from_json
from psp_ray.run.checkpoint import Checkpoint
from psp_ray.run.crossfitted import CrossFitted
from psp_ray.run.moved_pool import Remembered, moved
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
        "sample_id": pa.array(names.named(state.asked), pa.string()),
        "content_hash": pa.array(names.hashed(state.asked), pa.string()),
        "position": state.asked,
        "label": state.answers,
        "log_prob": state.log_prob,
        "round": state.asked_in,
        "by_chance": state.by_chance,
        **asdict(state.grounds),
    }
    pseudo = {
        "sample_id": pa.array(names.named(state.pseudo.positions), pa.string()),
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
        "classes": names.classes,
    }
    tensors = {"sampler": sampler, "learner": learner, "prompt": prompt, "judged": state.judged.state_dict()}
    return Checkpoint(state.round, record, tensors, tables)


class Evaluated(Document):
    """An `Evaluation` in JSON."""

    accuracy: float
    macro_accuracy: float
    n: int


class CheckpointRecord(Document):
    """`state.json` of a checkpoint."""

    experiment_id: str
    zero_shot: Evaluated | None
    last: Evaluated | None
    rows: list[dict[str, Any]]
    labels_paid: int = Field(ge=0)
    zero_shot_estimate: dict[str, Any] | None
    stopped: str
    wall_seconds: float = Field(ge=0)
    n_pool: int
    pool: str = ""
    classes: list[str] | None = None


@dataclass(frozen=True)
class Restored:
    """A state out of a checkpoint; `moved`: the pool is another one now, `change` says what of it in words;
    `more_classes`: how many were added since, of which its classifier knows nothing."""

    state: RunState
    moved: bool = False
    change: str = ""
    more_classes: int = 0


_REPORT = TypeAdapter(RoundReport)


def from_checkpoint(checkpoint: Checkpoint, names: PoolNames, out: Path) -> Restored:
    """The state in a checkpoint of the run in `out`, for the pool of `names`, which may have changed since, and its
    classes, which may have been renamed and become more.

    Raises:
        OutputError: fewer classes; a pool that changed in a way which needs the user; another version of psp-ray.
    """
    record, state = recorded(checkpoint, out)
    count = state.text.features.shape[0]
    more = len(names.classes) - count
    if more < 0:
        raise OutputError(
            f"{out}: {count} classes in its checkpoint, {len(names.classes)} now; restore the classes, or start in a "
            f"new --out folder with --initial-labels {out / 'labels.parquet'}"
        )
    state = state.with_classes(more)
    renamed = PoolNames(names.sample_ids, names.content_hashes, record.classes or names.classes)
    if record.n_pool == len(names.sample_ids) and record.pool in ("", renamed.fingerprint):
        return Restored(state, more_classes=more)
    labels, pseudo = checkpoint.tables["labels"], checkpoint.tables["pseudo"]
    if "sample_id" not in labels.column_names:
        raise OutputError(
            f"{out}: the pool is not the one that the checkpoint knows, which an older psp-ray wrote; restore the "
            "data, or start in a new --out folder with --initial-labels"
        )
    known = Remembered(labels["sample_id"].to_pylist(), labels["content_hash"].to_pylist())
    state, change = moved(state, known, Remembered(pseudo["sample_id"].to_pylist(), ()), names, out)
    grown = len(names.sample_ids) - record.n_pool
    size = f"{counted(abs(grown), 'image')} {'more' if grown > 0 else 'fewer'}" if grown else "other images"
    return Restored(state, True, "; ".join(part for part in (size, change) if part), more)


def recorded(checkpoint: Checkpoint, out: Path) -> tuple[CheckpointRecord, RunState]:
    """What a checkpoint says by itself, for whatever pool it was: that is enough for who only looks.

    Raises:
        OutputError: another version of psp-ray wrote it.
    """
    try:
        record = CheckpointRecord.model_validate(checkpoint.state)
        state = _restored(checkpoint)
        for report in state.reports:
            _REPORT.validate_python(report.as_json())
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:160]
        raise OutputError(
            f"{out}: another version of psp-ray wrote the checkpoint ({reason}); go on with that version, or start in "
            "a new --out folder: labels in the same --ledger are not paid again"
        ) from None
    return record, state


def _restored(checkpoint: Checkpoint) -> RunState:
    record, tables = checkpoint.state, checkpoint.tables
    prompt, labels, pseudo = checkpoint.tensors["prompt"], tables["labels"], tables["pseudo"]
    estimate = record["zero_shot_estimate"]
    return RunState(
        text=classifier(prompt),
        contexts=prompt["contexts"],
        zero_shot=_evaluation(record["zero_shot"]),
        last=_evaluation(record["last"]),
        asked=labels["position"].to_numpy(),
        answers=labels["label"].to_numpy(),
        log_prob=labels["log_prob"].to_numpy(),
        asked_in=labels["round"].to_numpy(),
        by_chance=labels["by_chance"].to_numpy(zero_copy_only=False),
        logits=prompt["logits"],
        grounds=_grounds(labels),
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


def _grounds(labels: pa.Table) -> Grounds:
    """Why each was asked; older checkpoints don't say."""
    unknown = np.full(labels.num_rows, np.nan)
    names = [field.name for field in fields(Grounds)]
    return Grounds(*(labels[name].to_numpy() if name in labels.column_names else unknown for name in names))


def classifier(prompt: StateDict) -> TextState:
    """The classifier in a checkpoint's tensors of `prompt`; prompts have no bias, as before they were saved."""
    bias = prompt.get("bias")
    return TextState(
        prompt["text_features"], float(prompt["logit_scale"]), bias if bias is not None and bias.any() else None
    )


def _evaluation(stored: dict[str, Any] | None) -> Evaluation | None:
    """None where there were no images to evaluate on (older checkpoints say so by a count of 0)."""
    return None if stored is None or not stored["n"] else Evaluation(**stored)
