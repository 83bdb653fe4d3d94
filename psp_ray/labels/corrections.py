"""Corrections of a ledger as tables: an edited account in, the history of every change out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from psp_ray.core.answers import AnswerReader, UnknownLabel, answer_name
from psp_ray.core.errors import OracleError
from psp_ray.labels import purchase
from psp_ray.labels.imports import class_list, with_texts
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.purchase import Order
from psp_ray.labels.schema import corrections, label_space_of, label_spaces, labels

HISTORY_SCHEMA = pa.schema(
    [
        ("content_hash", pa.string()),
        ("number", pa.int32()),
        ("previous_class", pa.string()),
        ("class", pa.string()),
        ("annotator", pa.string()),
        ("corrected_by", pa.string()),
        ("corrected_at", pa.timestamp("ms", tz="UTC")),
        ("label_space", pa.string()),
        ("classes", pa.string()),
    ]
)
"""One row a change, numbered from 1 for each image: what it was, what it became, who said so, and when."""
_NEEDED = ("content_hash", "class", "annotator", "classes")
Key = tuple[str, str]
"""A label space and an annotator."""


def correct_labels(ledger: Ledger, table: pa.Table, origin: str, by: str) -> tuple[int, int]:
    """Make the ledger's labels what the column `class` of an account says: (changed, right already).

    All rows or none; every change is kept in the history under the name `by`, and every experiment that uses the
    image is told with its next request.

    Raises:
        OracleError: a column is missing, a class is unknown, an image was never bought, or is there twice with
            different classes.
    """
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise OracleError(f"correct {origin}: lacks column {missing[0]!r}; it needs {', '.join(_NEEDED)}")
    table = with_texts(table.select(_NEEDED), ("content_hash", "annotator", "classes"), f"correct {origin}")
    spaces: dict[str, list[str]] = {}
    readers: dict[str, AnswerReader] = {}
    wanted: dict[Key, dict[str, int]] = {}
    for number, row in enumerate(table.to_pylist(), 1):
        where = f"correct {origin}: row {number}"
        if row["classes"] not in spaces:
            spaces[row["classes"]] = class_list(row["classes"], where)
            readers[row["classes"]] = AnswerReader(spaces[row["classes"]])
        names = spaces[row["classes"]]
        changes = wanted.setdefault((label_space_of(names), row["annotator"]), {})
        label = _label(row["class"], readers[row["classes"]], where)
        if changes.setdefault(row["content_hash"], label) != label:
            raise OracleError(f"{where}: image {row['content_hash']} is there twice, with different classes")
    by_space = {label_space_of(names): tuple(names) for names in spaces.values()}
    return ledger.transact(lambda connection: _correct(connection, ledger.name, wanted, by_space, origin, by))


def correction_history(ledger: Ledger) -> pa.Table:
    """All corrections, oldest first (`HISTORY_SCHEMA`)."""
    statement = (
        sa.select(corrections, label_spaces.c.class_names)
        .join(label_spaces, label_spaces.c.label_space == corrections.c.label_space)
        .order_by(corrections.c.corrected_at, corrections.c.content_hash, corrections.c.number)
    )
    rows = ledger.transact(lambda connection: connection.execute(statement).mappings().all())
    names = {row["class_names"]: json.loads(row["class_names"]) for row in rows}
    columns: dict[str, Any] = {
        name: [row[name] for row in rows] for name in ("content_hash", "number", "annotator", "corrected_by")
    }
    columns["previous_class"] = [answer_name(row["previous"], names[row["class_names"]]) for row in rows]
    columns["class"] = [answer_name(row["label"], names[row["class_names"]]) for row in rows]
    columns["corrected_at"] = pa.array(
        [round(1000 * row["corrected_at"]) for row in rows], pa.timestamp("ms", tz="UTC")
    )
    columns["label_space"] = [row["label_space"] for row in rows]
    columns["classes"] = [row["class_names"] for row in rows]
    return pa.table({field.name: columns[field.name] for field in HISTORY_SCHEMA}, schema=HISTORY_SCHEMA)


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
        changed += purchase.correct(connection, order, changes)
    return changed, sum(len(changes) for changes in wanted.values()) - changed
