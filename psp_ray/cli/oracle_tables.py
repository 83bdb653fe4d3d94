"""What `psp-ray oracle` prints: accounts and the status of a ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psp_ray.core.words import counted

if TYPE_CHECKING:
    import pyarrow as pa


def each_round(table: pa.Table) -> list[str]:
    """An account, a line for each experiment, round and annotator."""
    keys = ["paid_by", "round", "annotator"]
    groups = table.group_by(keys).aggregate(
        [("label", "count"), ("cost", "sum"), ("paid_at", "min"), ("paid_at", "max")]
    )
    rows = groups.sort_by([("paid_at_min", "ascending"), *((key, "ascending") for key in keys)]).to_pylist()
    lines = [f"{'paid by':34}{'round':>6}  {'annotator':16}{'labels':>8}{'cost':>10}  {'first':20} {'last'}"]
    for row in rows:
        number = "-" if row["round"] is None else str(row["round"])
        lines.append(
            f"{row['paid_by']:34}{number:>6}  {row['annotator']:16}{row['label_count']:>8,}{row['cost_sum']:>10g}  "
            f"{_time(row['paid_at_min']):20} {_time(row['paid_at_max'])}"
        )
    return lines


def each_label(table: pa.Table) -> list[str]:
    """An account, a line for each label."""
    lines = [f"{'image':34} {'class':20}{'annotator':16}{'cost':>8}  {'paid by':34}{'round':>6}  when"]
    for row in table.to_pylist():
        number = "-" if row["round"] is None else str(row["round"])
        lines.append(
            f"{row['sample_id'] or row['content_hash']:34} {row['class']:20}{row['annotator']:16}{row['cost']:>8g}  "
            f"{row['paid_by']:34}{number:>6}  {_time(row['paid_at'])}"
        )
    return lines


def _time(at: Any) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"


def shown(found: dict[str, Any]) -> str:
    """The status of a ledger or an oracle."""
    caps = [f"{key} {found[key]:g}" for key in ("label_cap", "cost_cap") if found.get(key) is not None]
    lines = [
        f"ledger   {found['ledger']}",
        f"bought   {counted(found['labels_bought'], 'label')} for {found['cost']:g}"
        + (f", {found['labels_claimed']:,} being bought" if found["labels_claimed"] else "")
        + (f", {found['labels_imported']:,} more imported" if found["labels_imported"] else ""),
        f"caps     {', '.join(caps) or 'none'} (all experiments together)",
    ]
    lines += [
        f"stale    {claim['labels']:,} of those being bought: {claim['experiment']} claimed them and is overdue since "
        f"{_time(datetime.fromtimestamp(claim['since'], UTC))}; if it is dead: psp-ray oracle drop-claims --experiment "
        f"{claim['experiment']}"
        for claim in found["stale_claims"]
    ]
    lines += [
        f"waiting  {item['experiment']}: round {item['round']} of {item['rounds']}, {item['answered']:,} of "
        f"{item['asked']:,} answered by people, since {_time(datetime.fromtimestamp(item['since'], UTC))}"
        + ("; not running now: submit it again with --resume" if item["silent"] else "")
        for item in found.get("waiting", [])
    ]
    if found["experiments"]:
        lines += ["", f"{'experiment':34}{'annotator':18}{'used':>8}{'paid':>8}{'cost':>10}"]
        for row in found["experiments"]:
            lines.append(
                f"{row['experiment']:34}{row['annotator']:18}{row['labels_used']:>8,}{row['labels_paid']:>8,}"
                f"{row['cost_paid']:>10g}"
            )
    if found.get("votes"):
        lines += ["", f"{'group':18}{'annotator':34}{'answers':>8}{'cost':>10}"]
        lines += [f"{r['group']:18}{r['annotator']:34}{r['answers']:>8,}{r['cost']:>10g}" for r in found["votes"]]
    return "\n".join(lines)
