"""`psp-ray continue`: go on with a run, and say nothing again."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import click

from psp_ray.cli.options import HIDDEN_KEYS, WHOLE, SettingOption, SettingsCommand, either_folder, setting_options
from psp_ray.cli.starting import run_options, start_run
from psp_ray.config.config import CHANGEABLE, RUN_ONLY
from psp_ray.config.paths import absolute
from psp_ray.core.light import spare_pandas

SHOWN = CHANGEABLE | RUN_ONLY
"""Settings that may change; the others are taken, too, so that they can be refused with the reason."""


class ContinueCommand(SettingsCommand):
    """Its help keeps to what may change, and shows all of it at once."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        found = click.Command.get_params(self, ctx)
        ctx.meta[WHOLE] = True
        for parameter in found:
            if not isinstance(parameter, SettingOption):
                continue
            parameter.hidden = parameter.name not in SHOWN
            parameter.help = re.sub(r" \[[^]]*\]$", "", parameter.help or "")  # what is not given stays as it was
        return found


ELSE = {
    "out": "name the folder as DIR",
    "resume": "leave it out; `continue` does nothing else",
    "config": "the run keeps its settings; give those that change as options",
    "dry_run": "leave it out; `psp-ray report DIR` shows what there is",
}
"""What to do in place of options of `psp-ray run` that are not taken."""


@click.command("continue", cls=ContinueCommand, instead=ELSE.get)
@run_options
@partial(setting_options, hidden=HIDDEN_KEYS | {"out", "resume"})
@either_folder
def continue_command(folder: Path, html: bool, track: str | None, **given: Any) -> None:
    """Go on with the run in DIR, with the settings that it was started with.

    Labels filled in since are taken up; a run that was interrupted goes on after its last round; one that has ended
    goes on where --rounds is larger now, or --stop another one ("none" takes it away). Classes may be renamed, and
    others put behind them. The options below may change, no other one.
    """
    spare_pandas()
    from psp_ray.run.continuing import continued, paths_lead_from

    home = paths_lead_from(folder)
    if home is not None:  # paths given now are seen from here, those of its settings from there
        folder, given = folder.absolute(), absolute(given)
        os.chdir(home)
    start_run(continued(folder, given), html=html, track=track, continuing=True)
