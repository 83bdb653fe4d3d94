"""Presets: names that `--strategy` takes beside the acquisition functions.

A preset sets the acquisition function, self-training and settings; options given beside it win. `psp` starts from the
defaults of the settings, `psp-paper` is the method note taken literally, the others switch one thing off (ablations).
Two are references: `full` learns from the labels of the whole pool, `zero-shot` buys nothing and is evaluated once.
"""

from __future__ import annotations

from typing import Any

from psp_ray.config.policy import PSP_PAPER as POLICY_PAPER

Settings = dict[str, Any]

ZERO_SHOT = "zero-shot"
REFERENCES = (ZERO_SHOT, "full")

PSP: Settings = {"strategy": "vssp", "self_training": "ust"}

PSP_PAPER: Settings = {
    "strategy": "vssp",
    "audit_fraction": 0.0,
    "self_training": "ust",
    "confidence_min": 0.7,
    "uncertainty_max": 0.05,
    "uncertainty": "confidence",
    "pseudo_source": "prompt",
    "pseudo_weight": 1.0,
    "pseudo_cap": 0,
    "pseudo_floor": 1,
    "context_length": 16,
    "context_init": "random",
    "learning_steps": 300,
    "learning_rate": 0.002,
    "weight_decay": 0.0,
    "decay_towards": "zero",
    "rate_unit": "absolute",
    "anchor_weight": 0.0,
    "anchor": "fixed",
    "head": "prompt",
    **POLICY_PAPER,
}

PRESETS: dict[str, Settings] = {
    "psp": PSP,
    "psp-no-vssp": PSP | {"strategy": "random"},
    "psp-no-ust": PSP | {"self_training": "none"},
    "psp-scalar-critic": PSP | {"critic": "scalar", "reward_form": "scalar"},
    "psp-pad": PSP | {"align": "pad"},
    "psp-vae": PSP | {"align": "vae"},
    "psp-id": PSP | {"align": "id"},
    "psp-no-ms": PSP | {"ms": "none"},
    "psp-topk": PSP | {"sampling": "topk"},
    "psp-paper": PSP_PAPER,
    "psp-paper-no-vssp": PSP_PAPER | {"strategy": "random"},
    "psp-paper-no-ust": PSP_PAPER | {"self_training": "none"},
    "psp-paper-pad": PSP_PAPER | {"align": "pad"},
    "psp-paper-vae": PSP_PAPER | {"align": "vae"},
    ZERO_SHOT: {"strategy": "random", "self_training": "none", "rounds": 1, "labels_per_round": 1},
    "full": {"strategy": "random", "self_training": "none", "rounds": 1, "labels_per_round": "pool"},
}


def preset_settings(name: str) -> Settings:
    """The settings that `--strategy NAME` implies: a preset's, or just the strategy itself."""
    return dict(PRESETS.get(name, {"strategy": name}))
