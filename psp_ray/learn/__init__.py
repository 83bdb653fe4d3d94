"""Prompt learning and evaluation. torch is imported with `PromptLearner`, not with this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.config.learn import LearnSettings
from psp_ray.core.lazily import lazily
from psp_ray.learn.evaluate import evaluate, predict_proba

if TYPE_CHECKING:
    from psp_ray.learn.prompts import Prompts
    from psp_ray.learn.trainer import PromptLearner

__all__ = [
    "LearnSettings",
    "PromptLearner",
    "Prompts",
    "evaluate",
    "predict_proba",
]


__getattr__ = lazily(__name__, {"PromptLearner": "trainer", "Prompts": "prompts"})
