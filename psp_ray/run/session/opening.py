"""From what a program gives to the opened run of a session."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError
from psp_ray.core.threads import limit_threads
from psp_ray.run.asking import ASKED
from psp_ray.run.command import Rounds, entered, made_ready
from psp_ray.run.continuing import check_left, continued, with_size_of_run
from psp_ray.run.events import Events
from psp_ray.run.folder import check_out, default_out, has_run
from psp_ray.run.given import check_named
from psp_ray.run.logbook import logbook
from psp_ray.run.messages import title_of, where_text
from psp_ray.run.mirror import mirror_of
from psp_ray.run.prepare import prepare, require_labels, settled
from psp_ray.run.resolve import resolve
from psp_ray.run.runtime import OpenRuntime
from psp_ray.run.session.sources import Keeper, as_class_embeddings, as_classes, as_dataset
from psp_ray.run.watching import Watcher
from psp_ray.run.withdrawal import withdrawn


def open_rounds(
    config: Config, events: Events, open_runtime: OpenRuntime, watchers: Sequence[Watcher] = ()
) -> tuple[Rounds, ExitStack]:
    """The run in its folder, locked, featurized and at its newest checkpoint; closing the stack leaves it to others.

    Raises UserError as `psp_ray.run.command.run`.
    """
    started = time.perf_counter()
    limit_threads(config.runtime.threads)
    out = Path(config.output.out or default_out(config))
    check_out(config, out)
    check_named(config)
    mirror = mirror_of(config.output.storage, out, events.note)
    if mirror is not None:
        mirror.restore(resume=True)
    config = with_size_of_run(config, out)
    events.note(where_text(config))
    begun = has_run(out)
    prepared = prepare(config, begun=begun, out=out)
    if begun:
        check_left(out, prepared.config, prepared.dataset)
    require_labels(prepared.config, prepared.dataset)
    prepared = settled(prepared)
    with ExitStack() as stack:
        experiment_id = stack.enter_context(entered(prepared, out, mirror, events, continuing=begun))
        title = title_of(prepared.config, out)
        with withdrawn(out, begun):
            heard = stack.enter_context(logbook(out, title, events, prepared.config.labels.rounds))
            runtime = stack.enter_context(open_runtime(prepared.config))
            rounds = made_ready(prepared, runtime, out, experiment_id, heard, started, by_hand=True, watchers=watchers)
        if rounds.people is not None:
            stack.callback(rounds.people.close)
        rounds.experiment.begin()
        if rounds.experiment.over:
            rounds.tell_left_out()
        return rounds, stack.pop_all()


def session_settings(
    images: Any,
    classes: str | os.PathLike[str] | Sequence[str] | None,
    out: str | os.PathLike[str] | None,
    ids: Sequence[str] | None,
    class_embeddings: Any,
    settings: Mapping[str, Any],
) -> Config:
    """The settings of a new run, or of the one in `out`; arguments as `Session` takes them.

    Raises:
        UserError: one line for what is wrong with them.
    """
    given = {"runner": "inline", **settings}
    if out is not None and not (isinstance(out, str | os.PathLike) and os.fspath(out)):
        raise ConfigError(f"out {out!r}: give the path of a folder, or leave it out")
    keep = Keeper(None if out is None else Path(out))
    if images is not None:
        given["dataset"] = as_dataset(images, ids, keep)
        given["classes"] = as_classes(classes, keep)
        given["class_embeddings"] = as_class_embeddings(class_embeddings, classes, keep)
    if out is not None and has_run(Path(out)):
        return _with_people(continued(Path(out), given))
    if images is None:
        place = "out: no folder is given" if out is None else f"{Path(out)}: holds no run yet"
        raise ConfigError(f"{place}; say which images are to be labeled")
    given = {"oracle": "people", "resume": out is not None, **given, "out": None if out is None else str(out)}
    return _with_people(resolve(given))


def _with_people(config: Config) -> Config:
    if config.labels.oracle not in (*ASKED, "ground-truth", "simulated"):
        raise ConfigError(f"--oracle {config.labels.oracle}: a session asks {', '.join(ASKED)}, or those who know")
    return config
