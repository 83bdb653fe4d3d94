"""Doing the runs of a comparison: one after the other in this process, or side by side as Ray tasks."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from psp_ray.actors.opening import open_runtime
from psp_ray.config.config import Config
from psp_ray.config.presets import ZERO_SHOT
from psp_ray.core.errors import OthersError, UserError
from psp_ray.core.files import make_folder, write_text
from psp_ray.core.others import fault_of
from psp_ray.core.words import counted
from psp_ray.features.encoder import ChunkResult, ChunkTask
from psp_ray.report.progress import Reporter
from psp_ray.report.round_report import Next, RoundReport
from psp_ray.run.checkpoint import latest_round
from psp_ray.run.command import run
from psp_ray.run.events import Silent
from psp_ray.run.featurizing import featurize_prepared
from psp_ray.run.prepare import Prepared, check_budget
from psp_ray.run.references import run_zero_shot
from psp_ray.studies.plan import Cell, Plan

ERRORS = "errors"
LINGER = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `error` is empty, or one line; `details` a traceback where the fault is the program's."""

    error: str = ""
    details: str = ""


def run_one(settings: str, on_round: Callable[[], None] | None = None) -> Outcome:
    """Run or resume the configuration `settings` (JSON); every failure is an `Outcome`, interrupts pass through."""
    import open_clip  # noqa: F401  (with torch: seconds that belong to no strategy)

    def after_round(report: RoundReport) -> Next:
        if on_round is not None:
            on_round()
        return Next.CONTINUE

    config = Config(**json.loads(settings))
    assert config.output.out is not None
    try:
        if config.policy.preset == ZERO_SHOT:
            run_zero_shot(config, LINGER)
        else:
            run(config, Silent(after_round), LINGER, open_runtime)
    except UserError as error:
        return Outcome(" ".join(str(error).split()), error.details if isinstance(error, OthersError) else "")
    except Exception as error:
        found = fault_of(error)
        return Outcome(first_line(error) if found is None else str(found), traceback.format_exc())
    return Outcome()


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def rounds_done(cell: Cell) -> int:
    """Rounds of a run that are safe on disk."""
    return latest_round(cell.folder / "checkpoints")


# -- features --------------------------------------------------------------------------------------------------------


class _WhenNeeded:
    """A featurizer that starts Ray, or loads the image tower, only when there is an image to encode."""

    def __init__(self, config: Config):
        self._config = config

    def map_chunks(self, tasks: Iterable[ChunkTask]) -> Iterator[ChunkResult]:
        with open_runtime(self._config) as runtime:
            yield from runtime.map_chunks(tasks)


def encode_features(features: list[Prepared], runner: str, reporter: Reporter) -> None:
    """Fill the cache with all features that the runs share.

    Raises:
        UserError: also where broken images leave a pool too small for the rounds.
    """
    for prepared in features:
        config = prepared.config.changed(runner=runner)
        data = featurize_prepared(replace(prepared, config=config), _WhenNeeded(config), reporter)
        if data.broken:
            reporter.warn(
                f"{config.data.dataset}: {counted(len(data.broken), 'image')} can't be read, left out of all runs"
            )
            check_budget(config, data.dataset, whole=prepared.dataset)


# -- runs ------------------------------------------------------------------------------------------------------------


Watcher = Callable[[Cell, Outcome | None], None]
"""Told of every run that ended, and (with None) that something may have moved."""


def execute(plan: Plan, cells: list[Cell], config: Config, parallel: int | None, watch: Watcher) -> None:
    """Do all `cells`; `config` says where (`runner`, `ray_address`, `threads`). A failure of one stops none."""
    errors = plan.out / ERRORS
    for cell in cells:
        (errors / f"{cell.id}.txt").unlink(missing_ok=True)

    def ended(cell: Cell, outcome: Outcome) -> None:
        if outcome.error:
            make_folder(errors)
            write_text(errors / f"{cell.id}.txt", "\n".join([outcome.error, outcome.details]).strip() + "\n")
        watch(cell, outcome)

    if config.runtime.runner == "inline":
        for cell in cells:
            ended(cell, run_one(_as_json(cell.config), partial(watch, cell, None)))
        return
    from psp_ray.actors.tokens import want_token

    want_token(config.runtime.ray_address)
    from psp_ray.actors.tasks import Tasks

    with Tasks(config, parallel) as tasks:
        by_id = {cell.id: cell for cell in cells}
        payloads = {cell.id: _as_json(cell.config) for cell in cells}
        for name, outcome in tasks.run("psp_ray.studies.execute:run_one", payloads):
            if name is None:
                watch(cells[0], None)
            else:
                ended(by_id[name], outcome if isinstance(outcome, Outcome) else Outcome(first_line(outcome)))


def _as_json(config: Config) -> str:
    """All settings of a run, for a process of its own."""
    return json.dumps(config.flat())


def error_of(plan: Plan, cell: Cell) -> str:
    """The one-line error a run ended with; empty where it did not fail."""
    path = plan.out / ERRORS / f"{cell.id}.txt"
    return path.read_text(encoding="utf-8").splitlines()[0] if path.exists() else ""
