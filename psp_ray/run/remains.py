"""What of a run's folder is there, and what can be done where not all of it is: one place for all who open one.

A run needs little of its folder: the settings are in `config.yaml`, in `run.json`, in its copy beside the checkpoints,
and those of the result in `prompts.safetensors`, too; what a run writes at its end it writes anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from psp_ray.config.base import read_yaml
from psp_ray.config.config import fields
from psp_ray.config.presets import ZERO_SHOT
from psp_ray.core.errors import ConfigError, OutputError
from psp_ray.core.paths import exists, is_file, is_folder
from psp_ray.core.sealed import DamagedFile
from psp_ray.core.words import counted
from psp_ray.run.checkpoint import latest_round
from psp_ray.run.folder import CONFIG, FINISHED, KEPT, PROMPTS, RUN_FILE, SUMMARY, has_run, read_run, read_summary

BELOW = ("runs/*", "trials/*/*", "*")
"""Where runs are in the folder of a comparison, of a sweep, and in one that is given to many runs."""


def require_run(out: Path) -> None:
    """Raise an OutputError where there is no run in the folder `out`."""
    if not has_run(out):
        raise nothing_there(out, "run")


def nothing_there(folder: Path, kinds: str) -> OutputError:
    """The error of a `folder` that holds none of `kinds` ("run", "run, comparison or sweep").

    One of a comparison or a sweep holds runs further below.
    """
    below = sorted(path.parent for pattern in BELOW for path in folder.glob(f"{pattern}/{RUN_FILE}"))
    if below:
        runs = counted(len(below), "run")
        return OutputError(f"{folder}: no {kinds} by itself, but {runs} below it; give one of them, such as {below[0]}")
    reason = f"no {kinds} of psp-ray there" if is_folder(folder) else "no such folder"
    if exists(folder) and not is_folder(folder):
        reason = "a file, not a folder"
    return OutputError(f"{folder}: {reason}; give the output folder of a {kinds} (its --out)")


def settings_in(out: Path) -> dict[str, Any]:
    """The settings of the run in `out` by key: those of `config.yaml`, with what it lacks from `run.json`; where it
    was cut short, is damaged or gone, those of `run.json`, and else those of the result alone.

    What only says where and how the run is executed (`RUN_ONLY`) has its default where no file says it.

    Raises:
        OutputError: no run there, or no file is left that says its settings. ConfigError: `config.yaml` can't be read,
            and no other file says them.
    """
    require_run(out)
    known = _of_record(out)
    given: dict[str, Any] = {}
    try:
        given = _of_config(out)
    except ConfigError:
        known = known or _of_prompts(out)
        if not known:
            raise
    if given and known:  # where it was cut, its last line may have been, too
        whole = given.keys() >= known.keys()
        return {**known, **given} if whole else {**given, **known}
    found = given or known or _of_prompts(out)
    if found:
        return found
    done = latest_round(out / KEPT)
    raise OutputError(
        f"{out}: {CONFIG} and {RUN_FILE} are gone, which say how the run was started; put one of them back, or say its "
        f"settings again: psp-ray run --out {out} --resume --dataset ... ({counted(done, 'round')} "
        "and all labels are there)"
    )


def _of_config(out: Path) -> dict[str, Any]:
    """What `config.yaml` says; nothing where it is gone or empty. Raises ConfigError where it can't be read."""
    if not is_file(out / CONFIG):
        return {}
    remedy = "put it right: no other file says the settings of the run"
    given = read_yaml(out / CONFIG, "", remedy, remedy)
    if not isinstance(given, dict) and given is not None:
        raise ConfigError(f"{out / CONFIG}: expected lines of 'key: value'; {remedy}")
    return {str(key).replace("-", "_"): value for key, value in (given or {}).items()}


def written_by(out: Path, name: str) -> Path:
    """The path of what a run writes at its end, in the folder `out`.

    Raises:
        OutputError: it isn't there: no run is, or it has not finished, or the file has gone since.
    """
    path = out / name
    if is_file(path):
        return path
    require_run(out)
    settings, summary = settings_in(out), _summary(out)  # without settings there is no going on
    again = f"psp-ray continue {out}"
    if summary.get("strategy") == ZERO_SHOT:
        raise OutputError(
            f"{out}: {ZERO_SHOT} learns nothing, so there is no {name}; start a run with another --strategy"
        )
    if summary.get("status") == "finished" or (out / KEPT / FINISHED).is_file():
        raise OutputError(f"{path}: is missing, though the run has finished; {again} writes it anew")
    done, waits = latest_round(out / KEPT), summary.get("awaiting") or {}
    stands = f"round {done} of {settings.get('rounds')} is done" if done else "no round is done yet"
    if waits.get("round") == done + 1:
        stands = f"it waits for {counted(waits['missing'], 'label')} of round {waits['round']}"
    raise OutputError(f"{out}: no {name} yet, since the run has not finished ({stands}); go on with: {again}")


def _summary(out: Path) -> dict[str, Any]:
    try:
        return read_summary(out) if (out / SUMMARY).is_file() else {}
    except DamagedFile:
        return {}


def _of_record(out: Path) -> dict[str, Any] | None:
    try:
        return read_run(out).settings
    except DamagedFile:
        return None


def _of_prompts(out: Path) -> dict[str, Any] | None:
    try:
        with safe_open(out / PROMPTS, framework="numpy") as file:
            told = json.loads((file.metadata() or {})["provenance"])["config"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    return {key: value for key, value in told.items() if key in fields()} if isinstance(told, dict) else None
