"""An annotator that looks labels up: for benchmarks, simulations and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import pyarrow as pa

from psp_ray.core.errors import OracleError
from psp_ray.labels.annotators.base import ANNOTATORS, Annotator, AnnotatorInput, Item


@ANNOTATORS.register("ground-truth")
class GroundTruthAnnotator(Annotator):
    """The data set's own labels, all of a request at once.

    Args:
        labels: class index of each sample_id. cost: the price of a label. name: the annotator's name in the ledger.
    """

    needs_truth = True

    def __init__(self, labels: Mapping[str, int], *, cost: float = 1.0, name: str = "ground-truth") -> None:
        self.name = name
        self.cost = float(cost)
        self._labels = labels

    @classmethod
    def of(cls, given: AnnotatorInput) -> Self:
        return cls(given.truth)

    @classmethod
    def from_table(cls, table: pa.Table, *, cost: float = 1.0, name: str = "ground-truth") -> Self:
        """From an Arrow table with columns `sample_id` (string) and `label` (integer, null where not known)."""
        pairs = zip(table.column("sample_id").to_pylist(), table.column("label").to_pylist(), strict=True)
        return cls({sample: label for sample, label in pairs if label is not None}, cost=cost, name=name)

    def answer(self, items: Sequence[Item]) -> Sequence[int]:
        """Labels of `items` in their order. Raises OracleError naming the first sample that has none."""
        missing = [item.sample_id for item in items if self._labels.get(item.sample_id) is None]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise OracleError(
                f"sample {missing[0]!r}{more} has no ground-truth label; add it to the label column or exclude it"
            )
        return [int(self._labels[item.sample_id]) for item in items]
