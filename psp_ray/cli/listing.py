"""`psp-ray list`: the names that can be chosen, one line each, with where they come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from psp_ray.cli.options import HIDDEN_KEYS
from psp_ray.config.kinds import ALIGNMENTS, INDICATORS, PRIORS, PSEUDO_SOURCES, REWARDS
from psp_ray.core.registry import Registry


@dataclass(frozen=True)
class Line:
    """A name, what it is, and its source: a paper, an equation, a file; empty where nothing is known."""

    name: str
    about: str = ""
    source: str = ""


def strategies() -> Iterator[Line]:
    """Acquisition functions, and wrappers to put behind a plus sign."""
    from psp_ray.acquisition.base import STRATEGIES, WRAPPERS

    yield from registered(STRATEGIES)
    yield from registered(WRAPPERS, "+")


def rewards() -> Iterator[Line]:
    """What the policy is paid for (--reward-gap)."""
    yield from registered(REWARDS)


def indicators() -> Iterator[Line]:
    """Indicators of a draw in the reward (--ms)."""
    yield from registered(INDICATORS)


def alignments() -> Iterator[Line]:
    """How Q and its shorter target are aligned (--align)."""
    yield from registered(ALIGNMENTS)


def priors() -> Iterator[Line]:
    """What is added to the policy's log odds (--prior)."""
    yield from registered(PRIORS)


def pseudo_sources() -> Iterator[Line]:
    """Whose labels self-training learns from (--pseudo-source)."""
    yield from registered(PSEUDO_SOURCES)


def annotators() -> Iterator[Line]:
    """Where labels come from (--oracle)."""
    from psp_ray.labels.annotators.base import ANNOTATORS

    yield from registered(ANNOTATORS)


def datasets() -> Iterator[Line]:
    """Data sets with a name; folders and manifests go by their path."""
    from psp_ray.data.registry import DATASETS

    yield from registered(DATASETS)


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


KINDS: dict[str, Callable[[], Iterator[Line]]] = {
    "strategies": strategies,
    "rewards": rewards,
    "indicators": indicators,
    "alignments": alignments,
    "priors": priors,
    "pseudo-sources": pseudo_sources,
    "annotators": annotators,
    "datasets": datasets,
    "models": models,
    "presets": presets,
    "settings": settings,
}


def registered(registry: Registry[Any], prefix: str = "") -> Iterator[Line]:
    """A line for each entry, with its source or else its file, and one for each file that can't be imported."""
    for entry in registry:
        module = getattr(entry.value, "__module__", "")
        yield Line(prefix + entry.name, entry.summary, entry.source or module.replace(".", "/") + ".py")
    for broken in registry.broken:
        yield Line(prefix + broken.name, f"can't be imported: {broken.reason}", broken.place)


@click.command("list", help=f"Names that can be chosen: {', '.join(KINDS)}.")
@click.option("--json", "as_json", is_flag=True, help="the same as JSON")
@click.argument("kind", type=click.Choice(list(KINDS)))
def list_command(kind: str, as_json: bool) -> None:
    lines = list(KINDS[kind]())
    if as_json:
        click.echo(json.dumps([asdict(line) for line in lines], indent=2, ensure_ascii=False))
        return
    width = max((len(line.name) for line in lines), default=0)
    for line in lines:
        source = f"  [{line.source}]" if line.source else ""
        click.echo(f"{line.name:{width}}  {line.about}{source}".rstrip())
