"""Answers that a run has got and its result doesn't hold: they came while it learned its last round, or later."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from sqlalchemy.engine import Connection

from psp_ray.config.config import Config
from psp_ray.core.errors import UserError
from psp_ray.core.words import counted
from psp_ray.data.dataset import Dataset
from psp_ray.labels.answer_book import answers, decide, events_of, tables_in
from psp_ray.labels.ledger import Ledger
from psp_ray.run.asking import ASKED, ledger_of
from psp_ray.run.assemble import oracle_input
from psp_ray.run.build import build_oracle
from psp_ray.run.checkpoint import newest
from psp_ray.run.events import Events
from psp_ray.run.folder import KEPT
from psp_ray.run.state import PoolNames, RunState

BY_PAGE = ASKED[0]


def tell_left_out(
    events: Events, config: Config, dataset: Dataset, out: Path, experiment: str, state: RunState, names: PoolNames
) -> None:
    """How many answers about images of the pool the finished run at `state` doesn't hold, and what takes them in."""
    if config.labels.oracle not in ASKED:
        return
    known = set(names.hashed(state.asked))
    try:
        said = [digest for digest in _in_book(config, out, experiment) if digest not in known]
        count = len(set(names.with_content(said)[1].tolist()))  # copies have one answer
        _tell(events, config, out, count, state.round, state.stopped)
        if config.labels.oracle != BY_PAGE:
            oracle = build_oracle(oracle_input(config, dataset, out, names.content_hashes, experiment))
            try:
                typed = oracle.volunteered(experiment)
            finally:
                oracle.ledger.close()
            if typed:
                events.note(f"{_not_here(typed)}; psp-ray continue {out} takes {_them(typed)} in")
    except UserError as error:  # the result is there; what was typed is told of when it is taken up
        events.warn(str(error))


def tell_left_out_before(events: Events, config: Config, out: Path, experiment: str) -> None:
    """The same of a run that was finished before, by its newest checkpoint."""
    checkpoint = newest(out / KEPT)
    if config.labels.oracle not in ASKED or checkpoint is None:
        return
    labels = checkpoint.tables["labels"]
    known = set(labels["content_hash"].to_pylist()) if "content_hash" in labels.column_names else None
    if known is not None:
        said = [digest for digest in _in_book(config, out, experiment) if digest not in known]
        _tell(events, config, out, len(said), checkpoint.round, str(checkpoint.state.get("stopped", "")))


def _in_book(config: Config, out: Path, experiment: str) -> Collection[str]:
    """Contents that people have answered in the browser or through a session."""

    def read(connection: Connection) -> Collection[str]:
        return decide(events_of(connection, experiment)) if answers in tables_in(connection) else ()

    with Ledger(ledger_of(config.labels, out)) as ledger:
        return ledger.transact(read)


def _tell(events: Events, config: Config, out: Path, count: int, round: int, stopped: str) -> None:
    """Answers by people come in before a query set is chosen, so that they need another round."""
    if not count:
        return
    more: Sequence[str] = [f"--rounds {round + 1}"] if config.labels.rounds <= round else []
    more = [*more, "--stop none"] if stopped else more
    command = " ".join(["psp-ray label", str(out), *more])
    events.note(f"{_not_here(count)}; {command} takes {_them(count)} in, with one more round")


def _not_here(count: int) -> str:
    return f"{counted(count, 'answer is', 'answers are')} not in this result"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"
