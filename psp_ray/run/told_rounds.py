"""Which rounds of a run `psp-ray explain` can tell of, and what is lost of the others."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from psp_ray.core.answers import answer_name
from psp_ray.core.errors import OutputError
from psp_ray.core.records import Int64Array
from psp_ray.core.sealed import DamagedFile
from psp_ray.core.words import did_you_mean, short
from psp_ray.labels.query import query_files
from psp_ray.run.answered import answers_so_far
from psp_ray.run.asked import ASKED_NOW, HASH, read_asked
from psp_ray.run.classes import classes_of
from psp_ray.run.finish import pool_names
from psp_ray.run.folder import PICKS
from psp_ray.run.looked_at import LookedAt
from psp_ray.run.picks import read_picks


@dataclass(frozen=True)
class ToldRound:
    """What is told of one round: its `rows` of picks and where in the pool they are (None: not known).

    `open`: its images are being asked about now; rows that are answered already have their `label`, and `silent` says
    why the others' answers can't be known, where that is so.
    """

    number: int
    rows: list[dict[str, Any]]
    positions: Int64Array | None
    open: bool = False
    silent: str = ""


@dataclass(frozen=True)
class ToldRounds:
    """The rounds of `run` that can be told of, by their number. Of others it is known that they ended, up to round
    `ended`, or began, up to `begun`. `wrong`: what is wrong with the file that tells of the open one."""

    run: LookedAt
    rounds: Mapping[int, ToldRound]
    ended: int
    begun: int
    wrong: str = "is missing"

    @classmethod
    def of(cls, run: LookedAt) -> ToldRounds:
        """Every round of the run that something is known of."""
        state, found = run.state, {}
        if state is not None and run.picks is not None:
            asked, rows = state.asked[state.asked_in > 0], run.picks.to_pylist()
            for number in range(1, state.round + 1):
                mine = [i for i, row in enumerate(rows) if row["round"] == number]
                found[number] = ToldRound(number, [rows[i] for i in mine], asked[mine])
        ended, wrong = run.last, "is missing"
        with suppress(DamagedFile):
            picks = read_picks(run.out / PICKS)
            ended = max([ended, *(picks["round"].to_pylist() if picks is not None else ())])
        try:
            now = read_asked(run.out)
        except DamagedFile as error:
            now, wrong = None, error.reason
        begun = max(_begun(run), now[0] if now else 0)
        if now is not None and now[0] == run.last + 1:
            found[now[0]] = _open_round(run, *now)
        return cls(run, found, max(ended, begun - 1), max(ended, begun), wrong)

    @property
    def done(self) -> list[int]:
        """Rounds that are done, and can be told of."""
        return [one.number for one in self.rounds.values() if not one.open]

    @property
    def open(self) -> int | None:
        """The round that is being asked about and can be told of."""
        return next((one.number for one in self.rounds.values() if one.open), None)

    @property
    def next(self) -> int:
        """The first round that can't be told of."""
        return max(self.rounds, default=self.run.last) + 1

    @property
    def lost(self) -> str:
        """Why nothing can be said of the `next` round though it began, and what helps; empty where it has not begun."""
        number, again = self.next, f"psp-ray continue {self.run.out}"
        if number > self.begun:
            return ""
        if number <= self.ended:
            more = number < self.ended
            which = (
                f"checkpoints of rounds {number} to {self.ended} are" if more else f"checkpoint of round {number} is"
            )
            return f"the {which} lost; {again} does {'them' if more else 'it'} again with the labels bought so far"
        file = self.run.out / ASKED_NOW
        return f"{file} {self.wrong}, which says why images of round {number} are asked about; {again} writes it anew"

    def require(self, number: int) -> ToldRound:
        """Raises OutputError for a round that can't be told of."""
        if number in self.rounds:
            return self.rounds[number]
        if number > self.begun:
            raise OutputError(f"--round {number}: {self.shown()} in {self.run.out}")
        waits = "it waits for labels, but " if number == self.next > self.ended else ""
        raise OutputError(f"--round {number}: {waits}{self.lost}")

    def round_of(self, sample_id: str, number: int | None) -> int:
        """The round in which an image was asked about. Raises OutputError."""
        rounds, run = self.rounds.values(), self.run
        found = [one.number for one in rounds if any(row["sample_id"] == sample_id for row in one.rows)]
        if number in found or (found and number is None):
            return found[0] if number is None else number
        where = f"--sample-id {short(sample_id)}"
        if found:
            raise OutputError(
                f"{where}: it was asked about in round {found[0]}, not in round {number}; leave out --round"
            )
        if self.lost:
            raise OutputError(f"{where}: in no round that can be told of, but {self.lost}")
        listed = f"psp-ray explain {run.out} --round N lists those of a round ({self.shown()})"
        place = {} if run.data is None else pool_names(run.data).places([sample_id])
        known = self._known_before(place.get(sample_id))
        if known:
            raise OutputError(f"{where}: was known before the first round ({known}), so that nobody was asked about it")
        if place:
            raise OutputError(f"{where}: in the pool of {run.out}, but never asked about; {listed}")
        hint = did_you_mean(sample_id, [row["sample_id"] for one in rounds for row in one.rows])
        raise OutputError(f"{where}: {run.out} asked about no such image{hint or f'; {listed}'}")

    def _known_before(self, position: int | None) -> str:
        """What the image at `position` was known to be by the initial labels, or an empty text."""
        state = self.run.state
        if position is None or state is None:
            return ""
        rows = np.flatnonzero((state.asked == position) & (state.asked_in == 0))
        return answer_name(int(state.answers[rows[0]]), self.run.classes) if len(rows) else ""

    def shown(self) -> str:
        """Which rounds there are, in words."""
        done = self.done
        said = "" if not done else "round 1 is done" if len(done) == 1 else f"rounds 1 to {done[-1]} are done"
        now = f"round {self.begun} is being asked about" if self.begun > self.ended else ""
        return " and ".join(part for part in (said, now) if part)


def _begun(run: LookedAt) -> int:
    """The newest round that has a query set, by the summary and by the tables that people fill in; 0: none."""
    status = run.summary.get("status")
    if status == "finished":
        return 0
    waits = (run.summary.get("awaiting") or {}) if status == "awaiting_labels" else {}
    laid_out = [int(file.parent.name.removeprefix("round_")) for file in query_files(run.out)]
    return max([int(waits.get("round") or 0), *laid_out])


def _open_round(run: LookedAt, number: int, rows: list[dict[str, Any]]) -> ToldRound:
    places = {} if run.data is None else pool_names(run.data).places([row["sample_id"] for row in rows])
    whole = len(places) == len(rows) and (run.state is not None or not run.config.data.initial_labels)
    at = np.array([places[row["sample_id"]] for row in rows], np.int64) if whole else None
    noted = classes_of(run.out)
    if noted is None or any(HASH not in row for row in rows):
        return ToldRound(number, rows, at, open=True)
    known, silent = answers_so_far(run.out, run.config, noted.names, [row[HASH] for row in rows])
    return ToldRound(number, [{**row, "label": known.get(row[HASH])} for row in rows], at, open=True, silent=silent)
