"""What a session hands out: query sets, advice, doubted labels. They show themselves in a notebook."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from psp_ray.core.answers import answer_name
from psp_ray.core.records import Float32Array, Int32Array, Int64Array
from psp_ray.core.words import counted
from psp_ray.data.images import ImageError, decode, read_file
from psp_ray.posterior.accuracy import Estimate, telling
from psp_ray.report.round_report import RoundReport

PREVIEW = 96
"""Pixels of a picture's longer side in a notebook."""
SHOWN = 48
"""Pictures of a query set that a notebook shows."""


@dataclass(frozen=True, eq=False)
class QuerySet:
    """Images to be labeled, in the order in which they were chosen.

    `ids` (n,) names; `paths` (n,) files or URLs, None where the data set holds the bytes or embeddings alone;
    `positions` (n,) in the pool; `probabilities` (n, C) float32 of the classes, as far as is known before the answers;
    `by_chance` (n,) whether the audit drew the image; `answers` what is known already, {id: label}.
    """

    round: int
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    paths: tuple[str | None, ...]
    content_hashes: tuple[str, ...]
    positions: Int64Array
    probabilities: Float32Array
    by_chance: np.ndarray
    images: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Encoded pictures of samples without a path."""
    answers: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    @property
    def predicted(self) -> Int32Array:
        """Likeliest class (n,) of each image."""
        found: Int32Array = self.probabilities.argmax(axis=1).astype(np.int32)
        return found

    @property
    def beliefs(self) -> dict[str, tuple[int, float]]:
        """The likeliest class of each image by id, and its probability."""
        chances = self.probabilities.max(axis=1).tolist()
        return dict(zip(self.ids, zip(self.predicted.tolist(), chances, strict=True), strict=True))

    @property
    def suggestions(self) -> list[str]:
        """The likeliest class of each image by name."""
        return [self.classes[i] for i in self.predicted]

    @property
    def open(self) -> list[str]:
        """Those without an answer yet."""
        return [name for name in self.ids if name not in self.answers]

    def _repr_html_(self) -> str:
        cells = []
        chances = self.probabilities.max(axis=1) if len(self) else np.zeros(0)
        for row, (name, path) in enumerate(zip(self.ids[:SHOWN], self.paths, strict=False)):
            label = self.answers.get(name)
            said = f"{self.suggestions[row]}? {100 * chances[row]:.0f} %" if label is None else None
            text = said or f"<b>{html.escape(answer_name(label, self.classes) if label is not None else '')}</b>"
            cells.append(
                f'<figure style="margin:4px;width:{PREVIEW + 16}px">{_preview(path, self.images.get(name))}'
                f'<figcaption style="font-size:11px;overflow-wrap:anywhere">{html.escape(name)}<br>{text}</figcaption>'
                "</figure>"
            )
        more = f"<p>and {len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        return (
            f"<p>Round {self.round}: {counted(len(self), 'image')}, {len(self.open)} to label</p>"
            f'<div style="display:flex;flex-wrap:wrap">{"".join(cells)}</div>{more}'
        )


def _preview(path: str | None, data: bytes | None) -> str:
    """The picture in the page itself; a notebook may be opened elsewhere."""
    try:
        if data is None:
            if path is None:
                return ""
            data = read_file(path)
        picture = decode(data)
    except ImageError as error:
        return f"<p>{html.escape(str(error))}</p>"
    picture.thumbnail((PREVIEW, PREVIEW))
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=80)
    text = base64.b64encode(sink.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{text}" alt="">'


@dataclass(frozen=True)
class Advice:
    """Whether to go on: `stop` where the next rounds are expected to bring little, or a `--stop` criterion is met.

    `gain` and `later`: accuracy (0..1) that the next round, and the next four together, are expected to add; None
    before the third round. `accuracy`: of the classifier on the pool as far as it is known.
    """

    stop: bool
    text: str
    gain: float | None
    later: float | None
    accuracy: Estimate | None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Doubt:
    """A bought label that the evidence without it speaks against.

    `own` and `probability`: of the label, and of `suggestion`, the likeliest class.
    """

    id: str
    path: str | None
    position: int
    label: str
    suggestion: str
    own: float
    probability: float


def doubts_of(
    names: Sequence[str],
    paths: Sequence[str | None],
    classes: Sequence[str],
    positions: Int64Array,
    labels: Int32Array,
    probabilities: Float32Array,
) -> list[Doubt]:
    """Labels (m,) that `probabilities` (m, C), which never saw them, find less likely than another class; the most
    doubtful first, by the difference of the two (the margin of Northcutt et al., JAIR 2021, "Confident learning")."""
    rows = np.arange(len(labels))
    best = probabilities.argmax(axis=1)
    own, top = probabilities[rows, labels], probabilities[rows, best]
    order = [row for row in np.argsort(own - top, kind="stable").tolist() if best[row] != labels[row]]
    return [
        Doubt(
            names[positions[row]],
            paths[positions[row]],
            int(positions[row]),
            classes[labels[row]],
            classes[int(best[row])],
            float(own[row]),
            float(top[row]),
        )
        for row in order
    ]


def rounds_html(title: str, head: str, reports: Sequence[RoundReport], advice: Advice) -> str:
    """A table of the rounds for a notebook."""
    rows = "".join(
        f"<tr><td>{report.round}</td><td>{report.labels_total}</td><td>{_accuracy(report)}</td>"
        f"<td>{100 * report.predictions_changed:.1f} %</td></tr>"
        for report in reports
    )
    return (
        f"<p><b>{html.escape(title)}</b>: {head}</p><table><tr><th>round</th><th>labels</th><th>accuracy</th>"
        f"<th>predictions changed</th></tr>{rows}</table><p>{html.escape(str(advice))}</p>"
    )


def _accuracy(report: RoundReport) -> str:
    if report.test_accuracy is not None:
        return f"{100 * report.test_accuracy:.1f} %"
    estimate = report.pool_accuracy_estimate
    return f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f} %" if telling(estimate) else ""
