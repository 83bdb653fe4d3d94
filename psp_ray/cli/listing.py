"""`psp-ray list`: the names that can be chosen, one line each, with where they come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from psp_ray.cli.options import HIDDEN_KEYS
from psp_ray.core.registry import Entry, Registry


@dataclass(frozen=True)
class Line:
    """A name, what it is, and its source: a paper, an equation, a file, a section."""

    name: str
    about: str = ""
    source: str = ""


def registries() -> dict[str, Registry[Any]]:
    """What is kept in registries, by the kind's name on the command line. Nothing of them is imported yet."""
    from psp_ray.acquisition.base import STRATEGIES, WRAPPERS
    from psp_ray.config import kinds
    from psp_ray.data.registry import DATASETS
    from psp_ray.labels.annotators.base import ANNOTATORS
    from psp_ray.report.tracking import TRACKERS

    return {
        "strategies": STRATEGIES,
        "wrappers": WRAPPERS,
        "heads": kinds.HEADS,
        "rewards": kinds.REWARDS,
        "alignments": kinds.ALIGNMENTS,
        "indicators": kinds.INDICATORS,
        "priors": kinds.PRIORS,
        "pseudo-sources": kinds.PSEUDO_SOURCES,
        "stops": kinds.STOPS,
        "annotators": ANNOTATORS,
        "datasets": DATASETS,
        "trackers": TRACKERS,
    }


def models() -> Iterator[Line]:
    """The bundled model and open_clip's architectures (NAME/TAG, or NAME with --checkpoint)."""
    from psp_ray.clip.architectures import BUNDLED, known_models

    yield Line(BUNDLED, "the bundled model", "psp_ray/clip/psp_lite/MODEL_CARD.md")
    for name in known_models():
        if name != BUNDLED:
            yield Line(name, "", "open_clip")


def presets() -> Iterator[Line]:
    """Names that --strategy takes beside the strategies."""
    from psp_ray.config.presets import PRESETS

    for name, settings in PRESETS.items():
        shown = ", ".join(f"{key} {value}" for key, value in settings.items())
        yield Line(name, shown if len(shown) <= 100 else f"{len(settings)} settings", "psp_ray/config/presets.py")


def settings() -> Iterator[Line]:
    """Every setting, by its section."""
    from psp_ray.config.config import fields, section_of

    for key, info in fields().items():
        if key not in HIDDEN_KEYS:
            yield Line(key, info.description or "", section_of(key))


OTHERS: dict[str, Callable[[], Iterator[Line]]] = {"models": models, "presets": presets, "settings": settings}
KINDS = (
    "strategies",
    "wrappers",
    "heads",
    "rewards",
    "alignments",
    "indicators",
    "priors",
    "pseudo-sources",
    "stops",
    "annotators",
    "datasets",
    "trackers",
    *OTHERS,
)


def lines_of(kind: str) -> list[Line]:
    """All names of a kind, and files of it that can't be imported."""
    if kind in OTHERS:
        return list(OTHERS[kind]())
    registry = registries()[kind]
    broken = [Line(item.name, f"can't be imported: {item.reason}", item.place) for item in registry.broken]
    return [*(_line(entry) for entry in registry), *broken]


def _line(entry: Entry[Any]) -> Line:
    """An entry; one that names no paper or equation comes from its file."""
    file = str(getattr(entry.value, "__module__", "")).replace(".", "/") + ".py"
    return Line(entry.name, entry.summary, entry.source or file)


@click.command("list", help=f"Names that can be chosen: {', '.join(KINDS)}.")
@click.option("--json", "as_json", is_flag=True, help="the same as JSON")
@click.argument("kind", type=click.Choice(KINDS))
def list_command(kind: str, as_json: bool) -> None:
    lines = lines_of(kind)
    if as_json:
        click.echo(json.dumps([asdict(line) for line in lines], indent=2, ensure_ascii=False))
    else:
        width = max((len(line.name) for line in lines), default=0)
        for line in lines:
            click.echo(f"{line.name:{width}}  {line.about}  [{line.source}]")
    for broken in [] if kind in OTHERS else registries()[kind].broken:
        click.echo(f"warning: {broken.place} can't be imported ({broken.reason}); mend or remove that file", err=True)
