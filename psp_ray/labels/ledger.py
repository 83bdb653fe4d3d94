"""The label ledger: who bought which label, for what, and what every experiment was told. Durable first.

A label is bought once per (label space, annotator, content hash). Buying takes short transactions around the
annotator's work, which happens outside of them:

    advance   check the caps, reserve this experiment's uses, claim what nobody has bought    (one transaction)
    ...       the annotator works on the claimed images
    store     the labels become durable; the first answer for an image stays                  (one transaction)
    advance   again: now everything is bought, the uses get their labels, the request is done

Every step may be repeated, so a killed client continues by asking the same request again. A claim is a row without a
label and with a lease: other clients wait for it, and take it over once the lease is over; the same request takes its
own claims over at once. Counts are always read from the tables. SQLite serializes the steps by BEGIN IMMEDIATE,
PostgreSQL by primary keys, row locks and insert-on-conflict.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from psp_ray.core.answers import SKIP
from psp_ray.core.errors import LedgerError
from psp_ray.labels import claims, purchase
from psp_ray.labels import corrections as correcting
from psp_ray.labels import restore as restoring
from psp_ray.labels.counts import count_paid, count_used
from psp_ray.labels.database import one_line, open_engine, resolve_ledger_url, shown
from psp_ray.labels.limits import is_own
from psp_ray.labels.orders import Order, Progress
from psp_ray.labels.restore import KnownAnswers, LedgerRepair
from psp_ray.labels.schema import corrections, experiments, labels, requests, uses

T = TypeVar("T")
_ATTEMPTS = 6  # tries of a transaction that lost a deadlock, a serialization conflict or its connection


@dataclass(frozen=True)
class Use:
    """What an experiment was told about a sample: a class index, SKIP or IGNORE; after corrections, the last one."""

    sample_id: str
    content_hash: str
    round: int
    label: int


@dataclass(frozen=True)
class Correction:
    """One change of a bought label; `corrected_at` in seconds since the epoch."""

    content_hash: str
    number: int
    previous: int
    label: int
    corrected_by: str
    corrected_at: float


class Ledger:
    """A ledger in a SQLite file (a plain path) or another database by URL. Safe for threads and processes.

    Raises OracleError (one line) where the database can't be opened or belongs to a newer version.
    """

    def __init__(self, ledger: str | os.PathLike[str]) -> None:
        url = resolve_ledger_url(ledger)
        self.name = shown(url)
        self._engine = open_engine(url)

    def close(self) -> None:
        """Close all connections; what was committed stays."""
        self._engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    # ---- buying ------------------------------------------------------------------------------------------------

    def advance(self, order: Order) -> Progress:
        """Take `order` as far as it goes without the annotator; see the module's docstring.

        Raises BudgetError where a cap would be overrun, OracleError for a request id used for another set of samples,
        an experiment begun with other classes or another annotator, or an image that changed since it was labeled.
        In all of these cases nothing is written.
        """
        order = replace(order, ledger=self.name)
        return self.transact(lambda connection: purchase.advance(connection, order))

    def place(self, order: Order) -> Order:
        """`order` under the request id that its query set has in the ledger: its own, or, where that was asked for
        another query set of the same round (the pool or labels changed since), one of its own behind a `+`."""
        return replace(order, request_id=self.transact(lambda connection: purchase.place(connection, order)))

    def left(self, order: Order) -> dict[str, int]:
        """{sample_id: label} that the experiment was told in the order's round beside what the order asks for."""
        return self.transact(lambda connection: purchase.left(connection, order))

    def store(self, order: Order, bought: Sequence[tuple[str, int]]) -> None:
        """Make (content hash, label) pairs durable, paid for by `order`'s experiment unless already bought."""
        self.transact(lambda connection: purchase.store(connection, order, bought))

    def release(self, order: Order) -> None:
        """Give back what a failed `order` claimed and reserved; what it bought stays bought."""
        self.transact(lambda connection: purchase.release(connection, order))

    def renew(self, order: Order) -> None:
        """Prolong the leases of what `order` has claimed: whoever buys is alive."""
        self.transact(lambda connection: claims.renew(connection, order))

    def restore(self, order: Order, known: KnownAnswers) -> LedgerRepair:
        """Put back answers that a run's checkpoint knows and the ledger doesn't (any more)."""
        order = replace(order, ledger=self.name)
        return self.transact(lambda connection: restoring.restore(connection, order, known))

    # ---- correcting ---------------------------------------------------------------------------------------------

    def correct(self, order: Order, changes: Mapping[str, int]) -> int:
        """Change bought labels, {content hash: label}, in `order`'s label space and of its annotator.

        Every experiment that uses such a label is told the new one from its next request on; `corrections` keeps the
        history. Content that nobody has bought, and labels that are so already, are left alone. Returns how many
        labels changed.
        """
        return self.transact(lambda connection: correcting.correct(connection, order, changes))

    def corrected(self, order: Order) -> dict[str, int]:
        """{sample_id: label} of all samples of the experiment, up to and with the order's round, ever corrected."""
        return self.transact(lambda connection: correcting.corrected(connection, order))

    def corrections(self, content_hash: str | None = None) -> list[Correction]:
        """The history of corrections, oldest first; of one image where its hash is given."""
        columns = (
            corrections.c.content_hash,
            corrections.c.number,
            corrections.c.previous,
            corrections.c.label,
            corrections.c.corrected_by,
            corrections.c.corrected_at,
        )
        statement = sa.select(*columns).order_by(
            corrections.c.corrected_at, corrections.c.content_hash, corrections.c.number
        )
        if content_hash is not None:
            statement = statement.where(corrections.c.content_hash == content_hash)
        return self.transact(lambda connection: [Correction(*row) for row in connection.execute(statement)])

    # ---- looking -----------------------------------------------------------------------------------------------

    def labels_used(self, experiment: str, through_round: int | None = None) -> int:
        """Answers that `experiment` was given but for skips, reused ones included; up to a round where one is named."""
        return self.transact(lambda connection: count_used(connection, experiment, through_round))

    def labels_paid(self, experiment: str, through_round: int | None = None) -> int:
        """Labels that `experiment` added to the ledger at its own cost."""
        return self.transact(lambda connection: count_paid(connection, experiment, through_round)[0])

    def cost_paid(self, experiment: str, through_round: int | None = None) -> float:
        """What `experiment` paid, in the annotators' unit."""
        return self.transact(lambda connection: count_paid(connection, experiment, through_round)[1])

    def counts(self, order: Order) -> tuple[int, int, int]:
        """(labels paid by this request, labels used, labels paid by its experiment up to and with its round)."""

        def read(connection: Connection) -> tuple[int, int, int]:
            newly = connection.execute(
                sa.select(sa.func.count())
                .select_from(labels)
                .where(labels.c.request_id == order.request_id, labels.c.label.is_not(None), labels.c.label != SKIP)
            ).scalar_one()
            used = count_used(connection, order.experiment, order.round)
            return newly, used, count_paid(connection, order.experiment, order.round)[0]

        return self.transact(read)

    def history(self, experiment: str) -> list[Use]:
        """Everything `experiment` was told, by round and in the order asked."""
        statement = (
            sa.select(uses.c.sample_id, uses.c.content_hash, uses.c.round, uses.c.label)
            .join(requests, requests.c.request_id == uses.c.request_id)
            .where(uses.c.experiment == experiment, uses.c.label.is_not(None))
            .order_by(uses.c.round, requests.c.created_at, uses.c.request_id, uses.c.ordinal)
        )
        return self.transact(lambda connection: [Use(*row) for row in connection.execute(statement)])

    def status(self) -> dict[str, Any]:
        """Counts of the whole ledger and of each experiment, as plain JSON values."""

        def read(connection: Connection) -> dict[str, Any]:
            is_bought = labels.c.label.is_not(None)
            bought, claimed, cost = connection.execute(
                sa.select(
                    sa.func.count(labels.c.label),
                    sa.func.count() - sa.func.count(labels.c.label),
                    sa.func.coalesce(sa.func.sum(sa.case((is_bought, labels.c.cost), else_=0.0)), 0.0),
                ).where(is_own())
            ).one()
            imported = connection.execute(
                sa.select(sa.func.count()).select_from(labels).where(sa.not_(is_own()))
            ).scalar_one()
            rows = []
            for experiment, annotator in connection.execute(
                sa.select(experiments.c.experiment, experiments.c.annotator).order_by(experiments.c.created_at)
            ).all():
                paid, paid_cost = count_paid(connection, experiment, None)
                rows.append(
                    {
                        "experiment": experiment,
                        "annotator": annotator,
                        "labels_used": count_used(connection, experiment, None),
                        "labels_paid": paid,
                        "cost_paid": paid_cost,
                    }
                )
            return {
                "ledger": self.name,
                "labels_bought": bought,
                "labels_imported": imported,
                "labels_claimed": claimed,
                "cost": float(cost),
                "experiments": rows,
            }

        return self.transact(read)

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection that sees the ledger as it is at one moment, for reading."""
        engine = self._engine
        if engine.dialect.name != "sqlite":  # there, a transaction holds writers off anyway
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with engine.begin() as connection:
            yield connection

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction, again where the database asks for it: every step may be repeated."""
        for attempt in range(_ATTEMPTS):
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                if attempt + 1 < _ATTEMPTS and _is_passing(error):
                    time.sleep(0.02 * 2**attempt)
                    continue
                raise LedgerError(
                    f"ledger {self.name}: {one_line(error)}; labels bought so far are safe, run again with --resume"
                ) from error
        raise AssertionError("unreachable")


def _is_passing(error: SQLAlchemyError) -> bool:
    """Lost a deadlock or a serialization conflict, or the connection went away: worth another try."""
    if not isinstance(error, DBAPIError):
        return False
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in ("40001", "40P01")
