"""A finished run whose labels people have changed since."""

from __future__ import annotations

from pathlib import Path

from psp_ray.config.config import Config
from psp_ray.core.files import write_json
from psp_ray.data.dataset import Dataset
from psp_ray.run.asking import ASKED
from psp_ray.run.assemble import oracle_input
from psp_ray.run.build import build_oracle
from psp_ray.run.checkpoint import drop_checkpoint
from psp_ray.run.events import Events
from psp_ray.run.folder import KEPT as CHECKPOINTS
from psp_ray.run.folder import SUMMARY, read_summary


def taken_up_again(config: Config, dataset: Dataset, out: Path, experiment_id: str, events: Events) -> bool:
    """Whether a finished run is to be taken up again: a label was corrected since, or an image answered that it never
    asked about. Its last round is then repeated."""
    if config.labels.oracle not in ASKED:
        return False
    oracle = build_oracle(oracle_input(config, dataset, out, experiment=experiment_id))
    try:
        changed = oracle.revise(experiment_id)
        more = oracle.volunteered(experiment_id)
        if (
            not changed
            and not more
            and not any(c.corrected_at > (out / SUMMARY).stat().st_mtime for c in oracle.ledger.corrections())
        ):
            return False
    finally:
        oracle.ledger.close()
    # In this order a crash in between does it all again, and drops no further round.
    summary = read_summary(out)
    drop_checkpoint(out / CHECKPOINTS, len(summary["rounds"]))
    write_json(out / SUMMARY, summary | {"status": "interrupted"})
    what = "more images were labeled" if more else "labels were corrected"
    events.note(f"{what} since the run finished: repeating its last round")
    return True
