"""Zero-shot: hand-written templates, no label used."""

from __future__ import annotations

from psp_ray.config.kinds import HEADS
from psp_ray.config.learn import LearnSettings
from psp_ray.core.records import TextState
from psp_ray.learn.heads._base import FitRequest


@HEADS.register("zero-shot", source="Radford et al., ICML 2021")
def zero_shot(request: FitRequest, settings: LearnSettings) -> TextState:
    """The class embeddings of hand-written templates, whatever was bought."""
    return request.zero_shot
