"""Annotators, one file each, by name. A new one: a file here with `@register_annotator("name")`, imported below."""

from psp_ray.oracle.backends.base import (
    Annotator,
    Item,
    annotator_names,
    make_annotator,
    register_annotator,
)
from psp_ray.oracle.backends.crowd import CrowdAnnotator
from psp_ray.oracle.backends.file import FileAnnotator
from psp_ray.oracle.backends.ground_truth import GroundTruthAnnotator

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
