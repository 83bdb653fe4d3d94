"""The output folder of a run: whether it can be used, and whose it is."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from psp_ray.config.base import option_name
from psp_ray.config.config import Config
from psp_ray.core.errors import OutputError
from psp_ray.core.files import LOCK, make_folder, read_json, write_json, write_text

RUN_FILE = "run.json"
SUMMARY = "summary.json"


def default_out(config: Config) -> Path:
    """`runs/DATASET-STRATEGY-seedN`, with a number behind it where that is taken (unless resuming)."""
    name = Path(config.data.dataset.partition(":")[0]).name or "data"
    base = Path("runs") / f"{name}-{config.policy.shown_strategy}-seed{config.runtime.seed}"
    if config.output.resume:
        return base
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def check_out(config: Config, out: Path) -> None:
    """Look whether `out` can be used at all; touches nothing.

    Raises:
        OutputError: not a folder, not writable, used while not resuming, or holding something else.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out {out}: a file of that name exists; choose another folder")
    parent = out
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"--out {out}: {parent} is not a writable folder; choose another one")
    entries = {path.name for path in out.iterdir()} - {LOCK} if out.exists() else set()
    if not entries:
        return
    if not config.output.resume:
        raise OutputError(f"--out {out}: the folder is not empty; add --resume to continue it, or choose another one")
    if RUN_FILE not in entries and any(not name.startswith(".") for name in entries):
        raise OutputError(f"--out {out}: the folder holds something else than a run of psp-ray; choose another one")


def open_out(config: Config, out: Path) -> str:
    """Create the output folder, or enter it again; returns the experiment id.

    Raises:
        OutputError: as `check_out`, or the run there was started with other settings.
    """
    check_out(config, out)
    if (out / RUN_FILE).exists():
        record = read_json(out / RUN_FILE)
        changed = differences(record["identity"], config.identity())
        if changed:
            raise OutputError(f"--resume: {out} was started with {changed}; give the same settings, or another --out")
        if not (out / "config.yaml").exists():
            write_text(out / "config.yaml", config.to_yaml())
        return str(record["experiment"])
    # Unique for ever, and readable in the ledger's account.
    experiment = f"{out.absolute().name[:20]}-{uuid.uuid4().hex[:12]}"
    make_folder(out)
    # First what makes the folder a run: killed after it, the run can be resumed.
    write_json(out / RUN_FILE, {"experiment": experiment, "identity": config.identity()})
    write_text(out / "config.yaml", config.to_yaml())
    return experiment


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first settings in which two identities differ, in words; empty where they agree.

    A setting that the older version of psp-ray did not know had its default; one that is no more is left out.
    """
    defaults = Config().identity()
    keys = [key for key in new if old.get(key, defaults[key]) != new[key]]
    return ", ".join(f"{option_name(key)} {old.get(key, defaults[key])} (now {new[key]})" for key in keys[:3])


def write_user_file(path: Path, text: str) -> None:
    """Write a file where the user asked for it.

    Raises:
        OutputError: it can't be written there.
    """
    write_text(path, text)


def finished_summary(out: Path) -> dict[str, Any] | None:
    """`summary.json` of a finished run; None where it has not finished."""
    path = out / SUMMARY
    if not path.exists():
        return None
    summary: dict[str, Any] = read_json(path)
    return summary if summary["status"] == "finished" else None
