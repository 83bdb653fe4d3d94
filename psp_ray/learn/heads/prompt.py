"""The prompts themselves: class embeddings of learned context vectors (CoOp)."""

from __future__ import annotations

from psp_ray.config.kinds import HEADS
from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError
from psp_ray.core.records import TextState
from psp_ray.learn.heads._base import FitRequest


@HEADS.register("prompt", source="Zhou et al., IJCV 2022")
def prompt(request: FitRequest, settings: LearnSettings) -> TextState:
    """The learned prompts as they are (psp_ray.learn.trainer learns them)."""
    if request.prompt is None:
        raise ConfigError("--head prompt: there are no prompts without a text tower; use linear, gda or auto")
    return request.prompt
