"""What happens inside the ledger's transactions: caps, reservations, claims, purchases. See `psp_ray.labels.ledger`.

Every function takes an open connection, writes nothing when it raises (the transaction is rolled back), and may be
repeated.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from psp_ray.core.answers import SKIP
from psp_ray.core.errors import BudgetError, OracleError
from psp_ray.labels import limits
from psp_ray.labels.annotators.base import Item
from psp_ray.labels.schema import corrections, experiments, label_spaces, labels, requests, uses

_CHUNK = 500  # names per statement, far below the databases' limits on parameters


@dataclass(frozen=True)
class Order:
    """One request as the ledger sees it. `sample_ids` and `content_hashes` run in parallel, ids distinct."""

    request_id: str
    experiment: str
    round: int
    label_space: str
    class_names: tuple[str, ...]
    annotator: str
    cost: float
    """Price of one label now."""
    sample_ids: tuple[str, ...]
    content_hashes: tuple[str, ...]
    label_cap: int | None = None
    cost_cap: float | None = None
    lease_seconds: float = 600.0
    ledger: str = "ledger"
    """The ledger's name, for messages."""

    @property
    def digest(self) -> str:
        """Of the asked set: the same whatever the order."""
        pairs = sorted(zip(self.sample_ids, self.content_hashes, strict=True))
        return hashlib.blake2b(json.dumps(pairs).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Progress:
    """Where a request stands. `answer` maps sample_id to label once all are bought, and is None before."""

    answer: dict[str, int] | None
    to_buy: tuple[Item, ...] = ()
    """Images whose claims this request holds, in the order asked."""
    waiting: str = ""
    """For the user: whose claim is waited for; empty where there is none."""


def advance(connection: Connection, order: Order) -> Progress:
    """Take `order` as far as it goes without the annotator. Raises as `Ledger.advance` says."""
    now = now_of(connection)
    _enroll(connection, order, now)
    if _register(connection, order, now):
        return Progress(_answer(connection, order))
    open_samples = _reserve(connection, order)
    by_hash: dict[str, str] = {}
    for sample, content_hash in open_samples:
        by_hash.setdefault(content_hash, sample)
    _claim(connection, order, sorted(by_hash), now)
    known: dict[str, int] = {}
    mine: list[Item] = []
    waiting = ""
    for row in _rows(connection, order, list(by_hash)):
        if row.label is not None:
            known[row.content_hash] = row.label
        elif row.request_id == order.request_id:
            mine.append(Item(by_hash[row.content_hash], row.content_hash, order.round))
        elif not waiting:
            waiting = (
                f"sample {by_hash[row.content_hash]!r} is being labeled for experiment {row.paid_by!r} "
                f"(claimed for another {max(0.0, row.lease_until - now):.0f} s)"
            )
    if not waiting and len(known) + len(mine) < len(by_hash):
        # On PostgreSQL a claim can be given back between our insert and our look: it is free the next time.
        waiting = "an image is being labeled for another experiment"
    if mine:
        limits.check(connection, order, len(mine))
    if mine or waiting:
        place = {content_hash: at for at, content_hash in enumerate(by_hash)}
        return Progress(None, tuple(sorted(mine, key=lambda item: place[item.content_hash])), waiting)
    tell = (
        uses.update()
        .where(
            uses.c.experiment == order.experiment,
            uses.c.sample_id == sa.bindparam("sample"),
            uses.c.label.is_(None),
        )
        .values(label=sa.bindparam("told"), cost=sa.bindparam("price"))
    )
    told = [
        {"sample": sample, "told": known[content_hash], "price": _price(order, known[content_hash])}
        for sample, content_hash in open_samples
    ]
    if told:
        connection.execute(tell, told)
    connection.execute(requests.update().where(requests.c.request_id == order.request_id).values(completed_at=now))
    return Progress(_answer(connection, order))


def store(connection: Connection, order: Order, bought: Sequence[tuple[str, int]]) -> None:
    """Write (content hash, label) pairs, paid for by the order's experiment; what is already bought stays."""
    now = now_of(connection)
    statement = insert_of(connection, labels)
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=list(labels.primary_key.columns),
        set_={
            "label": new.label,
            "lease_until": None,
            "cost": new.cost,
            "paid_by": new.paid_by,
            "paid_at": new.paid_at,
            "request_id": new.request_id,
        },
        where=labels.c.label.is_(None),
    )
    rows = [
        _label_row(order, content_hash)
        | {"label": label, "cost": _price(order, label), "paid_at": now, "lease_until": None}
        for content_hash, label in sorted(bought)
    ]
    if rows:
        connection.execute(statement, rows)


def release(connection: Connection, order: Order) -> None:
    """Drop the claims and reservations of an order, and the order itself where it bought nothing."""
    mine = order.request_id
    connection.execute(labels.delete().where(labels.c.request_id == mine, labels.c.label.is_(None)))
    connection.execute(uses.delete().where(uses.c.request_id == mine, uses.c.label.is_(None)))
    for table in (labels, uses):
        if connection.execute(sa.select(table.c.request_id).where(table.c.request_id == mine).limit(1)).first():
            return
    connection.execute(requests.delete().where(requests.c.request_id == mine))


def _enroll(connection: Connection, order: Order, now: float) -> None:
    """Note the experiment, and on PostgreSQL let one request of it in at a time (its caps are checked next)."""
    names = json.dumps(list(order.class_names))
    connection.execute(
        insert_of(connection, label_spaces)
        .values(label_space=order.label_space, class_names=names)
        .on_conflict_do_nothing()
    )
    connection.execute(
        insert_of(connection, experiments)
        .values(
            experiment=order.experiment,
            label_space=order.label_space,
            annotator=order.annotator,
            created_at=now,
        )
        .on_conflict_do_nothing()
    )
    row = connection.execute(
        sa.select(experiments).where(experiments.c.experiment == order.experiment).with_for_update()
    ).one()
    if row.label_space != order.label_space:
        raise OracleError(
            f"ledger {order.ledger}: experiment {order.experiment!r} was begun with other classes; "
            "give this run another name or output folder"
        )
    if row.annotator != order.annotator:
        raise OracleError(
            f"ledger {order.ledger}: experiment {order.experiment!r} was begun with annotator {row.annotator!r}, "
            f"not {order.annotator!r}; give this run another name or output folder"
        )


def _register(connection: Connection, order: Order, now: float) -> bool:
    """Note the request. True where it has been answered before."""
    connection.execute(
        insert_of(connection, requests)
        .values(
            request_id=order.request_id,
            experiment=order.experiment,
            round=order.round,
            digest=order.digest,
            created_at=now,
        )
        .on_conflict_do_nothing()
    )
    row = connection.execute(sa.select(requests).where(requests.c.request_id == order.request_id)).one()
    if (row.experiment, row.round, row.digest) != (order.experiment, order.round, order.digest):
        raise OracleError(
            f"ledger {order.ledger}: request {order.request_id!r} was made before for other samples "
            f"(experiment {row.experiment!r}, round {row.round}); resume with the settings it was begun with, "
            "or use a new output folder"
        )
    return row.completed_at is not None


def _reserve(connection: Connection, order: Order) -> list[tuple[str, str]]:
    """Uses for all samples of `order`, within the caps. Returns those still without a label, in order asked."""
    rows: dict[str, Any] = {}
    for part in _chunks(order.sample_ids):
        statement = sa.select(uses).where(uses.c.experiment == order.experiment, uses.c.sample_id.in_(part))
        rows.update((row.sample_id, row) for row in connection.execute(statement))
    new = []
    for ordinal, (sample, content_hash) in enumerate(zip(order.sample_ids, order.content_hashes, strict=True)):
        if sample not in rows:
            new.append(
                {
                    "experiment": order.experiment,
                    "sample_id": sample,
                    "content_hash": content_hash,
                    "round": order.round,
                    "request_id": order.request_id,
                    "ordinal": ordinal,
                    "label": None,
                    "cost": order.cost,
                }
            )
        elif rows[sample].content_hash != content_hash:
            raise OracleError(
                f"sample {sample!r} has changed since experiment {order.experiment!r} had it labeled; "
                "restore the image, or start a new output folder"
            )
    if new:
        _check_caps(connection, order, len(new))
        connection.execute(uses.insert(), new)
    return [
        (sample, content_hash)
        for sample, content_hash in zip(order.sample_ids, order.content_hashes, strict=True)
        if sample not in rows or rows[sample].label is None
    ]


def _check_caps(connection: Connection, order: Order, more: int) -> None:
    """Caps count labels used at their price, bought or reused, so that a reused label never changes the course."""
    counted = sa.case((_is_skip(uses.c.label), 0), else_=1)
    used, cost = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(counted), 0), sa.func.coalesce(sa.func.sum(uses.c.cost), 0.0)).where(
            uses.c.experiment == order.experiment
        )
    ).one()
    if order.label_cap is not None and used + more > order.label_cap:
        raise BudgetError(
            f"label_cap {order.label_cap}: experiment {order.experiment!r} has {used} labels and round "
            f"{order.round} needs {more} more; raise label_cap or ask for fewer labels per round"
        )
    total = cost + more * order.cost
    # The slack forgives rounding in a sum of prices, never a whole label.
    if order.cost_cap is not None and total > order.cost_cap * (1 + 1e-12) + 1e-9 * min(order.cost, 1.0):
        raise BudgetError(
            f"cost_cap {order.cost_cap:g}: experiment {order.experiment!r} has used labels worth {cost:g} and "
            f"round {order.round} needs {more} more at {order.cost:g} each; raise cost_cap or ask for fewer"
        )


def _claim(connection: Connection, order: Order, content_hashes: list[str], now: float) -> None:
    """Claim what is free or whose lease is over; sorted, so that two clients can't deadlock."""
    if not content_hashes:
        return
    lease = {"lease_until": now + order.lease_seconds}
    connection.execute(
        insert_of(connection, labels).on_conflict_do_nothing(),
        [_label_row(order, content_hash) | lease for content_hash in content_hashes],
    )
    for part in _chunks(content_hashes):
        connection.execute(
            labels.update()
            .where(
                labels.c.label_space == order.label_space,
                labels.c.annotator == order.annotator,
                labels.c.content_hash.in_(part),
                labels.c.label.is_(None),
                sa.or_(labels.c.request_id == order.request_id, labels.c.lease_until < now),
            )
            .values(request_id=order.request_id, paid_by=order.experiment, cost=order.cost, **lease)
        )


def _label_row(order: Order, content_hash: str) -> dict[str, Any]:
    return {
        "label_space": order.label_space,
        "annotator": order.annotator,
        "content_hash": content_hash,
        "cost": order.cost,
        "paid_by": order.experiment,
        "request_id": order.request_id,
    }


def _rows(connection: Connection, order: Order, content_hashes: Sequence[str], *, lock: bool = False) -> Iterator[Any]:
    for part in _chunks(content_hashes):
        statement = sa.select(labels).where(
            labels.c.label_space == order.label_space,
            labels.c.annotator == order.annotator,
            labels.c.content_hash.in_(part),
        )
        yield from connection.execute(statement.with_for_update() if lock else statement)


def _answer(connection: Connection, order: Order) -> dict[str, int]:
    answer: dict[str, int] = {}
    for part in _chunks(order.sample_ids):
        rows = connection.execute(
            sa.select(uses.c.sample_id, uses.c.label).where(
                uses.c.experiment == order.experiment, uses.c.sample_id.in_(part)
            )
        )
        answer.update((row.sample_id, row.label) for row in rows)
    return answer


def count_used(connection: Connection, experiment: str, through_round: int | None) -> int:
    """Labels that an experiment was given, up to and with a round where one is named."""
    statement = (
        sa.select(sa.func.count())
        .select_from(uses)
        .where(uses.c.experiment == experiment, uses.c.label.is_not(None), sa.not_(_is_skip(uses.c.label)))
    )
    if through_round is not None:
        statement = statement.where(uses.c.round <= through_round)
    return connection.execute(statement).scalar_one()


def count_paid(connection: Connection, experiment: str, through_round: int | None) -> tuple[int, float]:
    """Labels that an experiment bought and their cost, up to and with a round where one is named."""
    counted = sa.case((_is_skip(labels.c.label), 0), else_=1)
    statement = (
        sa.select(sa.func.coalesce(sa.func.sum(counted), 0), sa.func.coalesce(sa.func.sum(labels.c.cost), 0.0))
        .select_from(labels.join(requests, requests.c.request_id == labels.c.request_id))
        .where(labels.c.paid_by == experiment, labels.c.label.is_not(None))
    )
    if through_round is not None:
        statement = statement.where(requests.c.round <= through_round)
    count, cost = connection.execute(statement).one()
    return int(count), float(cost)


def _is_skip(column: Any) -> Any:
    """True for a sample that the annotator skipped; false, not unknown, where there is no answer yet."""
    return sa.and_(column.is_not(None), column == SKIP)


def _price(order: Order, label: int) -> float:
    """What an answer costs: nothing where the annotator couldn't tell."""
    return 0.0 if label == SKIP else order.cost


# ---- corrections -----------------------------------------------------------------------------------------------------


def correct(connection: Connection, order: Order, changes: Mapping[str, int]) -> int:
    """Change bought labels, {content hash: label}, for all experiments that use them; see `Ledger.correct`."""
    now = now_of(connection)
    done = 0
    for row in list(_rows(connection, order, sorted(changes), lock=True)):
        label = changes[row.content_hash]
        if row.label is None or row.label == label:
            continue
        key = (
            labels.c.label_space == order.label_space,
            labels.c.annotator == order.annotator,
            labels.c.content_hash == row.content_hash,
        )
        number = connection.execute(
            sa.select(sa.func.coalesce(sa.func.max(corrections.c.number), 0)).where(
                corrections.c.label_space == order.label_space,
                corrections.c.annotator == order.annotator,
                corrections.c.content_hash == row.content_hash,
            )
        ).scalar_one()
        connection.execute(
            corrections.insert().values(
                label_space=order.label_space,
                annotator=order.annotator,
                content_hash=row.content_hash,
                number=number + 1,
                previous=row.label,
                label=label,
                corrected_by=order.experiment,
                corrected_at=now,
            )
        )
        # A skipped image that gets its label after all is paid for now; a label that is taken back stays paid for.
        late = {"cost": _price(order, label)} if row.label == SKIP else {}
        connection.execute(labels.update().where(*key).values(label=label, **late))
        connection.execute(
            uses.update()
            .where(
                uses.c.content_hash == row.content_hash,
                uses.c.label.is_not(None),
                uses.c.experiment.in_(
                    sa.select(experiments.c.experiment).where(
                        experiments.c.label_space == order.label_space, experiments.c.annotator == order.annotator
                    )
                ),
            )
            .values(label=label, **late)
        )
        done += 1
    return done


def corrected(connection: Connection, order: Order) -> dict[str, int]:
    """What the corrected samples of `order`'s experiment, up to and with its round, are now: {sample_id: label}."""
    statement = (
        sa.select(uses.c.sample_id, uses.c.label)
        .where(
            uses.c.experiment == order.experiment,
            uses.c.round <= order.round,
            uses.c.label.is_not(None),
            uses.c.content_hash.in_(
                sa.select(corrections.c.content_hash).where(
                    corrections.c.label_space == order.label_space, corrections.c.annotator == order.annotator
                )
            ),
        )
        .order_by(uses.c.sample_id)
    )
    return {row.sample_id: row.label for row in connection.execute(statement)}


def now_of(connection: Connection) -> float:
    """Seconds since the epoch by one clock for all clients: the database's, where it has its own machine."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())


def insert_of(connection: Connection, table: sa.Table) -> Any:
    """The dialect's own insert, which knows on-conflict clauses."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _CHUNK):
        yield names[start : start + _CHUNK]
