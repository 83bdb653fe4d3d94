"""Labels: the ledger that remembers who bought what, the annotators, and the oracle over both. No ray, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.core.answers import IGNORE, SKIP, AwaitingLabels, UnknownLabel, answer_name, parse_answer
from psp_ray.core.lazily import lazily

if TYPE_CHECKING:
    from psp_ray.labels.annotators.base import ANNOTATORS, Annotator, AnnotatorInput, Item, make_annotator
    from psp_ray.labels.annotators.ground_truth import GroundTruthAnnotator
    from psp_ray.labels.database import resolve_ledger_url
    from psp_ray.labels.ledger import Correction, Ledger, Use
    from psp_ray.labels.schema import label_space_of
    from psp_ray.labels.service import LabelRequest, LabelResponse, Oracle, OracleSettings

__all__ = [
    "ANNOTATORS",
    "IGNORE",
    "SKIP",
    "Annotator",
    "AnnotatorInput",
    "AwaitingLabels",
    "Correction",
    "GroundTruthAnnotator",
    "Item",
    "LabelRequest",
    "LabelResponse",
    "Ledger",
    "Oracle",
    "OracleSettings",
    "UnknownLabel",
    "Use",
    "answer_name",
    "label_space_of",
    "make_annotator",
    "parse_answer",
    "resolve_ledger_url",
]

__getattr__ = lazily(
    __name__,
    {
        "ANNOTATORS": "annotators.base",
        "Annotator": "annotators.base",
        "AnnotatorInput": "annotators.base",
        "Item": "annotators.base",
        "make_annotator": "annotators.base",
        "GroundTruthAnnotator": "annotators.ground_truth",
        "resolve_ledger_url": "database",
        "Correction": "ledger",
        "Ledger": "ledger",
        "Use": "ledger",
        "label_space_of": "schema",
        "LabelRequest": "service",
        "LabelResponse": "service",
        "Oracle": "service",
        "OracleSettings": "service",
    },
)
