"""`report.html` of a comparison, and of whatever a folder holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from psp_ray.config.base import read_yaml
from psp_ray.core.errors import OutputError
from psp_ray.core.files import write_text
from psp_ray.core.words import counted
from psp_ray.report.document import Part, document_page, picture_part, text_part
from psp_ray.run.folder import has_run
from psp_ray.run.page import PAGE, write_page
from psp_ray.run.remains import nothing_there
from psp_ray.studies import tables
from psp_ray.studies.collect import RESULTS, read_csv, unlisted
from psp_ray.studies.pictures import draw_curves, picture_name
from psp_ray.studies.plan import STUDY_FILE
from psp_ray.studies.statistics import paired_difference, spread
from psp_ray.studies.sweep.page import write_sweep_page
from psp_ray.studies.sweep.plan import PLAN


def write_report_page(folder: Path) -> Path:
    """Write the page of a run, a comparison or a sweep into its folder; returns its path.

    Raises:
        OutputError: none of the three is there, or nothing of it has finished.
    """
    if has_run(folder):
        return write_page(folder)
    if (folder / STUDY_FILE).is_file():
        return write_comparison_page(folder)
    if (folder / PLAN).is_file():
        return write_sweep_page(folder)
    raise nothing_there(folder, "run, comparison or sweep")


def write_comparison_page(folder: Path) -> Path:
    """`report.html` of a comparison, from `results.csv`, `curves.csv` and `study.yaml` alone.

    Raises:
        OutputError: no run has finished yet.
    """
    if not (folder / RESULTS).is_file():
        raise OutputError(f"{folder}: no run has finished yet; go on with the same command and --resume")
    results, curves = read_csv(folder)
    done = results[results.status == "finished"]
    if done.empty:
        raise OutputError(f"{folder}: no run has finished yet; see {folder / RESULTS}")
    study: Mapping[str, Any] = read_yaml(folder / STUDY_FILE, "--out") or {}
    against = study.get("against") or ("random:none",)
    title = f"psp-ray · {study.get('title') or 'comparison'} · {folder.name}"
    state = f"{len(done)} of {counted(len(results), 'run')} finished"
    more = len(unlisted(folder, ())) - len(done)
    state += f", {more:,} more in the folder that the command doesn't list" if more > 0 else ""
    state += f" · {folder}"
    text = document_page(title, answer(results, curves), state, _parts(folder, results, curves, tuple(against)))
    write_text(folder / PAGE, text)
    return folder / PAGE


def _parts(folder: Path, results: pd.DataFrame, curves: pd.DataFrame, against: tuple[str, ...]) -> list[Part]:
    names = list(dict.fromkeys(curves.dataset))
    marks = {name: f"picture-{place}" for place, name in enumerate(names)}
    pieces = re.split(r"^!\[.*\]\(picture-(\d+)\)$", tables.body(results, curves, against, marks), flags=re.MULTILINE)
    parts = []
    for place, piece in enumerate(pieces):
        if place % 2 == 0:
            parts += [text_part(piece)] if piece.strip() else []
            continue
        name = names[int(piece)]
        file = folder / picture_name(name)
        if not file.is_file():
            draw_curves(file, results[results.dataset == name], curves[curves.dataset == name], name, "")
        parts.append(picture_part(file, f"learning curves on {name}"))
    failed = tables.failures(results)
    if failed:
        parts.append(text_part("\n".join([f"## Without a result: {len(failed)} of {len(results)}", "", *failed])))
    return parts


def answer(results: pd.DataFrame, curves: pd.DataFrame) -> str:
    """Who is ahead, by how much before whom, and whether that is more than chance."""
    times = sorted({int(item) for item in results.labels_per_class.dropna()})
    datasets = list(dict.fromkeys(results.dataset))
    part = tables.panel(results, curves, datasets, times[-1] if times else None)
    final = {key: part.by_seed(key, "final_accuracy") for key in part.keys if not tables.is_reference(key)}
    means = {key: found.mean for key, values in final.items() if (found := spread(list(values.values()))) is not None}
    if not means:
        return "No strategy has finished on all data sets yet."
    best, *others = sorted(means, key=lambda key: -means[key])
    text = f"{_named(best, means)} ends highest, at {100 * means[best]:.1f} %"
    if len(datasets) > 1:
        text += f" on average over {counted(len(datasets), 'data set')}"
    if times[1:]:
        text += f", with {tables.labels_title(times[-1])} per class and round"
    random = next((key for key in others if key[0] == "random" and key[1] == "none"), None)
    other = random if random is not None else others[0] if others else None
    if other is None:
        return f"{text}."
    gap = paired_difference(final[best], final[other])
    if gap is None:
        return f"{text}; no seed has finished for both it and {_named(other, means)} yet."
    ahead = f"{100 * gap.mean:.1f} points more than {_named(other, means)}"
    if gap.low is None or gap.high is None:
        seeds = counted(gap.n, "seed")
        return f"{text}, {ahead} ({seeds}: too few to tell that from chance)."
    verdict = "" if gap.low > 0 else ", so it may be chance"
    return f"{text}, {ahead} (95 % interval {100 * gap.low:+.1f} to {100 * gap.high:+.1f}, {gap.n} seeds{verdict})."


def _named(key: tables.Key, among: Mapping[tables.Key, float]) -> str:
    """A strategy's name; with its self-training where it is there with another one, too."""
    twice = sum(other[0] == key[0] for other in among) > 1
    return f"{key[0]} {'without' if key[1] == 'none' else 'with'} self-training" if twice else key[0]
