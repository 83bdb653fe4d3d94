"""Labels: the ledger that remembers who bought what, the annotators, and the oracle over both. No ray, no torch."""

from psp_ray.core.answers import IGNORE, SKIP, AwaitingLabels, UnknownLabel, answer_name, parse_answer
from psp_ray.labels.annotators import (
    Annotator,
    GroundTruthAnnotator,
    Item,
    annotator_names,
    make_annotator,
    register_annotator,
)
from psp_ray.labels.ledger import Correction, Ledger, Use
from psp_ray.labels.schema import label_space_of, resolve_ledger_url
from psp_ray.labels.service import LabelRequest, LabelResponse, Oracle, OracleSettings

__all__ = [
    "IGNORE",
    "SKIP",
    "Annotator",
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
    "annotator_names",
    "answer_name",
    "label_space_of",
    "make_annotator",
    "parse_answer",
    "register_annotator",
    "resolve_ledger_url",
]
