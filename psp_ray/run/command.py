"""What the sub-command `run` does, from a resolved configuration to the files of a finished run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psp_ray.config.config import Config
from psp_ray.core.answers import AwaitingLabels
from psp_ray.core.errors import Interrupted
from psp_ray.core.files import alone
from psp_ray.core.records import Proposal
from psp_ray.core.threads import limit_threads
from psp_ray.core.words import counted
from psp_ray.data.dataset import Dataset
from psp_ray.data.own import initial_labels, readable
from psp_ray.features.featurize import FeaturizedDataset, write_broken
from psp_ray.report.progress import Reporter
from psp_ray.run.ahead import AnsweredAhead
from psp_ray.run.asked import drop_asked, write_asked
from psp_ray.run.asking import ASKED
from psp_ray.run.assemble import component_inputs, evaluation_split
from psp_ray.run.checkpoint import latest_round
from psp_ray.run.classes import RunClasses, with_names
from psp_ray.run.context import RunContext
from psp_ray.run.continuing import check_left, note_changes, note_classes, with_size_of_run
from psp_ray.run.events import Events
from psp_ray.run.featurizing import featurize_prepared
from psp_ray.run.finish import finish, pool_names
from psp_ray.run.folder import (
    BROKEN,
    SUMMARY,
    check_out,
    default_out,
    finished_summary,
    has_run,
    open_out,
    seal_finished,
    unseal_finished,
)
from psp_ray.run.folder import KEPT as CHECKPOINTS
from psp_ray.run.given import check_named
from psp_ray.run.left_out import tell_left_out, tell_left_out_before
from psp_ray.run.local import LocalLabelSource
from psp_ray.run.logbook import logbook
from psp_ray.run.loop import Experiment, InitialLabels
from psp_ray.run.messages import accuracy_text, ask_people, say_goodbye, title_of, where_text
from psp_ray.run.mirror import RunMirror, mirror_of
from psp_ray.run.output import write_labels, write_policy, write_rounds, write_summary
from psp_ray.run.people import People, hand_classes
from psp_ray.run.picks import write_picks
from psp_ray.run.prepare import (
    Loaded,
    Prepared,
    check_budget,
    check_classes,
    prepare,
    require_labels,
    settled,
    with_pool_size,
)
from psp_ray.run.revised import taken_up_again
from psp_ray.run.runtime import OpenRuntime, Runtime, inline
from psp_ray.run.state import PoolNames, RunState
from psp_ray.run.waiting import WaitingLabelSource
from psp_ray.run.watching import Watched, Watcher
from psp_ray.run.withdrawal import withdrawn


def run(
    config: Config,
    events: Events | None = None,
    wait: float = 0.0,
    open_runtime: OpenRuntime = inline,
    watchers: Sequence[Watcher] = (),
    continuing: bool = False,
    loaded: Loaded | None = None,
) -> dict[str, Any]:
    """Run (or resume) an experiment; returns the content of `summary.json`.

    Its `status` is `finished`; or `awaiting_labels`, where with `oracle: file` labels are missing; or `interrupted`,
    where `events` stopped it after a round. Where another process is at work in the output folder, its end is awaited
    for `wait` seconds. `open_runtime` says where components live: `psp_ray.actors.opening` knows Ray, too. `watchers`
    are told of every round that is safe on disk. `continuing`: `config` is that of `psp_ray.run.continuing.continued`,
    and may differ from what it was so far. `loaded`, as `psp_ray.run.prepare.load_for_run` gives it, spares loading it.

    Raises:
        UserError: one line for what is wrong.
        KeyboardInterrupt, Interrupted: after a summary that says so.
    """
    started = time.perf_counter()
    events = events or Reporter(config.labels.rounds)
    limit_threads(config.runtime.threads)
    out = Path(config.output.out) if config.output.out else default_out(config)
    check_out(config, out)
    if loaded is None:
        check_named(config)
    mirror = mirror_of(config.output.storage, out, events.note)
    config = with_size_of_run(config, out)
    title = title_of(config, out)
    events.note(title)
    events.note(where_text(config))
    dataset, classes = (None, None) if loaded is None else loaded
    begun = has_run(out) or (mirror is not None and config.output.resume)
    prepared = prepare(config, dataset, begun=begun, out=out, classes=classes)
    if mirror is not None and mirror.restore(config.output.resume, prepared.config.identity()):
        events.note(f"restored {out} from {config.output.storage}")
        prepared = prepare(with_size_of_run(config, out), begun=True, out=out)
    config = prepared.config
    _require_images(config, prepared.dataset, out, continuing)
    prepared = settled(prepared)
    with entered(prepared, out, mirror, events, wait, continuing) as experiment_id:
        finished = finished_summary(out, events.warn)
        if finished is not None and not taken_up_again(config, prepared.dataset, out, experiment_id, events):
            events.note(f"already finished: {accuracy_text(finished, config)}; see {out / SUMMARY}")
            tell_left_out_before(events, config, out, experiment_id)
            return finished
        unseal_finished(out)
        try:
            with ExitStack() as stack:
                with withdrawn(out, begun):
                    heard = stack.enter_context(logbook(out, title, events, config.labels.rounds))
                    runtime = stack.enter_context(_opened(config, heard, open_runtime))
                    rounds = made_ready(prepared, runtime, out, experiment_id, heard, started, watchers=watchers)
                return rounds.go()
        finally:
            events.stop()


def _require_images(config: Config, dataset: Dataset, out: Path, continuing: bool) -> None:
    """Raise a UserError where rounds ask for more images than there are, or for labels that nobody knows."""
    if not has_run(out):
        check_budget(config, dataset)
    elif continuing:
        check_left(out, config, dataset)
    require_labels(config, dataset)


@contextmanager
def _opened(config: Config, events: Events, open_runtime: OpenRuntime) -> Iterator[Runtime]:
    if config.runtime.runner == "ray":
        events.stage(0, "starting Ray and the components of the run")
    with open_runtime(config) as runtime:
        yield runtime


@contextmanager
def entered(
    prepared: Prepared, out: Path, mirror: RunMirror | None, events: Events, wait: float = 0.0, continuing: bool = False
) -> Iterator[str]:
    """Alone in the output folder, made or gone on with, and with what is newer on storage; gives the experiment's id.

    `wait` and `continuing`: as for `run`.
    """
    config = prepared.config
    with alone(out, wait) as locked:
        if not locked:
            events.warn(f"--out {out}: its file system has no locks; start no second process there")
        if continuing:
            note_changes(out, config)
        experiment_id = open_out(config, out, events.warn)
        if mirror is not None and config.output.resume:
            mirror.take_up()
        note_classes(out, prepared.classes, events.note)
        yield experiment_id


def made_ready(
    prepared: Prepared,
    runtime: Runtime,
    out: Path,
    experiment_id: str,
    events: Events,
    started: float,
    *,
    by_hand: bool = False,
    watchers: Sequence[Watcher] = (),
) -> Rounds:
    """Features encoded, components built: a run that is about to begin, or to be taken up again, in `out`.

    `by_hand`: people answer this program, also where the run was begun with files that they fill in. `watchers`
    are told of every round that is safe on disk.
    """
    data = _featurize(prepared, runtime, out, events)
    initial = _initial_labels(prepared.config, prepared.dataset, data.dataset, events)
    config = with_pool_size(prepared.config, data.dataset)
    return Rounds(config, data, initial, runtime, out, experiment_id, events, started, by_hand, watchers)


def _featurize(prepared: Prepared, runtime: Runtime, out: Path, events: Events) -> FeaturizedDataset:
    data = featurize_prepared(prepared, runtime, events)
    if data.broken:
        write_broken(out / BROKEN, data.broken)
        what = counted(len(data.broken), "image")
        events.warn(f"left out {what} that can't be read; see {out / BROKEN}")
        begun = latest_round(out / CHECKPOINTS) > 0
        check_budget(prepared.config, data.dataset, begun, prepared.dataset)
    return data


def _initial_labels(config: Config, dataset: Dataset, left: Dataset, events: Events) -> InitialLabels:
    """Initial labels as positions in the pool that is left of `dataset` without unreadable images."""
    if not config.data.initial_labels:
        return InitialLabels.none()
    initial, gone = readable(initial_labels(dataset, config.data.initial_labels), dataset, left)
    if gone:
        what = counted(len(gone), "initial label: its image", "initial labels: their images")
        events.warn(f"left out {what} can't be read ({gone[0]}{', ...' if len(gone) > 1 else ''})")
    return InitialLabels(*initial)


def nothing() -> None:
    """Nothing is to be done."""


def unheard(state: RunState, proposal: Proposal) -> None:
    """Nobody is asked, so nobody wants to know why."""


@dataclass
class Rounds:
    """The rounds of a run, and the files that they leave.

    `go` does all of them; a program that goes step by step drives `experiment` itself and ends with `finished` or
    `interrupted`. `people` answer where somebody is asked.
    """

    config: Config
    data: FeaturizedDataset
    initial: InitialLabels
    runtime: Runtime
    out: Path
    experiment_id: str
    events: Events
    started: float
    by_hand: bool = False
    watchers: Sequence[Watcher] = ()
    built: Callable[[], None] = nothing
    """Called when the components stand, before the ledger hears of the run."""

    def __post_init__(self) -> None:
        config = self.config
        self.names: PoolNames = pool_names(self.data)
        self.mirror = mirror_of(config.output.storage, self.out, self.events.note)
        if evaluation_split(config, self.data) is None:
            self.events.note(
                f"no {config.data.evaluate_on} images: accuracy is estimated from the draws alone; the larger "
                f"--audit-fraction (now {config.policy.audit_share:g}), the sharper"
            )
        inputs = component_inputs(config, self.data, self.out, self.experiment_id)
        components = self.runtime.components(inputs)
        self.backbone = components.learner.backbone().result()
        self.built()
        hand_classes(inputs.oracle)
        asked = config.labels.oracle in (ASKED if self.by_hand else ASKED[:1])
        self.people = People.of(inputs.oracle) if asked else None
        self.waiting: WaitingLabelSource | None = None
        ahead = None
        if self.people is not None:
            self.waiting = self._waiting(self.people)
            components = replace(components, oracle=self.waiting or LocalLabelSource(self.people.oracle))
            ahead = AnsweredAhead(self.people.answers)
        chosen = self._chosen if config.labels.oracle in ASKED else unheard
        self.context = RunContext(config, self.names, components, self.experiment_id, self.events, chosen)
        self.experiment = Experiment(self.context, self.out, self.initial, self._saved, ahead)

    def _waiting(self, people: People) -> WaitingLabelSource | None:
        """Where people label elsewhere, and the run waits for them."""
        if self.by_hand or not self.config.labels.label_wait:
            return None
        return WaitingLabelSource(
            people,
            self.data.dataset,
            self.data.pool,
            self.names,
            Path(self.config.data.dataset).name or self.out.name,
            self.config.labels.rounds,
            self.config.labels.label_wait,
            self.events,
        )

    def with_classes(self, classes: RunClasses) -> Rounds:
        """The same run with other classes, at its newest checkpoint. What can't be built leaves everything as it was.

        Raises UserError for classes without what the run needs of them.
        """
        dataset = with_names(self.data.dataset, classes)
        check_classes(self.config, dataset)
        data = replace(self.data, dataset=dataset)
        rounds = replace(self, data=data, built=lambda: note_classes(self.out, classes, self.events.note))
        rounds.experiment.begin()
        return rounds

    def change(self, config: Config) -> None:
        """Go on under other settings of what is still to come (`psp_ray.run.continuing`)."""
        self.config = config
        self.context = self.experiment.change(config)

    @property
    def image_size(self) -> int:
        return int(self.backbone["image_size"][0])

    def go(self) -> dict[str, Any]:
        """All rounds; returns the summary."""
        experiment = self.experiment
        try:
            ended = experiment.run()
        except AwaitingLabels as error:
            return self._await(experiment.state, error)
        except (KeyboardInterrupt, SystemExit, Interrupted):
            self.interrupted()
            raise
        return self.finished() if ended else self.interrupted()

    def finished(self) -> dict[str, Any]:
        """The files of a finished run; returns the summary."""
        config, out, state = self.config, self.out, self.experiment.state
        assert state is not None
        extra = finish(config, self.data, self.context, state, out, self.backbone)
        self._write_round(state)
        self.events.stop()
        wall = self.experiment.wall_seconds + self.experiment.started - self.started
        summary = write_summary(out, config, "finished", state, wall, self.image_size, extra)
        seal_finished(out)
        if self.waiting is not None:
            self.waiting.over()
        self._ended(finished=True)
        self._copy()
        left = self.context.n_pool - len(state.asked)
        say_goodbye(self.events, config, summary, state, out, left, images=self.data.dataset.embeddings is None)
        self.tell_left_out()
        return summary

    def tell_left_out(self) -> None:
        """How many answers the result doesn't hold."""
        state = self.experiment.state
        assert state is not None
        tell_left_out(self.events, self.config, self.data.dataset, self.out, self.experiment_id, state, self.names)

    def _saved(self, state: RunState) -> None:
        self._write_round(state)
        for watcher in self.watchers:
            watcher.after_round(self._watched, state)
        self._copy()

    def _chosen(self, state: RunState, proposal: Proposal) -> None:
        """While people are asked, `psp-ray explain` says why."""
        write_asked(self.out, state, proposal, self.context.logits(state, proposal.positions), self.names)

    def _ended(self, finished: bool) -> None:
        for watcher in self.watchers:
            watcher.at_end(self._watched, self.experiment.state, finished)

    @property
    def _watched(self) -> Watched:
        return Watched(self.out, self.config, self.data, self.events)

    def _write_round(self, state: RunState) -> None:
        write_rounds(self.out, state)
        write_labels(self.out, state, self.names)
        write_policy(self.out, state)
        write_picks(self.out, state, self.names, self.events.warn)
        drop_asked(self.out)

    def _copy(self) -> None:
        if self.mirror is not None:
            self.mirror.save()

    def _await(self, state: RunState | None, error: AwaitingLabels) -> dict[str, Any]:
        """The run rests until people have labeled; everything so far is safe."""
        self.events.stop()
        self._copy()
        number = (state.round if state else 0) + 1
        waiting = {"awaiting": {"round": number, "missing": error.missing, "asked": error.asked, "file": error.place}}
        wall = time.perf_counter() - self.started
        summary = write_summary(self.out, self.config, "awaiting_labels", state, wall, self.image_size, waiting)
        self._ended(finished=False)
        ask_people(self.events, self.out, number, error, self.waiting is not None)
        return summary

    def interrupted(self, advice: str = "") -> dict[str, Any]:
        """The summary of a run that rests here, and can be taken up again; `advice` says how."""
        state = self.experiment.state
        self.events.stop()
        wall = time.perf_counter() - self.started
        summary = write_summary(self.out, self.config, "interrupted", state, wall, self.image_size)
        self._ended(finished=False)
        self.events.note(advice or f"interrupted; go on with: psp-ray continue {self.out}")
        return summary
