"""Annotators, one file each, by name. A new one: a file here with `@register_annotator("name")`, imported below."""

from psp_ray.labels.annotators.base import (
    Annotator,
    Item,
    annotator_names,
    make_annotator,
    register_annotator,
)
from psp_ray.labels.annotators.file import FileAnnotator
from psp_ray.labels.annotators.ground_truth import GroundTruthAnnotator
from psp_ray.labels.annotators.simulated import CrowdAnnotator

__all__ = [
    "Annotator",
    "CrowdAnnotator",
    "FileAnnotator",
    "GroundTruthAnnotator",
    "Item",
    "annotator_names",
    "make_annotator",
    "register_annotator",
]
