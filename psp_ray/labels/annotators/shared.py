"""The oracle of a cluster, asked by many experiments: runs connect to it in place of making an annotator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, Self

from psp_ray.core.errors import OracleError
from psp_ray.labels.annotators.base import ANNOTATORS, Annotator, AnnotatorInput, Item

_ELSEWHERE = "--oracle shared: is asked in its cluster and has annotators of its own; start a run to use it"


@ANNOTATORS.register("shared")
class SharedAnnotator(Annotator):
    """The cluster's oracle that --oracle-name names, with annotators and caps of its own."""

    needs_truth = True

    @classmethod
    def of(cls, given: AnnotatorInput) -> Self:
        raise OracleError(_ELSEWHERE)

    def answer(self, items: Sequence[Item]) -> NoReturn:
        raise OracleError(_ELSEWHERE)
