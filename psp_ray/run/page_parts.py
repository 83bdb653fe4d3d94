"""What the page of a run shows of images, features and predictions."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from psp_ray.core import noise
from psp_ray.core.probability import softmax
from psp_ray.core.records import Float16Array, Float32Array, Int32Array, Int64Array
from psp_ray.core.words import counted
from psp_ray.data.images import ImageError, decode, read_file
from psp_ray.features.featurize import FeaturizedDataset
from psp_ray.learn.evaluate import similarities
from psp_ray.posterior.audit import Answers
from psp_ray.posterior.calibration import FEWEST, Reliability, calibrate, reliability, unseen_logits
from psp_ray.report.figures import PoolMap
from psp_ray.report.looking import Plane, confusion, moves
from psp_ray.report.run_page import Change, ClassRow, Confusion, Share
from psp_ray.run.checkpoint import text_after
from psp_ray.run.finish import label_curves
from psp_ray.run.folder import KEPT as CHECKPOINTS
from psp_ray.run.looked_at import LookedAt
from psp_ray.run.state_files import classifier

MOST_PLACES = 4000
"""Images of the pool on the map, drawn by chance; picks are on it in any case."""
MOST_ON_MAP = 24
"""Pictures on the map; more would hide it."""
SIDE = 96
"""Pixels of a picture's longer side."""
BINS = ((0.0, 0.6), (0.6, 0.8), (0.8, 0.9), (0.9, 0.97), (0.97, 1.0))
"""Confidence of pseudo-labels, as the page groups it."""
MOST_MOVES = 8


@dataclass
class Pictures:
    """Small pictures of pool images, each made once; kept by who writes the page again and again."""

    made: dict[int, str] = field(default_factory=dict)

    def of(self, data: FeaturizedDataset | None, position: int) -> str:
        """A `data:` URI, or an empty text where there is no picture."""
        if data is None or data.dataset.embeddings is not None:
            return ""
        if position not in self.made:
            self.made[position] = _picture(data, position)
        return self.made[position]


def _picture(data: FeaturizedDataset, position: int) -> str:
    row = data.dataset.pool.slice(position, 1).to_pylist()[0]
    try:
        image = decode(row["image"] if row["path"] is None else read_file(row["path"]))
    except (ImageError, OSError):
        return ""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=72, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True)
class Seen:
    """What the newest classifier sees: `sample` (k,) positions of a part of the pool with `features` (k, d) and
    `predicted` classes (k,);
    `truth` (n,) and `tested` (n, C) logits on the images to evaluate on, where labeled.
    """

    data: FeaturizedDataset
    sample: Int64Array
    features: Float16Array
    predicted: Int64Array
    truth: Int32Array
    tested: Float32Array

    @classmethod
    def of(cls, run: LookedAt) -> Seen | None:
        """None before anything was learned, or without images at hand."""
        data, state = run.data, run.state
        if data is None or state is None:
            return None
        sample = sample_of(data)
        features = data.pool.rows(sample)
        part = data.val if run.config.data.evaluate_on == "val" else data.test
        truth, tested = np.zeros(0, np.int32), np.zeros((0, len(state.text.features)), np.float32)
        if part.n and part.labels is not None and state.zero_shot is not None:
            truth, tested = part.labels, np.float32(state.text.logit_scale) * similarities(state.text, part.load())
        predicted = similarities(state.text, features).argmax(axis=1).astype(np.int64)
        return cls(data, sample, features, predicted, truth, tested)


def sample_of(data: FeaturizedDataset) -> Int64Array:
    """Sorted positions of at most `MOST_PLACES` pool images, the same in every round."""
    n = len(data.sample_ids)
    if n <= MOST_PLACES:
        return np.arange(n, dtype=np.int64)
    draw = noise.uniform(0, "report-sample", data.pool.keys)
    return np.sort(np.argsort(draw, kind="stable")[:MOST_PLACES]).astype(np.int64)


def class_names(run: LookedAt) -> list[str]:
    """As the checkpoint names them, else by number."""
    count = 0 if run.state is None else len(run.state.text.features)
    return run.classes or [f"class {number + 1}" for number in range(count)]


def anchor_of(row: int) -> str:
    """Where the page shows a pick, by its number."""
    return f"pick-{row + 1}"


def map_of(run: LookedAt, seen: Seen, pictures: Pictures) -> PoolMap | None:
    state = run.state
    assert state is not None
    if len(seen.sample) < 3:
        return None
    plane = Plane(seen.features)
    rows = np.flatnonzero(state.asked_in > 0)
    picks = plane.places(seen.data.pool.rows(state.asked[rows])) if len(rows) else np.zeros((0, 2))
    anchors = [anchor_of(row) for row in range(len(rows))]
    rounds = state.asked_in[rows].astype(np.int64)
    last = rounds == state.round
    shown = last & (np.cumsum(last) <= MOST_ON_MAP)
    images = [
        pictures.of(run.data, int(state.asked[row])) if show else "" for row, show in zip(rows, shown, strict=True)
    ]
    return PoolMap(plane.places(seen.features), seen.predicted, picks, rounds, anchors, images)


def classes_of(run: LookedAt, names: list[str], seen: Seen | None) -> list[ClassRow]:
    state = run.state
    if state is None or not state.reports:
        return []
    count = len(names)
    labels = np.bincount(state.labels, minlength=count)
    pseudo = np.bincount(state.pseudo.labels, minlength=count)
    predicted = None if seen is None else np.bincount(seen.predicted, minlength=count) * _scale(seen)
    rows = np.flatnonzero((state.asked_in > 0) & state.has_class)
    truth, hit = state.answers[rows], state.logits[rows].argmax(axis=1) == state.answers[rows]
    found = []
    for number, name in enumerate(names):
        tested = None
        if seen is not None and len(seen.truth):
            mine = seen.truth == number
            tested = Share(int((seen.tested[mine].argmax(axis=1) == number).sum()), int(mine.sum()))
        asked = Share(int(hit[truth == number].sum()), int((truth == number).sum()))
        guessed = None if predicted is None else round(float(predicted[number]))
        found.append(ClassRow(name, int(labels[number]), int(pseudo[number]), guessed, tested, asked))
    return found


def _scale(seen: Seen) -> float:
    return len(seen.data.sample_ids) / max(len(seen.sample), 1)


def confusion_of(run: LookedAt, names: list[str], seen: Seen | None) -> Confusion | None:
    state = run.state
    if state is None or not state.reports:
        return None
    if seen is not None and len(seen.truth):
        source = f"On {counted(len(seen.truth), f'{run.config.data.evaluate_on} image')}."
        return Confusion(names, confusion(seen.truth, seen.tested.argmax(axis=1), len(names)), source)
    rows = np.flatnonzero((state.asked_in > 0) & state.has_class)
    if not len(rows):
        return None
    source = (
        f"On {counted(len(rows), 'label')}, by the classifier of the time, which had not seen "
        "the answers: it was worse then."
    )
    return Confusion(names, confusion(state.answers[rows], state.logits[rows].argmax(axis=1), len(names)), source)


def pseudo_of(run: LookedAt) -> list[tuple[str, Share]]:
    if run.picks is None:
        return []
    table = run.picks
    sure = table["pseudo_confidence"].to_numpy(zero_copy_only=False).astype(np.float64)
    said, answer_ = table["pseudo_label"].to_pylist(), table["label"].to_pylist()
    answers = list(zip(said, answer_, strict=True))
    known = np.array([one is not None and other not in ("skip", "ignore") for one, other in answers], bool)
    right = np.array([one == other for one, other in answers], bool)
    found = []
    for low, high in BINS:
        rows = known & (sure >= low) & ((sure < high) | (high == 1.0))
        if rows.any():
            found.append((f"{100 * low:.0f} to {100 * high:.0f} %", Share(int(right[rows].sum()), int(rows.sum()))))
    return found


def change_of(run: LookedAt, names: list[str], seen: Seen) -> Change | None:
    state = run.state
    assert state is not None
    stored = text_after(run.out / CHECKPOINTS, state.round - 1) if state.round > 1 else None
    if stored is None:
        return None
    before = similarities(classifier(stored), seen.features).argmax(axis=1).astype(np.int64)
    changed = int((before != seen.predicted).sum())
    return Change(changed, len(before), moves(before, seen.predicted, names, MOST_MOVES))


def calibration_of(run: LookedAt, seen: Seen | None) -> tuple[dict[str, Reliability], float | None, int]:
    """Reliability of the probabilities on labels not learned from and on the test set; the temperature, and to how many
    labels it was fitted. Curves of a handful of labels would say nothing, and are left out."""
    state = run.state
    if state is None or not state.reports:
        return {}, None, 0
    order = np.zeros(len(state.asked), np.uint64)  # which of the answers are of the audit was decided when they came
    told = Answers(state.asked, state.answers, state.asked_in, state.by_chance, order, state.logits)
    unseen = unseen_logits(told, state.judged.logits)
    temperature, n = calibrate(unseen).temperature, len(unseen.labels)
    curves = label_curves(unseen, temperature) if n >= FEWEST else {}
    if seen is not None and len(seen.truth):
        right = (seen.tested.argmax(axis=1) == seen.truth).astype(np.float64)
        chance = softmax(seen.tested.astype(np.float64) / temperature).max(axis=1)
        curves[f"{run.config.data.evaluate_on}, calibrated"] = reliability(chance, right)
    return curves, temperature if n else None, n
