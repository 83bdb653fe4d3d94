"""Tables of the label ledger, and the steps that bring older ledgers to this version.

One row of `labels` is one purchase; one row of `uses` is what one experiment was told about one sample. Once set, a
label changes by a correction only, and `corrections` keeps what it was before. A label is a class index, or one of the
codes of `psp_ray.core.answers`. A later version adds tables beside these by a step in `MIGRATIONS`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

SCHEMA_VERSION = 3
"""Version of the tables below. Raise it together with a step in `MIGRATIONS`."""

metadata = sa.MetaData()

schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))

label_spaces = sa.Table(
    "label_spaces",
    metadata,
    sa.Column("label_space", sa.String(32), primary_key=True),
    sa.Column("class_names", sa.Text, nullable=False),
)

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("experiment", sa.Text, primary_key=True),
    sa.Column("label_space", sa.ForeignKey("label_spaces.label_space"), nullable=False),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("request_id", sa.Text, primary_key=True),
    sa.Column("experiment", sa.ForeignKey("experiments.experiment"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(32), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("completed_at", sa.Double),
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("label_space", sa.ForeignKey("label_spaces.label_space"), primary_key=True),
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, primary_key=True),
    # NULL while claimed and not yet bought; the claim counts until `lease_until` (seconds since the epoch).
    sa.Column("label", sa.Integer),
    sa.Column("lease_until", sa.Double),
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("paid_by", sa.Text, nullable=False, index=True),
    sa.Column("paid_at", sa.Double),
    sa.Column("request_id", sa.Text, nullable=False, index=True),
)

uses = sa.Table(
    "uses",
    metadata,
    sa.Column("experiment", sa.ForeignKey("experiments.experiment"), primary_key=True),
    sa.Column("sample_id", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False, index=True),
    sa.Column("ordinal", sa.Integer, nullable=False),
    # NULL while reserved (it counts against the caps, not in labels_used); then what the experiment was told.
    sa.Column("label", sa.Integer),
    sa.Column("cost", sa.Double, nullable=False),
)

# Every change of a bought label, numbered from 1 for each image: what it was, what it became, who changed it and when.
corrections = sa.Table(
    "corrections",
    metadata,
    sa.Column("label_space", sa.ForeignKey("label_spaces.label_space"), primary_key=True),
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("previous", sa.Integer, nullable=False),
    sa.Column("label", sa.Integer, nullable=False),
    sa.Column("corrected_by", sa.Text, nullable=False, index=True),
    sa.Column("corrected_at", sa.Double, nullable=False),
)

# At most one row: what all experiments together may buy. NULL: no limit.
limits = sa.Table(
    "limits",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("label_cap", sa.Integer),
    sa.Column("cost_cap", sa.Double),
)

# Where several annotators are asked about an image: what each of them said (`voter` is its name). `labels` holds what
# was made of it, under the name of them all together (`annotator`).
votes = sa.Table(
    "votes",
    metadata,
    sa.Column("label_space", sa.ForeignKey("label_spaces.label_space"), primary_key=True),
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("content_hash", sa.Text, primary_key=True),
    sa.Column("voter", sa.Text, primary_key=True),
    sa.Column("label", sa.Integer, nullable=False),
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("paid_by", sa.Text, nullable=False),
    sa.Column("voted_at", sa.Double, nullable=False),
)

MIGRATIONS: dict[int, Callable[[Connection], None]] = {
    2: corrections.create,
    3: lambda connection: metadata.create_all(connection, tables=[limits, votes]),
}
"""`MIGRATIONS[v]` turns a ledger of version v - 1 into one of version v, inside the opening transaction."""


def label_space_of(class_names: Sequence[str]) -> str:
    """Name of a label space: 32 hexadecimal digits, BLAKE2b of the ordered class names."""
    return hashlib.blake2b(json.dumps(list(class_names)).encode(), digest_size=16).hexdigest()
