"""What the sub-command `run` does, from a resolved configuration to the files of a finished run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psp_ray.config.config import Config
from psp_ray.core.answers import AwaitingLabels
from psp_ray.core.errors import Interrupted
from psp_ray.core.files import alone, write_json
from psp_ray.core.threads import limit_threads
from psp_ray.data.dataset import Dataset
from psp_ray.data.own import initial_labels, readable
from psp_ray.features.featurize import FeaturizedDataset, write_broken
from psp_ray.report.progress import Reporter
from psp_ray.run.assemble import component_inputs, evaluation_split, oracle_input
from psp_ray.run.build import build_oracle
from psp_ray.run.checkpoint import drop_checkpoint, latest_round
from psp_ray.run.context import RunContext
from psp_ray.run.events import Events
from psp_ray.run.featurizing import featurize_prepared
from psp_ray.run.finish import finish, pool_names
from psp_ray.run.folder import (
    SUMMARY,
    check_out,
    default_out,
    finished_summary,
    has_run,
    open_out,
    read_summary,
    seal_finished,
    unseal_finished,
)
from psp_ray.run.loop import CHECKPOINTS, Experiment, InitialLabels
from psp_ray.run.messages import accuracy_text, ask_people, say_goodbye
from psp_ray.run.mirror import RunMirror
from psp_ray.run.output import write_labels, write_policy, write_rounds, write_summary
from psp_ray.run.prepare import Prepared, check_budget, prepare, require_labels, with_pool_size
from psp_ray.run.runtime import OpenRuntime, Runtime, inline
from psp_ray.run.state import PoolNames, RunState
from psp_ray.storage.remote import Storage


def dry_run(config: Config) -> str:
    """Check every setting and return the resolved configuration as YAML. Writes and buys nothing."""
    out = Path(config.output.out) if config.output.out else default_out(config)
    prepared = prepare(config)
    require_labels(config, prepared.dataset)
    check_out(prepared.config, out)
    return prepared.config.to_yaml()


def run(
    config: Config, events: Events | None = None, wait: float = 0.0, open_runtime: OpenRuntime = inline
) -> dict[str, Any]:
    """Run (or resume) an experiment; returns the content of `summary.json`.

    Its `status` is `finished`; or `awaiting_labels`, where with `oracle: file` labels are missing; or `interrupted`,
    where `events` stopped it after a round. Where another process is at work in the output folder, its end is awaited
    for `wait` seconds. `open_runtime` says where components live: `psp_ray.actors.opening` knows Ray, too.

    Raises:
        UserError: one line for what is wrong.
        KeyboardInterrupt, Interrupted: after a summary that says so.
    """
    started = time.perf_counter()
    events = events or Reporter(config.labels.rounds)
    limit_threads(config.runtime.threads)
    out = Path(config.output.out) if config.output.out else default_out(config)
    check_out(config, out)
    mirror = None if config.output.storage is None else RunMirror(Storage(config.output.storage), out, events.note)
    events.note(
        f"psp-ray: {config.policy.shown_strategy} on {config.data.dataset}, {config.labels.rounds} rounds, "
        f"seed {config.runtime.seed} -> {out}"
    )
    prepared = prepare(config, begun=has_run(out) or (mirror is not None and config.output.resume))
    config = prepared.config
    if mirror is not None and mirror.restore(config.output.resume, config.identity()):
        events.note(f"restored {out} from {config.output.storage}")
    if not has_run(out):
        check_budget(config, prepared.dataset)
    require_labels(config, prepared.dataset)
    with alone(out, wait) as locked:
        if not locked:
            events.warn(f"--out {out}: its file system has no locks; start no second process there")
        experiment_id = open_out(config, out, events.warn)
        if mirror is not None and config.output.resume:
            mirror.take_up()
        finished = finished_summary(out, events.warn)
        if finished is not None and not _reopen(config, prepared.dataset, out, experiment_id, events):
            events.note(f"already finished: {accuracy_text(finished, config)}; see {out / SUMMARY}")
            return finished
        unseal_finished(out)
        try:
            with open_runtime(config) as runtime:
                data = _featurize(prepared, runtime, out, events)
                initial = _initial_labels(config, prepared.dataset, data.dataset, events)
                config = with_pool_size(config, data.dataset)
                return _Run(config, data, initial, runtime, out, experiment_id, events, started).go()
        finally:
            events.stop()


def _featurize(prepared: Prepared, runtime: Runtime, out: Path, events: Events) -> FeaturizedDataset:
    data = featurize_prepared(prepared, runtime, events)
    if data.broken:
        write_broken(out / "broken_images.csv", data.broken)
        what = "1 image" if len(data.broken) == 1 else f"{len(data.broken):,} images"
        events.warn(f"left out {what} that can't be read; see {out / 'broken_images.csv'}")
        check_budget(prepared.config, data.dataset, latest_round(out / CHECKPOINTS) > 0)
    return data


def _initial_labels(config: Config, dataset: Dataset, left: Dataset, events: Events) -> InitialLabels:
    """Initial labels as positions in the pool that is left of `dataset` without unreadable images."""
    if not config.data.initial_labels:
        return InitialLabels.none()
    initial, gone = readable(initial_labels(dataset, config.data.initial_labels), dataset, left)
    if gone:
        what = "1 initial label: its image" if len(gone) == 1 else f"{len(gone):,} initial labels: their images"
        events.warn(f"left out {what} can't be read ({gone[0]}{', ...' if len(gone) > 1 else ''})")
    return InitialLabels(*initial)


@dataclass
class _Run:
    """The rounds of a run, and the files that they leave."""

    config: Config
    data: FeaturizedDataset
    initial: InitialLabels
    runtime: Runtime
    out: Path
    experiment_id: str
    events: Events
    started: float

    def __post_init__(self) -> None:
        storage = self.config.output.storage
        self.names: PoolNames = pool_names(self.data)
        self.mirror = None if storage is None else RunMirror(Storage(storage), self.out, self.events.note)

    def go(self) -> dict[str, Any]:
        """All rounds; returns the summary."""
        config, out, events = self.config, self.out, self.events
        if evaluation_split(config, self.data) is None:
            events.note(
                f"no {config.data.evaluate_on} images: accuracy is estimated from the draws alone; the larger "
                f"--audit-fraction (now {config.policy.audit_share:g}), the sharper"
            )
        components = self.runtime.components(component_inputs(config, self.data, out, self.experiment_id))
        backbone = components.learner.backbone().result()
        image_size = backbone["image_size"][0]
        context = RunContext(config, self.names, components, self.experiment_id, events)
        experiment = Experiment(context, out, self.initial, self._saved)
        try:
            ended = experiment.run()
        except AwaitingLabels as error:
            return self._await(experiment.state, error, image_size)
        except (KeyboardInterrupt, SystemExit, Interrupted):
            self._interrupted(experiment.state, image_size)
            raise
        assert experiment.state is not None
        if not ended:
            return self._interrupted(experiment.state, image_size)
        state = experiment.state
        extra = finish(config, self.data, context, state, out, backbone)
        self._write_round(state)
        events.stop()
        wall = experiment.wall_seconds + experiment.started - self.started
        summary = write_summary(out, config, "finished", state, wall, image_size, extra)
        seal_finished(out)
        self._copy()
        say_goodbye(events, config, summary, state, out)
        return summary

    def _saved(self, state: RunState) -> None:
        self._write_round(state)
        self._copy()

    def _write_round(self, state: RunState) -> None:
        write_rounds(self.out, state)
        write_labels(self.out, state, self.names)
        write_policy(self.out, state)

    def _copy(self) -> None:
        if self.mirror is not None:
            self.mirror.save()

    def _await(self, state: RunState | None, error: AwaitingLabels, image_size: int) -> dict[str, Any]:
        """The run rests until people have labeled; everything so far is safe."""
        self.events.stop()
        self._copy()
        number = (state.round if state else 0) + 1
        waiting = {"awaiting": {"round": number, "missing": error.missing, "asked": error.asked, "file": error.place}}
        wall = time.perf_counter() - self.started
        summary = write_summary(self.out, self.config, "awaiting_labels", state, wall, image_size, waiting)
        ask_people(self.events, self.out, number, error)
        return summary

    def _interrupted(self, state: RunState | None, image_size: int) -> dict[str, Any]:
        self.events.stop()
        wall = time.perf_counter() - self.started
        summary = write_summary(self.out, self.config, "interrupted", state, wall, image_size)
        self.events.note(f"interrupted; continue with the same command and --resume --out {self.out}")
        return summary


def _reopen(config: Config, dataset: Dataset, out: Path, experiment_id: str, events: Events) -> bool:
    """Whether a finished run is to be taken up again: a label was corrected since. Its last round is then repeated."""
    if config.labels.oracle != "file":
        return False
    oracle = build_oracle(oracle_input(config, dataset, out))
    try:
        changed = oracle.revise(experiment_id)
        if not changed and not any(
            c.corrected_at > (out / SUMMARY).stat().st_mtime for c in oracle.ledger.corrections()
        ):
            return False
    finally:
        oracle.ledger.close()
    # In this order a crash in between does it all again, and drops no further round.
    summary = read_summary(out)
    drop_checkpoint(out / CHECKPOINTS, len(summary["rounds"]))
    write_json(out / SUMMARY, summary | {"status": "interrupted"})
    events.note("labels were corrected since the run finished: repeating its last round")
    return True
