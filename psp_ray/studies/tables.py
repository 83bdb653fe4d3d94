"""`table.md`: what a comparison found, as Markdown. Numbers come from `results.csv` and `curves.csv` alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from psp_ray.config.presets import REFERENCES
from psp_ray.core.words import counted
from psp_ray.studies.statistics import (
    FEWEST_PAIRS,
    Difference,
    Needed,
    Spread,
    labels_needed,
    paired_difference,
    spread,
)

Key = tuple[str, str]
"""(strategy, self_training): a row of a table."""
MEASURES = {
    "final_accuracy": "final",
    "mean_accuracy": "mean over rounds",
    "final_macro_accuracy": "final, macro",
    "mean_macro_accuracy": "mean over rounds, macro",
}
OURS = "psp"
"""How the names of our own presets begin; all other strategies are rivals."""


@dataclass(frozen=True)
class Panel:
    """One table's worth of runs: one data set (or several, to average over) at one number of labels per class."""

    results: pd.DataFrame
    curves: pd.DataFrame
    datasets: list[str]

    @property
    def keys(self) -> list[Key]:
        """Rows in their order: ours as given, then the closest rivals (by final accuracy), references last."""
        pairs = list(dict.fromkeys(zip(self.results.strategy, self.results.self_training, strict=True)))

        def place(key: Key) -> tuple[int, float]:
            if is_rival(key):
                return 1, -self._final(key)
            return (2 if is_reference(key) else 0), 0.0

        return sorted(pairs, key=place)  # stable

    @property
    def best_rival(self) -> Key | None:
        """The rival of highest final accuracy, whose end the labels needed are counted to; None where there is none."""
        return next((key for key in self.keys if is_rival(key) and np.isfinite(self._final(key))), None)

    def _final(self, key: Key) -> float:
        """Mean final accuracy over the runs that finished; -inf without any."""
        found = spread(list(self.by_seed(key, "final_accuracy").values()))
        return -np.inf if found is None else found.mean

    def by_seed(self, key: Key, measure: str) -> dict[int, float]:
        """Seed -> value; over several data sets their mean, for seeds finished on all of them."""
        rows = self._of(key, self.results)
        rows = rows[rows.status == "finished"]
        found = rows.groupby("seed")[measure].agg(["mean", "count"])
        return {int(seed): row["mean"] for seed, row in found.iterrows() if row["count"] == len(self.datasets)}

    def curve(self, key: Key) -> pd.DataFrame:
        """`labels`, `mean` and `std` of the accuracy by round, over seeds (and means over data sets)."""
        rows = self._of(key, self.curves)
        return rows.groupby("round").agg(
            labels=("labels", "mean"), mean=("accuracy", "mean"), std=("accuracy", "std"), n=("accuracy", "size")
        )

    def needed(self, key: Key) -> tuple[Needed | None, float] | None:
        """(labels needed to the best rival's final accuracy; its labels); None where there is no rival."""
        target = self.best_rival
        if target is None:
            return None
        goal = self.curve(target)
        ours = self.curve(key)
        goal, ours = goal[goal.index > 0], ours[ours.index > 0]
        if goal.empty or ours.empty or is_reference(key):
            return None
        last = goal.iloc[-1]
        return labels_needed(ours.labels.tolist(), ours["mean"].tolist(), float(last["mean"])), float(last.labels)

    def runs(self, key: Key) -> str:
        status = self._of(key, self.results).status.value_counts()
        finished, total = int(status.get("finished", 0)), int(status.sum())
        others = [f"{count} {name}" for name, count in status.items() if name != "finished"]
        return ", ".join([f"{finished}" if finished == total else f"{finished} of {total}", *sorted(others)])

    def seconds(self, key: Key) -> float | None:
        rows = self._of(key, self.results)
        rows = rows[rows.status == "finished"]
        return None if rows.empty else float(rows.seconds.mean())

    @staticmethod
    def _of(key: Key, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame.strategy == key[0]) & (frame.self_training == key[1])]


def is_rival(key: Key) -> bool:
    """Whether a row is neither ours nor a reference."""
    return not key[0].startswith(OURS) and not is_reference(key)


def is_reference(key: Key) -> bool:
    """Whether a row is zero-shot or full, with whatever settings of its own."""
    return key[0].split(" ")[0] in REFERENCES


def panel(results: pd.DataFrame, curves: pd.DataFrame, datasets: Sequence[str], times: int | None) -> Panel:
    """The runs on `datasets` with `times` labels per class, and the references."""

    def pick(frame: pd.DataFrame) -> pd.DataFrame:
        right = frame.labels_per_class.isna()
        if times is not None:
            right |= (frame.labels_per_class == times).fillna(False)
        return frame[frame.dataset.isin(list(datasets)) & right]

    return Panel(pick(results), pick(curves), list(datasets))


def against_key(text: str, row: Key, known: Iterable[Key]) -> Key | None:
    """Who a row is compared with: `random:none`, `random:same` (its self-training), or a preset's name."""
    name, _, training = text.rpartition(":")
    if training == "same":
        wanted: Key | None = (name, row[1])
    elif training in ("none", "ust") and name:
        wanted = (name, training)
    else:
        wanted = next((key for key in known if key[0] == text), None)
    return wanted if wanted in set(known) else None


# -- numbers as text -------------------------------------------------------------------------------------------------


def labels_title(count: int | None) -> str:
    return "labels" if count is None else counted(count, "label")


def shown_spread(value: Spread | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value.mean:.1f}" + ("" if value.std is None else f" ± {100 * value.std:.1f}")


def shown_difference(value: Difference | None) -> str:
    """`+2.1 [0.4, 3.8]`, in points."""
    if value is None:
        return "–"
    interval = "" if value.low is None or value.high is None else f" [{100 * value.low:+.1f}, {100 * value.high:+.1f}]"
    return f"{100 * value.mean:+.1f}{interval}"


def shown_needed(value: tuple[Needed | None, float] | None) -> str:
    if value is None:
        return "–"
    needed, total = value
    if needed is None:
        return "not reached"
    return f"{'≤ ' if needed.at_most else ''}{100 * needed.labels / total:.0f} % ({needed.labels:.0f} of {total:.0f})"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 2) -> str:
    """A table whose first `left` columns stand left and the others right."""
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(['---'] * left + ['---:'] * (len(header) - left))}|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join(lines)


# -- tables ----------------------------------------------------------------------------------------------------------


def accuracy_table(part: Panel) -> str:
    """Mean ± standard deviation over the seeds, labels needed and seconds; the best policy of a column is bold."""
    values = {key: {name: spread(list(part.by_seed(key, name).values())) for name in MEASURES} for key in part.keys}
    best = {}
    for name in MEASURES:
        rated = [found[name] for key, found in values.items() if not is_reference(key)]
        best[name] = max((round(100 * item.mean, 1) for item in rated if item is not None), default=None)
    rival = part.best_rival
    header = ["strategy", "self-training", *MEASURES.values()]
    if rival is not None:
        whose = ":".join(rival) if len(part.datasets) == 1 else "the best rival"
        header.append(f"labels to {whose}'s end")
    rows = []
    for key in part.keys:
        marked = []
        for name in MEASURES:
            found = values[key][name]
            is_best = found is not None and not is_reference(key) and round(100 * found.mean, 1) == best[name]
            marked.append(f"**{shown_spread(found)}**" if is_best else shown_spread(found))
        needed = [average_needed(part, key)] if rival is not None else []
        seconds = part.seconds(key)
        rows.append([*key, *marked, *needed, "–" if seconds is None else f"{seconds:.0f}", part.runs(key)])
    return markdown_table([*header, "seconds a run", "runs"], rows)


def average_needed(part: Panel, key: Key) -> str:
    """Labels needed on one data set; over several the mean share, where it is reached on all of them."""
    if len(part.datasets) == 1:
        return shown_needed(part.needed(key))
    single = [panel(part.results, part.curves, [name], _times_of(part)) for name in part.datasets]
    found = [item.needed(key) for item in single]
    known = [item for item in found if item is not None]
    if len(known) < len(single):
        return "–"
    reached = [(needed, total) for needed, total in known if needed is not None]
    if len(reached) < len(single):
        return f"reached on {len(reached)} of {len(single)}"
    at_most = "≤ " if any(needed.at_most for needed, _ in reached) else ""
    return f"{at_most}{100 * np.mean([needed.labels / total for needed, total in reached]):.0f} %"


def _times_of(part: Panel) -> int | None:
    known = part.results.labels_per_class.dropna().unique()
    return int(known[0]) if len(known) else None


def difference_table(part: Panel, against: Sequence[str]) -> str:
    """Paired differences to each of `against`; empty where none of them is in the panel."""
    keys = part.keys
    columns = [text for text in against if any(against_key(text, key, keys) for key in keys)]
    if not columns:
        return ""
    header = ["strategy", "self-training"]
    header += [f"{MEASURES[name]} − {text}" for text in columns for name in ("final_accuracy", "mean_accuracy")]
    rows = []
    for key in keys:
        cells = []
        for text in columns:
            other = against_key(text, key, keys)
            for name in ("final_accuracy", "mean_accuracy"):
                if other is None or other == key:
                    cells.append("–")
                else:
                    found = paired_difference(part.by_seed(key, name), part.by_seed(other, name))
                    cells.append(shown_difference(found))
        rows.append([*key, *cells])
    return markdown_table(header, rows)


def failures(results: pd.DataFrame) -> list[str]:
    """A line for every run that failed or did not end."""
    bad = results[results.status != "finished"]
    return [
        f"- {row.dataset} {row.strategy}:{row.self_training} seed {row.seed}: {row.status}"
        + (f" ({row.error})" if row.error else "")
        for row in bad.itertuples()
    ]


def body(
    results: pd.DataFrame, curves: pd.DataFrame, against: Sequence[str], pictures: Mapping[str, str], level: int = 2
) -> str:
    """All tables: the average over the data sets first, then each of them with its picture."""
    datasets = list(dict.fromkeys(results.dataset))
    times: list[int | None] = [*sorted({int(item) for item in results.labels_per_class.dropna()})] or [None]
    parts: list[str] = []
    groups: list[tuple[str, list[str]]] = [(name, [name]) for name in datasets]
    if len(datasets) > 1:
        groups.insert(0, (f"Average over {counted(len(datasets), 'data set')}", datasets))
    for heading, names in groups:
        parts.append(f"{'#' * level} {heading}")
        for count in times:
            part = panel(results, curves, names, count)
            if len(times) > 1:
                parts.append(f"{'#' * (level + 1)} {labels_title(count)} per class and round")
            parts.append(accuracy_table(part))
            if text := difference_table(part, against):
                parts += [f"Paired differences in points, with 95 % intervals from {FEWEST_PAIRS} seeds on:", text]
        if heading in pictures:
            parts.append(f"![Learning curves on {heading}]({pictures[heading]})")
    return "\n\n".join(parts)


def facts(results: pd.DataFrame, summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was evaluated, how often, with which model, and by which versions: one line each."""
    lines = []
    splits = sorted({item["evaluate_on"] for item in summaries})
    if splits == ["val"]:
        lines.append("Accuracies are on the **val** split, the one that settings are chosen on.")
    else:
        lines.append(f"Accuracies are on the **{' and '.join(splits) or 'test'}** split, in percent.")
    models = sorted({(item["model"], item["dataset"], item["image_size"]) for item in summaries}, key=str)
    given = sorted({data for _, data, size in models if not size})
    models = [item for item in models if item[2]]
    if given:
        lines.append(f"No image tower: the embeddings that come with {', '.join(Path(data).name for data in given)}.")
    sizes = {size for _, _, size in models}
    names = ", ".join(sorted({model for model, _, _ in models}))
    if len(sizes) == 1:
        lines.append(f"Model {names}, images of {next(iter(sizes))} pixels.")
    elif sizes:
        lines.append(f"Model {names}; image size: " + ", ".join(f"{data} {size}" for _, data, size in models) + ".")
    rounds = sorted({len(item["rounds"]) for item in summaries if item["strategy"] not in REFERENCES})
    seeds = sorted({int(seed) for seed in results.seed})
    several = f"seeds {seeds[0]}–{seeds[-1]}; mean ± standard deviation over seeds" if len(seeds) > 1 else "seed 0"
    rounded = f"{'/'.join(map(str, rounds))} rounds; " if rounds else ""
    lines.append(
        f"{rounded}{several}. “Mean over rounds” is the plain mean of the accuracies after each round; macro: the mean "
        "of the classes' accuracies."
    )
    versions = [item["versions"] for item in summaries]
    for name in ("psp_ray", "git", "python", "torch", "open_clip_torch"):
        known = sorted({str(item.get(name)) for item in versions if item.get(name)})
        if known:
            lines.append(f"{name.replace('_', '-')} {', '.join(known)}")
    return lines
