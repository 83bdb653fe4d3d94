"""What a run's checkpoints know and its ledger doesn't: labels that a lost, older or emptied ledger would buy again."""

from __future__ import annotations

from pathlib import Path

from psp_ray.labels.ledger import Ledger
from psp_ray.run.checkpoint import newest
from psp_ray.run.folder import KEPT, read_run
from psp_ray.run.state_files import recorded


def lost_answers(run: Path, ledger: Ledger | str) -> list[str]:
    """A line for a ledger that lacks answers which the run in folder `run` was given; none where it has all.

    Raises:
        OutputError: no run there, or another version's. OracleError: the ledger can't be read.
    """
    experiment = read_run(run).experiment
    checkpoint = newest(run / KEPT)
    if checkpoint is None or "sample_id" not in checkpoint.tables["labels"].column_names:
        return []
    asked_in = recorded(checkpoint, run)[1].asked_in.tolist()
    names = checkpoint.tables["labels"]["sample_id"].to_pylist()
    asked = [name for name, number in zip(names, asked_in, strict=True) if number > 0]
    opened = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
    try:
        told = {use.sample_id for use in opened.history(experiment)}
    finally:
        if opened is not ledger:
            opened.close()
    lost = [name for name in asked if name not in told]
    if not lost:
        return []
    return [
        f"experiment {experiment!r}: {len(lost):,} of {len(asked):,} answers that the checkpoints of {run} know are "
        f"not in the ledger ({lost[0]!r}); psp-ray continue {run} puts them back"
    ]
