"""Prompt learning and evaluation. torch is imported with `PromptLearner`, not with this package."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from psp_ray.config.learn import LearnSettings
from psp_ray.data.descriptions import load_descriptions, match_descriptions
from psp_ray.learn.evaluate import evaluate, predict_proba

if TYPE_CHECKING:
    from psp_ray.learn.prompts import Prompts
    from psp_ray.learn.trainer import PromptLearner

_LAZY = {"PromptLearner": "psp_ray.learn.trainer", "Prompts": "psp_ray.learn.prompts"}

__all__ = [
    "LearnSettings",
    "PromptLearner",
    "Prompts",
    "evaluate",
    "load_descriptions",
    "match_descriptions",
    "predict_proba",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
