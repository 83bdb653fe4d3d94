"""The paper's protocol and figures, and `psp-ray reproduce`: a comparison of what a user has, beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from psp_ray.config.presets import ZERO_SHOT
from psp_ray.core.errors import ConfigError, UserError
from psp_ray.data.dataset import Dataset
from psp_ray.data.load import load_dataset
from psp_ray.run.resolve import resolve
from psp_ray.studies.command import Request, carry_out, check_outlets
from psp_ray.studies.dry_run import DryRun
from psp_ray.studies.names import with_own
from psp_ray.studies.plan import make_plan
from psp_ray.studies.settings import StudySettings, make_study, parse_pair, parse_strategy, shown_command
from psp_ray.studies.tables import Key, markdown_table

DATASETS = (
    "oxford_flowers",
    "dtd",
    "oxford_pets",
    "eurosat",
    "caltech101",
    "stanford_cars",
    "fgvc_aircraft",
)
"""The seven of the paper, by our names."""
MODEL = "ViT-B-32-quickgelu/openai"
ROUNDS = 8
SEEDS = 3
PROTOCOL = "protocol=pcb"
"""How the paper's rivals learn: PCB's 200 epochs of SGD at a batch of 32, after a warm-up."""
RELEASED = "pcb=released"
"""Their balancer is the published code's."""
STRATEGIES = (
    "zero-shot",
    f"random:none:{PROTOCOL}",
    f"alfa-mix:none:{PROTOCOL}",
    f"badge+pcb:none:{PROTOCOL}:{RELEASED}",
    f"psp-paper:{PROTOCOL}",
    f"psp-paper-no-vssp:{PROTOCOL}",
    f"psp-paper-no-ust:{PROTOCOL}",
    "psp",
    f"full:{PROTOCOL}",
)
TABULATED = ("dtd", "oxford_pets", "eurosat", "stanford_cars", "fgvc_aircraft")


@dataclass(frozen=True)
class Published:
    """A line of the paper's table: final accuracies (%) on `TABULATED`, None where it has none, and the average."""

    name: str
    ours: Key
    values: tuple[float | None, ...]
    average: float | None


PUBLISHED = (
    Published("zero-shot", ("zero-shot", "none"), (44.5, 87.0, 49.4, 59.4, 21.2), 59.44),
    Published("random", (f"random {PROTOCOL}", "none"), (58.77, 78.30, 77.62, 65.96, 30.69), 70.54),
    Published("ALFA-Mix", (f"alfa-mix {PROTOCOL}", "none"), (61.28, 83.13, 82.39, 71.04, 27.83), 74.01),
    Published(
        "BADGE + PCB (AS)", (f"badge+pcb {PROTOCOL} {RELEASED}", "none"), (62.33, 83.16, 81.50, 70.70, 32.27), 74.36
    ),
    Published("PSP", (f"psp-paper {PROTOCOL}", "ust"), (65.66, 86.57, 85.43, 73.84, 36.42), 76.87),
    Published("PSP w/o VSSP", (f"psp-paper-no-vssp {PROTOCOL}", "ust"), (64.36, 85.91, 84.63, None, 34.14), None),
    Published("PSP w/o UST", (f"psp-paper-no-ust {PROTOCOL}", "none"), (63.77, 85.55, 83.97, None, 32.40), None),
    Published("fully labeled", (f"full {PROTOCOL}", "none"), (74.7, 89.3, 94.5, 80.8, 43.4), 82.14),
)
"""ViT-B/32, final accuracy, from the method note (Soft-DTW beats padding by 1.83 there, and a VAE by 0.83)."""


def paper_value(line: Published, dataset: str) -> float | None:
    return line.values[TABULATED.index(dataset)] if dataset in TABULATED else None


def beside_the_paper(results: pd.DataFrame) -> str:
    """Our final accuracies and the paper's, as `ours / theirs` in percent; the means are over what both have.

    Ours are means over the seeds that finished. `psp`, which the paper does not know, has no second number.
    """
    finished = results[results.status == "finished"]
    datasets = [name for name in DATASETS if name in set(results.dataset)]
    rows = []
    for line in (*PUBLISHED, Published("psp (ours)", ("psp", "ust"), (None,) * len(TABULATED), None)):
        ours, theirs = [], []
        for name in datasets:
            here = finished[finished.dataset == name]
            if line.ours[0] == ZERO_SHOT:
                values = here.zero_shot_accuracy
            else:
                values = here[(here.strategy == line.ours[0]) & (here.self_training == line.ours[1])].final_accuracy
            ours.append(None if values.empty else 100 * float(values.mean()))
            theirs.append(paper_value(line, name))
        if all(value is None for value in ours):
            continue
        rows.append([line.name, *map(_pair, ours, theirs), _average(ours, theirs, line, datasets)])
    return markdown_table(["method", *datasets, "average"], rows, left=1)


def _average(ours: list[float | None], theirs: list[float | None], line: Published, datasets: list[str]) -> str:
    if datasets == list(DATASETS) and None not in ours and line.average is not None:
        return _pair(sum(value for value in ours if value is not None) / len(ours), line.average)
    both = [(one, other) for one, other in zip(ours, theirs, strict=True) if one is not None and other is not None]
    if not both:
        known = [value for value in ours if value is not None]
        return _pair(sum(known) / len(known), None)
    return _pair(sum(one for one, _ in both) / len(both), sum(other for _, other in both) / len(both))


def _pair(ours: float | None, theirs: float | None) -> str:
    return f"{'–' if ours is None else f'{ours:.1f}'} / {'–' if theirs is None else f'{theirs:.1f}'}"


# -- what is there, and what is missing ------------------------------------------------------------------------------


@dataclass
class Inventory:
    """Entries that can run, and a line for each thing that is missing."""

    datasets: list[str]
    strategies: list[str]
    missing: list[str]


def take_stock(
    datasets: Sequence[str], strategies: Sequence[str], run: dict[str, Any], descriptions: Path | None
) -> Inventory:
    """Look for data sets, their description files and strategies; nothing is encoded."""
    found = Inventory([], [], [])
    for name in datasets:
        try:
            dataset = load_dataset(name, run.get("data_root"))
        except UserError as error:
            found.missing.append(str(error).replace(" or name another with --split", ""))
            continue
        file, lack = _description_file(name, dataset, descriptions)
        if lack:
            found.missing.append(f"descriptions of {name}: {lack}")
        found.datasets.append(name if file is None else f"{name}:description-file={file}")
    for text in strategies:
        entry = parse_strategy(text)
        try:
            resolve({"strategy": entry.name})
            found.strategies.append(text)
        except UserError:
            found.missing.append(
                f"strategy {entry.name}: not in this version of psp-ray; update it, or give --strategies without it"
            )
    return found


def _description_file(name: str, dataset: Dataset, folder: Path | None) -> tuple[Path | None, str]:
    """(file, what is wrong) of a data set's descriptions; (None, "") where none were asked for."""
    if folder is None:
        return None, ""
    from psp_ray.data.descriptions import load_descriptions, match_descriptions

    places = [folder / f"descriptors_{name}.json", folder / f"{name}.json"]
    file = next((path for path in places if path.is_file()), None)
    if file is None:
        return None, f"neither {places[0].name} nor {places[1].name} is in {folder}; add one; it runs without for now"
    try:
        match_descriptions(load_descriptions(file), dataset.prompt_names)
    except UserError as error:
        return None, f"{error}; it runs without for now"
    return file, ""


def reproduce(request: Request, description_folder: str | None, console: Console | None = None) -> int:
    """Run the paper's protocol on what is there; returns the exit code of the comparison.

    Raises:
        UserError: nothing can run at all: no data set, or no weights.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    own = {key: value for key, value in request.run.items() if value is not None}
    out, resume = own.pop("out", None), bool(own.pop("resume", False))
    pairs = [parse_pair(text) for text in request.pairs]
    own.update((key, value) for owner, key, value in pairs if not owner)
    own = {"model": MODEL, "rounds": ROUNDS, **own}
    given = {key: value for key, value in request.study.items() if value is not None}
    paper = {"datasets": DATASETS, "strategies": STRATEGIES, "seeds": SEEDS, "pool_share": 1.0}  # as the paper's seeds
    settings = StudySettings(**{**paper, **given})
    folder = Path(description_folder) if description_folder is not None else None
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--description-folder {folder}: is not a folder; give the one with descriptors_NAME.json")
    unknown = [name for name in settings.datasets if name not in DATASETS]
    if unknown:
        raise ConfigError(f"--datasets {unknown[0]}: not one of the paper's; they are {', '.join(DATASETS)}")
    stock = take_stock(settings.datasets, settings.strategies, own, folder)
    no_weights = _weights(own)
    missing = [*no_weights, *stock.missing]
    if folder is None:
        console.print("without --description-folder the classes are not described; the paper used GPT-3's (AS)")
    for line in missing:
        console.print(f"missing: {line}", style="yellow", markup=False)
    if no_weights or not stock.datasets or not stock.strategies:
        raise ConfigError(
            f"nothing can run: {len(stock.datasets)} of {len(settings.datasets)} data sets are there and "
            f"{'no' if no_weights else 'the'} weights; see the lines above"
        )
    if out is None and not request.dry_run:
        raise ConfigError("--out is missing; name the folder for the runs, the tables and the pictures")
    title = {"title": settings.title or "The paper's protocol", "about": settings.about or _about(own["model"], folder)}
    study = make_study({**given, **title, "datasets": stock.datasets, "strategies": stock.strategies,
                        "seeds": settings.seeds, "pool_share": settings.pool_share}, own)  # fmt: skip
    study = with_own(study, [pair for pair in pairs if pair[0]])
    plan = make_plan(replace(study, name="reproduce"), Path(out or "runs/reproduce"))
    if request.dry_run:
        sums = DryRun(plan, out, resume, request.replace_changed).sums()
        check_outlets(request)
        console.print(f"{sums}, on {', '.join(stock.datasets)}; nothing was started", markup=False)
        return 0
    shown = shown_command(study, None, {}).replace("psp-ray compare", "psp-ray reproduce", 1)
    lines = "\n".join(f"- missing: {line}" for line in missing)

    def extra(results: pd.DataFrame) -> list[str]:
        table = "Final accuracy here / in the paper, in percent:\n\n" + beside_the_paper(results)
        return [*([lines] if lines else []), table]

    return carry_out(plan, shown, request, resume, console, extra)


def _weights(run: dict[str, Any]) -> list[str]:
    """Why the model can't be used, as a list of one line or none."""
    from psp_ray.clip.spec import resolve as find_model
    from psp_ray.features.tower import backbone_spec

    given: dict[str, Any] = {
        key: run[key] for key in ("model", "checkpoint", "image_size", "precision", "device") if key in run
    }
    try:
        find_model(backbone_spec(resolve(given).model))
    except UserError as error:
        return [f"weights: {error}"]
    return []


def _about(model: str, folder: Path | None) -> str:
    same = "ViT-B-32" in model or "ViT-B/32" in model
    return (
        f"The paper's protocol: {ROUNDS} rounds of one label per class, "
        + ("its ViT-B/32" if same else f"but with {model} instead of its ViT-B/32: orders may be compared, not numbers")
        + ("." if folder is None else ", class descriptions where there is a file.")
    )
