"""The output folder of a run: whether it can be used, and whose it is."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from psp_ray.acquisition import unread
from psp_ray.config.base import option_name
from psp_ray.config.config import RESUMABLE, RUN_ONLY, Config, fields
from psp_ray.core.errors import OutputError, UserError
from psp_ray.core.files import LOCK, make_folder, write_lines, write_text
from psp_ray.core.ours import mark
from psp_ray.core.sealed import (
    DamagedFile,
    Document,
    file_digest,
    fitting,
    read_document,
    read_object,
    write_sealed,
)
from psp_ray.core.words import masked
from psp_ray.core.writing import writing
from psp_ray.run.asking import LEDGER
from psp_ray.run.checkpoint import latest_round, newest

RUN_FILE = "run.json"
SUMMARY = "summary.json"
CONFIG = "config.yaml"
PROMPTS = "prompts.safetensors"
PREDICTIONS = "pool_predictions.parquet"
PICKS = "picks.parquet"
BROKEN = "broken_images.csv"
KEPT = "checkpoints"
"""Where a copy of `run.json` lies, and the digests of a finished run's files."""
FINISHED = "finished.json"
FILES = (
    SUMMARY,
    PROMPTS,
    PREDICTIONS,
    "labels.parquet",
    "policy.parquet",
    PICKS,
    "rounds.csv",
    BROKEN,
    "learning_curve.png",
    "calibration.png",
)
"""What a finished run leaves behind and can write anew from its checkpoints."""


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
    if not has_run(out) and any(not name.startswith(".") for name in entries):
        raise OutputError(f"--out {out}: the folder holds something else than a run of psp-ray; choose another one")


def has_run(out: Path) -> bool:
    """Whether a run was begun in the folder: by its `run.json`, the copy of it, or a round that is done."""
    return (out / RUN_FILE).exists() or (out / KEPT / RUN_FILE).exists() or latest_round(out / KEPT) > 0


class RunRecord(Document):
    """`run.json`: whose folder it is. `experiment`: its name in the ledger, for ever; `folder`: where it was started,
    which relative paths are seen from; `where`: the other settings, of where and how it is executed, as in
    `config.yaml`."""

    experiment: str = Field(min_length=1)
    identity: dict[str, Any]
    folder: str = ""
    where: dict[str, Any] = Field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """All that is known here of the run's settings, those of them that there still are."""
        return {key: value for key, value in {**self.where, **self.identity}.items() if key in fields()}


def open_out(config: Config, out: Path, warn: Callable[[str], None] = lambda text: None) -> str:
    """Create the output folder, or enter it again; returns the experiment id. `warn` hears what had to be mended.

    Raises:
        OutputError: as `check_out`, or the run there was started with other settings.
    """
    check_out(config, out)
    if has_run(out):
        try:
            record = read_run(out, warn)
        except DamagedFile as error:
            record, source = _run_again(config, out)
            _write_run(out, record)
            warn(f"{error.path} {error.reason}; written anew {source}")
        changed = differences(record.identity, {**config.identity(), **_free(record.identity)})
        if changed:
            raise OutputError(f"--resume: {out} was started with {changed}; give the same settings, or another --out")
        where = _where(_mend_config(config, out, record, warn))
        if (record.identity, record.where) != (config.identity(), where):
            _write_run(out, record.model_copy(update={"identity": config.identity(), "where": where}))
        return record.experiment
    experiment = _new_experiment(out)
    make_folder(out)
    mark(out)
    # First what makes the folder a run: killed after it, the run can be resumed.
    identity = config.identity()
    _write_run(out, RunRecord(experiment=experiment, identity=identity, folder=os.getcwd(), where=_where(config)))
    write_text(out / CONFIG, config.to_yaml())
    return experiment


def _new_experiment(out: Path) -> str:
    """Unique for ever, and readable in the ledger's account."""
    return f"{out.absolute().name[:20]}-{uuid.uuid4().hex[:12]}"


def _where(config: Config) -> dict[str, Any]:
    """Where and how a run is executed, without what every command says anew; passwords masked."""
    kept = {key: value for key, value in config.flat().items() if key in RUN_ONLY and key not in ("out", "resume")}
    return {key: masked(value) if isinstance(value, str) else value for key, value in kept.items()}


def _free(identity: dict[str, Any]) -> dict[str, Any]:
    """What a run may be resumed with otherwise: the pool may shrink and grow between two rounds."""
    return {key: value for key, value in identity.items() if key in RESUMABLE}


def read_run(out: Path, warn: Callable[[str], None] | None = None) -> RunRecord:
    """`run.json` of a run's folder, or the copy beside its checkpoints where it is damaged.

    With `warn`, the damaged one is written anew, and `warn` hears of it.

    Raises:
        DamagedFile: neither is whole.
    """
    places = (out / RUN_FILE, out / KEPT / RUN_FILE)
    failed: list[DamagedFile] = []
    found = None
    for path in places:
        try:
            record = read_document(path, RunRecord)
            found = found or record
        except DamagedFile as error:
            failed.append(error)
    if found is None:
        raise failed[0]
    for damaged in failed if warn is not None else ():
        assert warn is not None
        make_folder(damaged.path.parent)
        write_sealed(damaged.path, found.model_dump())
        if damaged.path == places[0]:
            warn(f"{damaged.path} {damaged.reason}; written anew from its copy")
    return found


def home_of(out: Path) -> str:
    """The folder that the run in `out` was started in, which its relative paths are seen from; empty if not known."""
    try:
        return read_run(out).folder
    except DamagedFile:
        return ""


def _write_run(out: Path, record: RunRecord) -> None:
    write_sealed(out / RUN_FILE, record.model_dump())
    make_folder(out / KEPT)
    write_sealed(out / KEPT / RUN_FILE, record.model_dump())


def change_identity(out: Path, changes: dict[str, Any], config: Config) -> None:
    """Make `changes` settings of the run in `out`, and `config` what its `config.yaml` says; a `run.json` that is gone
    is written when the folder is opened."""
    with suppress(DamagedFile):
        record = read_run(out)
        now = {"identity": {**record.identity, **changes}, "where": _where(config)}
        _write_run(out, record.model_copy(update=now))
    write_text(out / CONFIG, config.to_yaml())


def _run_again(config: Config, out: Path) -> tuple[RunRecord, str]:
    """Whose run it is where `run.json` is lost, and what says so: the newest checkpoint, or the run's own ledger.

    Without either it is a new one: what was bought before costs nothing.
    """
    checkpoint = newest(out / KEPT)
    experiment = checkpoint.state.get("experiment_id") if checkpoint is not None else None
    source = "from the newest checkpoint and the settings given now"
    if not isinstance(experiment, str):
        experiment, source = _only_experiment(out / LEDGER), f"from {LEDGER} and the settings given now"
    if experiment is None:
        experiment = _new_experiment(out)
        source = "with the settings given now, under a new name in the ledger (labels in it are not paid again)"
    return RunRecord(experiment=experiment, identity=config.identity(), where=_where(config)), source


def _only_experiment(ledger: Path) -> str | None:
    """The experiment of a ledger that holds no other one."""
    if not ledger.is_file():
        return None
    from psp_ray.labels import Ledger

    try:
        with Ledger(ledger) as opened:
            found = [str(row["experiment"]) for row in opened.status()["experiments"]]
    except UserError:  # whoever needs the ledger says what is wrong with it
        return None
    return found[0] if len(found) == 1 else None


def _mend_config(config: Config, out: Path, record: RunRecord, warn: Callable[[str], None]) -> Config:
    """`config.yaml`, written anew where it doesn't say any more what the run was started with; returns what it says."""
    path = out / CONFIG
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            found = Config(**content)
            if found.identity() == config.identity() and content.keys() >= record.settings.keys():
                return found
        reason = "says something else than the run" if content else "is empty"
    except FileNotFoundError:
        reason = "is missing"
    except (OSError, ValueError, TypeError, yaml.YAMLError, UserError):
        reason = "is damaged"
    known = {key: value for key, value in record.where.items() if key in RUN_ONLY and key in fields()}
    now = config.changed(**known)
    write_text(path, now.to_yaml())
    source = f" from {RUN_FILE}"
    if not known:  # of an older version
        source = (
            f": what the result hangs on from {RUN_FILE}, and where and how it is run (--runner "
            f"{config.runtime.runner}, --cache, --ledger, ...) as given now"
        )
    warn(f"{path} {reason}; written anew{source}")
    return now


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first settings in which two identities differ, in words; empty where they agree.

    A setting that the older version of psp-ray did not know had its default; one that is no more is left out, and so is
    what only other strategies read: a new default of the policy's makes no new run of random selection.
    """
    defaults, idle = Config().identity(), unread(str(new.get("strategy")))
    keys = [key for key in new if old.get(key, defaults[key]) != new[key] and key not in idle]
    return ", ".join(f"{option_name(key)} {old.get(key, defaults[key])} (now {new[key]})" for key in keys[:3])


def write_user_file(path: Path, lines: Iterable[str]) -> None:
    """Write a file where the user asked for it.

    Raises:
        OutputError: it can't be written there.
    """
    write_lines(path, lines)


class Summary(Document):
    """What of `summary.json` others rely on."""

    status: Literal["finished", "awaiting_labels", "interrupted"]
    zero_shot_accuracy: float | None
    final_accuracy: float | None
    labels_used: int
    labels_paid: int
    wall_seconds: float
    rounds: list[dict[str, Any]]


def read_summary(out: Path) -> dict[str, Any]:
    """`summary.json` of a run's folder.

    Raises:
        DamagedFile: missing, damaged, or not what psp-ray writes there.
    """
    content = read_object(out / SUMMARY)
    fitting(out / SUMMARY, content, Summary)
    return content


def finished_summary(out: Path, warn: Callable[[str], None] = lambda text: None) -> dict[str, Any] | None:
    """`summary.json` of a finished run; None where it has not finished, or where files of it are damaged or gone.

    `warn` hears of the latter: a resumed run then writes them anew.
    """
    if not (out / SUMMARY).exists() and not (out / KEPT / FINISHED).exists():
        return None
    try:
        summary = read_summary(out)
    except DamagedFile as error:
        warn(f"{error.path} {error.reason}; written anew from the checkpoints")
        return None
    if summary["status"] != "finished":
        return None
    wrong = _not_as_written(out)
    if wrong:
        warn(f"{out}: {', '.join(wrong)}; written anew from the checkpoints")
        return None
    return summary


class Finished(Document):
    """`checkpoints/finished.json`: the digests of a finished run's files."""

    files: dict[str, str]


def seal_finished(out: Path) -> None:
    """Note what the files of a finished run are, so that damage is found later. Raises OutputError."""
    found = {name: file_digest(out / name) for name in FILES}
    make_folder(out / KEPT)
    write_sealed(out / KEPT / FINISHED, {"files": {name: digest for name, digest in found.items() if digest}})


def unseal_finished(out: Path) -> None:
    """The run goes on: what it wrote when it was finished counts no more. Raises OutputError."""
    with writing(out / KEPT / FINISHED):
        (out / KEPT / FINISHED).unlink(missing_ok=True)


def require_as_written(file: Path) -> None:
    """Compare a file of a finished run with what the run wrote there. Where that is not known, any will do.

    Raises:
        DamagedFile: it is another one.
    """
    try:
        seals = read_document(file.parent / KEPT / FINISHED, Finished).files
    except DamagedFile:
        return
    if file.name in seals and file_digest(file) != seals[file.name]:
        raise DamagedFile(file, "is damaged, or was changed since the run finished")


def _not_as_written(out: Path) -> list[str]:
    """Files of a finished run that are damaged or gone, in words."""
    try:
        seals = read_document(out / KEPT / FINISHED, Finished).files
    except DamagedFile as error:  # or of an older version: then there is nothing to compare with
        if latest_round(out / KEPT):
            return [f"{KEPT}/{FINISHED} {error.reason}"]  # what can be written anew is, whatever is left of it
        return [f"{name} is missing" for name in (PROMPTS, PREDICTIONS) if not (out / name).exists()]
    now = {name: file_digest(out / name) for name in seals}
    return [
        f"{name} is {'missing or unreadable' if now[name] is None else 'damaged'}"
        for name in seals
        if now[name] != seals[name]
    ]
