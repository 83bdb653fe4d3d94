"""Options made from the settings: one for every key, in the help under the heading of its section."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from psp_ray.config.base import option_name
from psp_ray.config.config import SECTIONS, default_of, fields, section_of
from psp_ray.config.kinds import registry_of
from psp_ray.config.presets import PRESETS
from psp_ray.core.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])
COMMON = frozenset(
    {
        "dataset",
        "classes",
        "test",
        "initial_labels",
        "model",
        "image_size",
        "head",
        "strategy",
        "rounds",
        "labels_per_round",
        "stop",
        "oracle",
        "seed",
        "runner",
        "out",
        "resume",
    }
)
"""Settings that `--help` shows."""
WHOLE = "psp_ray.help_all"
"""Key of a click context: whether all settings are to be shown."""
HIDDEN_KEYS = frozenset({"preset"})
"""Keys that the program sets itself."""


class SettingOption(click.Option):
    """The option of a setting. `section` is the name of the section that it is listed under in the help.

    `registry`: of what its value is a name; the names are looked up where the help shows them.
    """

    def __init__(self, *arguments: Any, section: str, registry: Registry[Any] | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.section = section
        self.registry = registry

    def make_metavar(self, ctx: click.Context) -> str:
        return super().make_metavar(ctx) if self.registry is None else "|".join(self.registry.names())


class HintingCommand(click.Command):
    """A command that lacks options of `psp-ray run`, and says how to give there what they are for.

    `instead`: what to say for a parameter of `run`, by its name; None where there is nothing to say.
    """

    def __init__(self, *arguments: Any, instead: Callable[[str], str | None] = lambda key: None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._instead = instead

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            key = error.option_name.removeprefix("--").removeprefix("no-").replace("-", "_")
            said = self._instead(key)
            if said is None:
                raise
            raise click.UsageError(f"No such option {error.option_name!r}: {said}", ctx) from error


class SettingsCommand(HintingCommand):
    """A command that takes settings of a run: `--help` shows its own options and the settings that most people need,
    `--help-all` all of them, section by section."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), _help_all(self)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        whole = ctx.meta.get(WHOLE, False)
        rows: dict[str, list[tuple[str, str]]] = {name: [] for name in ("", "common", *SECTIONS)}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Argument):
                continue  # it stands in the first line
            name = ""
            if isinstance(parameter, SettingOption):
                name = parameter.section if whole else "common" if parameter.name in COMMON else "rare"
            # The others stay unasked: what they can be set to takes imports to tell.
            record = parameter.get_help_record(ctx) if name in rows else None
            if record is not None:
                rows[name].append(record)
        for name, records in rows.items():
            if records:
                with formatter.section(heading(name)):
                    formatter.write_dl(records)


def _help_all(command: click.Command) -> click.Option:
    def show(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            ctx.meta[WHOLE] = True
            click.echo(command.get_help(ctx), color=ctx.color)
            ctx.exit()

    return click.Option(
        ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=show,
        help="Show all settings, section by section, and exit.",
    )  # fmt: skip


def heading(section: str) -> str:
    """The heading of a section in the help, from the docstring of its settings."""
    if not section:
        return "Options"
    if section == "common":
        return "What most people need (--help-all shows all settings)"
    words = (SECTIONS[section].__doc__ or "").split("\n\n")[0].split()
    return f"{section.capitalize()} ({' '.join(words).rstrip('.')})"


def setting_options(command: F, hidden: frozenset[str] = HIDDEN_KEYS) -> F:
    """Decorator: one option for every key of the configuration but the hidden ones, in its order."""
    for key, info in reversed(list(fields().items())):
        if key not in hidden:
            command = _option(key, info)(command)
    return command


def shown_default(key: str, default: Any) -> str:
    """What holds where nothing is given: the default strategy is a preset, which has settings of its own."""
    implied = PRESETS.get(default_of("strategy"), {}).get(key, default)
    if key == "strategy" or implied == default:
        return str(default)
    return f"{implied}, as --strategy {default_of('strategy')} sets it; else {default}"


def _option(key: str, info: FieldInfo) -> Callable[[F], F]:
    section, shown = section_of(key), info.description or ""
    if info.annotation is bool:
        names = f"{option_name(key)}/--no-{key.replace('_', '-')}"
        return click.option(
            names, key, cls=SettingOption, section=section, default=None, help=f"{shown} [{info.default}]"
        )
    if info.default is not None and info.default != {}:
        shown += f" [{shown_default(key, info.default)}]"
    return click.option(
        option_name(key), key, cls=SettingOption, section=section, default=None, help=shown,
        metavar=metavar_of(info.annotation), registry=registry_of(info),
    )  # fmt: skip


def metavar_of(annotation: Any) -> str:
    """What stands for a value in the help: choices, N, X or TEXT."""
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return metavar_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return "|".join(metavar_of(kind) for kind in get_args(annotation) if kind is not type(None))
    return {int: "N", float: "X"}.get(annotation, "TEXT")


track_option = click.option(
    "--track", metavar="TOOL", help="also log to mlflow, tensorboard or wandb (needs psp-ray[track])"
)
config_option = click.option(
    "--config", "config_file", type=click.Path(), metavar="FILE", help="YAML file of settings; options win"
)
run_option = click.option(
    "--run", "run_folder", required=True, type=click.Path(), metavar="DIR", help="output folder of a run"
)


def either_folder(command: F) -> F:
    """Decorator: `folder`, that of what is opened: as DIR or, as other commands have it, as --run DIR."""

    @wraps(command)
    def taken(*args: Any, folder: Path | None, run_folder: Path | None, **given: Any) -> Any:
        if (folder is None) == (run_folder is None):
            raise click.UsageError("give one folder: DIR, or --run DIR")
        return command(*args, folder=folder or run_folder, **given)

    kind = click.Path(path_type=Path)
    option = click.option("--run", "run_folder", type=kind, metavar="DIR", help="the folder, as other commands take it")
    return cast(F, click.argument("folder", type=kind, metavar="DIR", required=False)(option(taken)))


checkpoint_option = click.option(
    "--checkpoint", metavar="PATH", help="the model's weights, if they have moved since the run"
)
hub_option = click.option(
    "--allow-hub", is_flag=True, help="download the run's model where it is not on this machine (a file may name any)"
)
