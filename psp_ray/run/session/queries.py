"""The query set of the round to come: chosen once, described, and looked at for what is still open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from psp_ray.core.answers import AwaitingLabels
from psp_ray.core.errors import UserError
from psp_ray.core.records import Int64Array, Proposal
from psp_ray.core.words import counted
from psp_ray.posterior.audit import BoolArray
from psp_ray.run.command import Rounds
from psp_ray.run.round import Round, part_of
from psp_ray.run.session.beliefs import Beliefs
from psp_ray.run.session.records import QuerySet
from psp_ray.run.state import RunState


class Queries:
    """Query sets of a run, one after the other."""

    def __init__(self, rounds: Rounds, beliefs: Beliefs) -> None:
        self._rounds, self._beliefs = rounds, beliefs
        self._turn: tuple[Round, Proposal] | None = None

    def propose(self, n: int | None) -> QuerySet:
        """See `Session.propose`."""
        turn, proposal = self._open(n)
        by_chance = np.arange(len(proposal.positions)) < proposal.n_audit
        return self._described(turn.number, proposal.positions, by_chance, turn.state)

    def ahead(self, n: int) -> QuerySet:
        """See `Session.ahead`."""
        turn, proposal = self._open(None)
        positions = self._beliefs.next_best(turn, proposal.positions, n)
        return self._described(turn.number, positions, np.zeros(len(positions), bool), turn.state)

    def learn(self, part: bool) -> None:
        """Learn from the query set, or from the part of it that is labeled, and keep the round; see `Session.learn`."""
        turn, proposal = self._open(None)
        answered = self._answered(proposal.positions)
        asked, missing = len(answered), int((~answered).sum())
        if missing and (not part or missing == asked):
            raise AwaitingLabels(
                f"{missing} of {counted(asked, 'image')} of round {turn.number} "
                f"{'is' if missing == 1 else 'are'} not labeled yet; label the open ones first",
                missing,
                asked,
            )
        proposal = part_of(proposal, np.flatnonzero(answered))
        with self._as_before():
            self._rounds.experiment.keep(turn, turn.go_on(proposal))
        self._turn = None

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """Where a round fails half-way, its components are as they were, so that it can be tried again."""
        components = self._rounds.context.components
        sampler, learner = components.sampler.state_dict().result(), components.learner.state_dict().result()
        try:
            yield
        except BaseException:
            components.sampler.load_state_dict(sampler).result()
            components.learner.load_state_dict(learner).result()
            raise

    def _answered(self, positions: Int64Array) -> BoolArray:
        """Which of the images at `positions` (k,) are answered; all of them where nobody is asked."""
        if self._rounds.people is None:
            return np.ones(len(positions), bool)
        hashes = [self._rounds.names.content_hashes[i] for i in positions]
        known = self.known(hashes)
        return np.array([digest in known for digest in hashes], bool)

    def still_open(self, queries: QuerySet) -> list[str]:
        """Those of a query set that nobody has answered by now."""
        known = self.known(queries.content_hashes)
        return [name for name, digest in zip(queries.ids, queries.content_hashes, strict=True) if digest not in known]

    def _open(self, n: int | None) -> tuple[Round, Proposal]:
        experiment = self._rounds.experiment
        if experiment.over:
            more = "" if experiment.exhausted else "add rounds with extend(), or "
            raise UserError(f"the run is over ({experiment.why_over}); {more}start another one")
        if self._turn is None or n not in (None, len(self._turn[1].positions)):
            turn = experiment.next_round(n)
            self._turn = turn, turn.propose()
        return self._turn

    def _described(self, number: int, positions: Int64Array, by_chance: np.ndarray, state: RunState) -> QuerySet:
        names, rounds = self._rounds.names, self._rounds
        ids = tuple(names.sample_ids[i] for i in positions)
        hashes = tuple(names.content_hashes[i] for i in positions)
        known = self.known(hashes)
        paths, images = self._beliefs.pictures(positions)
        return QuerySet(
            round=number,
            classes=tuple(rounds.names.classes),
            ids=ids,
            paths=tuple(paths),
            content_hashes=hashes,
            positions=positions,
            probabilities=self._beliefs.of(state, positions),
            by_chance=by_chance,
            images={name: data for name, data in zip(ids, images, strict=True) if data is not None},
            answers={name: known[digest] for name, digest in zip(ids, hashes, strict=True) if digest in known},
        )

    def known(self, content_hashes: Sequence[str]) -> dict[str, int]:
        """Answers to images by content, given by people or bought before by anybody."""
        people = self._rounds.people
        if people is None:
            return {}
        said = people.answers.effective()
        return people.bought(content_hashes) | {
            digest: said[digest].label for digest in content_hashes if digest in said
        }
