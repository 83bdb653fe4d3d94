"""Tables into a ledger: labels of another one's account, and corrections of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.answers import AnswerReader, UnknownLabel
from psp_ray.core.errors import OracleError
from psp_ray.labels.corrections import correct
from psp_ray.labels.database import fill_of, insert_of, now_of
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.orders import Order
from psp_ray.labels.schema import label_space_of, label_spaces, labels

_NEEDED = ("content_hash", "label", "annotator", "classes")
_NEEDED_TO_CORRECT = ("content_hash", "class", "annotator", "classes")
Key = tuple[str, str]
"""A label space and an annotator."""


def import_labels(ledger: Ledger, table: pa.Table, origin: str) -> tuple[int, int, int]:
    """Take labels of an account into the ledger, as bought: (new, known already, known otherwise).

    What the ledger holds stays, also where the table says otherwise; an image that is only claimed is bought by this.
    Imported labels are nobody's expense here: they keep the name of who paid for them but belong to no request of this
    ledger, and count against none of its caps.

    Raises:
        OracleError: a column is missing or holds something else, or a label is no class.
    """
    where = f"import {origin}"
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise OracleError(f"{where}: lacks column {missing[0]!r}; it needs {', '.join(_NEEDED)}")
    table = _with_texts(table, ("content_hash", "annotator", "classes"), where)
    kinds = {"cost": (pa.float64(), "numbers"), "paid_at": (pa.timestamp("ms", tz="UTC"), "times")}
    for name, (kind, word) in kinds.items():
        if name in table.column_names:
            try:
                column = table[name].cast(kind, safe=name == "cost")
            except pa.ArrowException:
                raise OracleError(f"{where}: column {name!r} doesn't hold {word}; correct it or leave it out") from None
            table = table.set_column(table.column_names.index(name), name, column)
    rows = table.to_pylist()
    spaces: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        if row["classes"] not in spaces:
            spaces[row["classes"]] = _class_list(row["classes"], f"{where}: row {number}")
        label = _whole(row["label"])
        if label is None or not -2 <= label < len(spaces[row["classes"]]):
            raise OracleError(
                f"{where}: row {number}: label {row['label']!r} is no class; give the number of one of its `classes`"
            )
        if not 0.0 <= (row.get("cost") or 0.0) < math.inf:
            raise OracleError(f"{where}: row {number}: cost {row['cost']!r} is no price")
        row["label"] = label
    return ledger.transact(lambda connection: _import(connection, rows, spaces, origin))


def _with_texts(table: pa.Table, names: Sequence[str], where: str) -> pa.Table:
    """`table` with columns `names` as texts. Raises OracleError where one can't be, or has an empty cell."""
    for name in names:
        try:
            column = table[name].cast(pa.string())
        except pa.ArrowException:
            raise OracleError(f"{where}: column {name!r} holds {table[name].type}, not text") from None
        if column.null_count:
            row = column.is_null().to_pylist().index(True) + 1
            raise OracleError(f"{where}: row {row}: {name} is empty; fill it in or remove the row")
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _class_list(text: str, where: str) -> list[str]:
    """Class names from an account's column `classes`. Raises OracleError."""
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise OracleError(f"{where}: classes is not a JSON list of names")
    return [str(name) for name in names]


def _whole(value: Any) -> int | None:
    """`value` as an integer, None where it is none."""
    try:
        number = int(value)
        return number if float(value) == number else None
    except (TypeError, ValueError, OverflowError):
        return None


def _import(
    connection: Connection, rows: Sequence[Mapping[str, Any]], spaces: Mapping[str, list[str]], origin: str
) -> tuple[int, int, int]:
    keys = {text: label_space_of(names) for text, names in spaces.items()}
    for text, names in spaces.items():
        space = insert_of(connection, label_spaces).values(label_space=keys[text], class_names=json.dumps(names))
        connection.execute(space.on_conflict_do_nothing())
    now = now_of(connection)
    new = known = differing = 0
    for row in rows:
        at = row.get("paid_at")
        key = {
            "label_space": keys[row["classes"]],
            "annotator": row["annotator"],
            "content_hash": row["content_hash"],
        }
        bought = {
            "label": row["label"],
            "lease_until": None,
            "cost": float(row.get("cost") or 0.0),
            "paid_by": str(row.get("paid_by") or f"import of {origin}"),
            "paid_at": now if at is None else at.timestamp(),
            "request_id": f"import/{origin}",
        }
        if connection.execute(fill_of(connection, labels).values(**key, **bought)).rowcount:
            new += 1
            continue
        held = connection.execute(sa.select(labels.c.label).filter_by(**key)).scalar_one()
        known += held == row["label"]
        differing += held != row["label"]
    return new, known, differing


def correct_labels(ledger: Ledger, table: pa.Table, origin: str, by: str) -> tuple[int, int]:
    """Make the ledger's labels what the column `class` of an account says: (changed, right already).

    All rows or none; every change is kept in the history under the name `by`, and every experiment that uses the
    image is told with its next request.

    Raises:
        OracleError: a column is missing, a class is unknown, an image was never bought, or is there twice with
            different classes.
    """
    missing = [name for name in _NEEDED_TO_CORRECT if name not in table.column_names]
    if missing:
        raise OracleError(f"correct {origin}: lacks column {missing[0]!r}; it needs {', '.join(_NEEDED_TO_CORRECT)}")
    table = _with_texts(table.select(_NEEDED_TO_CORRECT), ("content_hash", "annotator", "classes"), f"correct {origin}")
    spaces: dict[str, list[str]] = {}
    readers: dict[str, AnswerReader] = {}
    wanted: dict[Key, dict[str, int]] = {}
    for number, row in enumerate(table.to_pylist(), 1):
        where = f"correct {origin}: row {number}"
        if row["classes"] not in spaces:
            spaces[row["classes"]] = _class_list(row["classes"], where)
            readers[row["classes"]] = AnswerReader(spaces[row["classes"]])
        names = spaces[row["classes"]]
        changes = wanted.setdefault((label_space_of(names), row["annotator"]), {})
        label = _label(row["class"], readers[row["classes"]], where)
        if changes.setdefault(row["content_hash"], label) != label:
            raise OracleError(f"{where}: image {row['content_hash']} is there twice, with different classes")
    by_space = {label_space_of(names): tuple(names) for names in spaces.values()}
    return ledger.transact(lambda connection: _correct(connection, ledger.name, wanted, by_space, origin, by))


def _label(text: Any, read: AnswerReader, where: str) -> int:
    try:
        label = read(str(text or ""))
    except UnknownLabel as error:
        raise OracleError(f"{where}: {error}") from None
    if label is None:
        raise OracleError(f"{where}: class is empty; give a class, skip or ignore, or leave the row out")
    return label


def _correct(
    connection: Connection,
    ledger: str,
    wanted: Mapping[Key, Mapping[str, int]],
    names: Mapping[str, tuple[str, ...]],
    origin: str,
    by: str,
) -> tuple[int, int]:
    changed = 0
    for (space, annotator), changes in sorted(wanted.items()):
        bought = (labels.c.label_space == space, labels.c.annotator == annotator, labels.c.label.is_not(None))
        held = dict(connection.execute(sa.select(labels.c.content_hash, labels.c.cost).where(*bought)).tuples().all())
        unknown = next((content_hash for content_hash in sorted(changes) if content_hash not in held), None)
        if unknown is not None:
            raise OracleError(f"correct {origin}: nobody has bought a label of image {unknown} from {annotator!r}")
        # A skip cost nothing; where it becomes a label it costs what the annotator's labels cost.
        order = Order("", by, 0, space, names[space], annotator, max(held.values()), (), (), ledger=ledger)
        changed += correct(connection, order, changes)
    return changed, sum(len(changes) for changes in wanted.values()) - changed
