"""`psp_ray.Session`: the round loop, one step at a time, for notebooks and programs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError, UserError
from psp_ray.core.words import counted
from psp_ray.report.round_report import RoundReport
from psp_ray.run.command import Rounds
from psp_ray.run.continuing import note_changes
from psp_ray.run.events import Events, Silent
from psp_ray.run.folder import unseal_finished
from psp_ray.run.runtime import OpenRuntime, inline
from psp_ray.run.session.answering import Answering
from psp_ray.run.session.beliefs import Beliefs
from psp_ray.run.session.classifying import Encoder
from psp_ray.run.session.given import text_of, whole
from psp_ray.run.session.opening import open_rounds, session_settings
from psp_ray.run.session.queries import Queries
from psp_ray.run.session.records import Advice, QuerySet, rounds_html
from psp_ray.run.session.renaming import Renaming
from psp_ray.run.session.telling import Telling
from psp_ray.run.state import RunState
from psp_ray.run.watching import Watcher


class Session(Telling, Renaming):
    """A run of rounds, driven by you: `propose`, `label`, `learn`, and again.

    What a method did is on disk when it returns. The same answers give the same bits as `psp-ray run` with these
    settings, which can go on where a session ended, and the other way round. One thread at a time.

    Args:
        images: a folder, manifest or file of embeddings, a list of image files, or an array (n, d) of embeddings; None
            where `out` holds a run.
        classes: names, a file of them, or None where `images` says them (class folders).
        out: the run's folder, made or gone on with; default: runs/DATASET-STRATEGY-seedN.
        ids: names of the images or embeddings that are given as a list or array; default: paths, or numbers.
        class_embeddings: an array (C, d) or file; embeddings without a text tower need them.
        events: who listens; default: nobody.
        open_runtime: where components live; `psp_ray.actors.opening.open_runtime` knows Ray.
        settings: any setting of a run (`rounds=12`, ...). `oracle` is `people`; with `ground-truth` the labels
            are known, and `learn` asks nobody.

    Raises UserError, one line for what is wrong, before anything is bought.

    Examples:
        >>> session = Session("photos", ["cat", "dog"], out="runs/mine")  # doctest: +SKIP
        >>> session.label({name: look(name) for name in session.propose()})  # doctest: +SKIP
        >>> session.learn()  # doctest: +SKIP
    """

    def __init__(
        self,
        images: Any = None,
        classes: str | os.PathLike[str] | Sequence[str] | None = None,
        *,
        out: str | os.PathLike[str] | None = None,
        ids: Sequence[str] | None = None,
        class_embeddings: Any = None,
        events: Events | None = None,
        open_runtime: OpenRuntime = inline,
        **settings: Any,
    ) -> None:
        config = session_settings(images, classes, out, ids, class_embeddings, settings)
        self._open(config, events or Silent(), open_runtime, ())

    @classmethod
    def of(
        cls, config: Config, events: Events, open_runtime: OpenRuntime = inline, watchers: Sequence[Watcher] = ()
    ) -> Self:
        """A session of a run whose settings are complete. Raises as the class does."""
        session = cls.__new__(cls)
        session._open(config, events, open_runtime, watchers)
        return session

    def _open(self, config: Config, events: Events, open_runtime: OpenRuntime, watchers: Sequence[Watcher]) -> None:
        rounds, self._stack = open_rounds(config, events, open_runtime, watchers)
        self._closed = False
        self._take(rounds)

    def _take(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self.classes_ = np.array(rounds.names.classes)
        self._answering = Answering(self.rounds.names)
        self.beliefs = Beliefs(self.rounds)
        self.queries = Queries(self.rounds, self.beliefs)
        self._encode = Encoder(self.rounds)

    @classmethod
    def load(cls, out: str | os.PathLike[str], **settings: Any) -> Self:
        """Go on with the run in `out`; its rounds, labels per round and `stop` may change. Raises as the class does."""
        return cls(out=out, **settings)

    # ---- a round -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """The run after its last finished round."""
        state = self.rounds.experiment.state
        assert state is not None
        return state

    @property
    def round(self) -> int:
        """Rounds finished."""
        return self.state.round

    @property
    def reports(self) -> tuple[RoundReport, ...]:
        """One for each finished round."""
        return self.state.reports

    def propose(self, n: int | None = None) -> QuerySet:
        """The images to label next, the same until `learn` unless another `n` is asked for. Raises UserError where the
        run is over."""
        self._open_still()
        return self.queries.propose(None if n is None else whole("n", n, 1))

    def ahead(self, n: int) -> QuerySet:
        """At most `n` images outside of the query set, chosen as BADGE does, worth labeling while `learn` is at
        work. Answers to them come in when the next round begins."""
        self._open_still()
        return self.queries.ahead(whole("n", n, 0))

    def alike(self, queries: QuerySet) -> list[int]:
        """Which images of a query set look alike: a number (n,) for each, the same for those that do."""
        return self.beliefs.alike(queries.positions)

    def label(self, answers: Mapping[str, str | int], *, person: str = "", way: str = "session") -> int:
        """Answers, {id: class name or index, "skip" (can't tell) or "ignore" (none of the classes)}, durable at once.

        They may be of any image: of the query set, of an earlier one (a correction), or ahead of being asked. Returns
        how many of the query set are still open.

        Raises UserError for a name of no class or no image; then nothing is written.
        """
        self._open_still()
        if self.rounds.people is None:
            raise UserError(f"oracle {self.rounds.config.labels.oracle}: it knows the labels; just learn()")
        queries = self.propose() if not self.over else None
        said = self._answering.said(answers, {} if queries is None else queries.beliefs, text_of("way", way))
        self.rounds.people.answers.write(text_of("person", person), said, uuid.uuid4().hex)
        return 0 if queries is None else len(self.queries.still_open(queries))

    def learn(self, part: bool = False) -> RoundReport:
        """Learn from the labeled query set and finish the round; with `part`, from what of it is labeled.

        Raises AwaitingLabels where labels are missing. Whatever it raises, the round can be tried again.
        """
        self._open_still()
        self.queries.learn(part)
        if self.over:
            self.rounds.finished()
        return self.reports[-1]

    @property
    def advice(self) -> Advice:
        """Whether to go on, and what more rounds should bring."""
        return self.beliefs.advice()

    def extend(self, rounds: int) -> None:
        """Add rounds to the run. A run that a `stop` criterion has ended goes on without that criterion.

        Raises ConfigError for more rounds than there are images left to ask about.
        """
        self._open_still()
        rounds, left = whole("rounds", rounds, 1), len(self.rounds.names.sample_ids) - len(self.state.asked)
        if rounds > left:
            raise ConfigError(f"rounds {rounds}: {counted(left, 'image')} left to ask about; give at most as many")
        changes: dict[str, Any] = {"rounds": max(self.rounds.config.labels.rounds, self.round) + rounds}
        if self.state.stopped:
            changes["stop"] = None
        config: Config = self.rounds.config.changed(**changes)
        note_changes(self.rounds.out, config)
        self.rounds.change(config)

    def save(self) -> Path:
        """Write predictions, class vectors and pictures as they are now, as a finished run has them; returns the run's
        folder. Answers and rounds are always saved."""
        self._open_still()
        self.rounds.finished()
        if not self.over:
            unseal_finished(self.out)
            self.rounds.interrupted(f"saved: {self.out}")
        return self.rounds.out

    def close(self) -> None:
        """Leave the run to others; idempotent. What is known is still told, nothing more is written."""
        self._closed = True
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        names, rounds = self.rounds.names, self.rounds.config.labels.rounds
        head = f"{len(names.sample_ids):,} images, {len(names.classes)} classes, round {self.round} of {rounds}"
        return rounds_html(str(self.out), head, self.reports, self.advice)

    def __repr__(self) -> str:
        return f"Session({str(self.out)!r}, round {self.round} of {self.rounds.config.labels.rounds})"

    # ---- what these are made of ----------------------------------------------------------------------------------

    def _open_still(self) -> None:
        """A closed session's run may be somebody else's by now."""
        if self._closed:
            raise UserError(f"this session is closed; go on with psp_ray.Session.load({str(self.out)!r})")
