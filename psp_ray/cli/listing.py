"""`psp-ray list`: the names that can be chosen, one line each, with where they come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import click

from psp_ray.cli.options import HIDDEN_KEYS


@dataclass(frozen=True)
class Line:
    """A name, what it is, and its source: a paper, an equation, a file; empty where nothing is known."""

    name: str
    about: str = ""
    source: str = ""


def strategies() -> Iterator[Line]:
    """Acquisition functions, and wrappers to put behind a plus sign."""
    from psp_ray.acquisition.base import find, strategy_names, wrapper_names

    for name in strategy_names():
        yield _described(name, find(name)[0].factory)
    for name in wrapper_names():
        yield _described(f"+{name}", find(f"random+{name}")[1][0].factory)


def datasets() -> Iterator[Line]:
    """Data sets with a name; folders and manifests go by their path."""
    from psp_ray.data.registry import DATASETS

    for entry in DATASETS:
        yield _described(entry.name, entry.value)


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
    "datasets": datasets,
    "models": models,
    "presets": presets,
    "settings": settings,
}


def _described(name: str, thing: object) -> Line:
    """What a registered class or function says of itself in the first line of its docstring, and its file."""
    about = (thing.__doc__ or "").strip().partition("\n")[0]
    return Line(name, about, str(getattr(thing, "__module__", "")).replace(".", "/") + ".py")


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
