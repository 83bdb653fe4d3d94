"""What a comparison would do: all that can be told without starting Ray, encoding or buying anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from psp_ray.core.words import counted
from psp_ray.run.checkpoint import latest_round
from psp_ray.studies.plan import Cell, Plan, check_study_out, is_finished


class DryRun:
    """A look at a comparison's folder, if one was named, as the comparison itself would find it. Writes nothing.

    Raises:
        OutputError: the comparison would be refused.
    """

    def __init__(self, plan: Plan, out: str | Path | None, resume: bool, replace_changed: bool) -> None:
        self._cells = plan.cells
        changed = check_study_out(plan, resume, replace_changed) if out is not None else []
        self._changed = {cell.id for cell in changed}
        begun = [cell for cell in plan.cells if out is not None and cell.id not in self._changed]
        self._finished = {cell.id for cell in begun if is_finished(cell)}
        self._rounds = {cell.id: latest_round(cell.folder / "checkpoints") for cell in begun}

    def lines(self) -> Iterator[str]:
        """A line for every run."""
        for cell in self._cells:
            labels, rounds = cell.config.labels, self._rounds.get(cell.id, 0)
            bought = f"{labels.rounds} x {labels.labels_per_round} labels" if cell.labels_per_class else "reference"
            state = (
                ", finished" if cell.id in self._finished
                else ", other settings: to be run again" if cell.id in self._changed
                else f", {rounds} of {counted(labels.rounds, 'round')} done" if rounds
                else ""
            )  # fmt: skip
            yield f"{cell.id}: {bought}, evaluated on {cell.config.data.evaluate_on}{state}"

    def sums(self) -> str:
        """How many runs there are, how many of them have finished, and the labels that the others buy."""
        runs = counted(len(self._cells), "run")
        finished = f", {len(self._finished)} of them finished" if self._finished else ""
        ahead = sum(self._ahead(cell) for cell in self._cells if cell.id not in self._finished)
        labels = f"at most {ahead:,} label{'' if ahead == 1 else 's'} to buy" if ahead else "no label to buy"
        return f"{runs}{finished}, {labels}"

    def _ahead(self, cell: Cell) -> int:
        rounds = cell.config.labels.rounds
        return cell.labels * max(0, rounds - self._rounds.get(cell.id, 0)) // rounds
