"""Settings of the strategies beside `vssp`, and of the wrappers; field names are config keys."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import Field, field_validator

from psp_ray.config.base import Settings
from psp_ray.config.policy import PolicySettings


class CoresetSettings(Settings):
    """Settings of `coreset`."""

    coreset_space: Literal["features", "gradients"] = Field(
        "features", description="what coreset covers: image features, or BADGE's gradient embeddings"
    )


class TypiClustSettings(Settings):
    """Settings of `typiclust`."""

    typiclust_neighbors: int = Field(20, ge=1, description="nearest neighbors whose mean distance tells typicality")
    typiclust_clusters: int = Field(500, ge=1, description="most clusters of typiclust")
    typiclust_smallest: int = Field(
        5, ge=0, description="clusters of at most so many samples are served after all others"
    )


class AlfaMixSettings(Settings):
    """Settings of `alfa-mix`."""

    alfa_mix_cap: float = Field(
        0.2, gt=0, le=1, description="first cap of the mixing ratio's norm, and its step while candidates are few"
    )


class CBSQSettings(Settings):
    """Settings of `cbsq`."""

    cbsq_multiple: int = Field(4, ge=1, description="clusters of cbsq for each query, beside one for each label")
    cbsq_clusters: int = Field(5000, ge=1, description="most clusters of cbsq")
    cbsq_selective: bool = Field(True, description="pass over samples surer than their class's threshold")


class KMeansSettings(Settings):
    """Settings of `kmeans`."""

    kmeans_clusters: int = Field(5000, ge=1, description="most clusters of kmeans")


class ProbCoverSettings(Settings):
    """Settings of `probcover`."""

    probcover_delta: float = Field(0.0, ge=0, description="radius of probcover's balls; 0: found by their purity")
    probcover_purity: float = Field(
        0.95, gt=0, le=1, description="share of balls that hold one cluster only at probcover's own radius"
    )


class MaxHerdingSettings(Settings):
    """Settings of `maxherding`."""

    maxherding_bandwidth: float = Field(1.0, gt=0, description="bandwidth of maxherding's Gaussian kernel")


class UHerdingSettings(Settings):
    """Settings of `uherding`."""

    uherding_bandwidth: float = Field(
        0.0, ge=0, description="bandwidth of uherding's kernel; 0: least distance of labeled samples (1 before any)"
    )


class DropQuerySettings(Settings):
    """Settings of `dropquery`."""

    dropquery_passes: int = Field(3, ge=1, description="predictions under dropout that dropquery compares")
    dropquery_rate: float = Field(0.75, ge=0, lt=1, description="share of a feature's entries that dropquery drops")


class El2nPolicySettings(Settings):
    """Settings of `el2n-policy`."""

    el2n_share: float = Field(0.5, gt=0, le=1, description="share of each class's labels that counts as worth buying")
    el2n_temperature: float = Field(
        0.3, gt=0, description="weight of the policy's entropy against its reward of -1 or 1"
    )
    el2n_sharpness: float = Field(2.0, ge=0, description="factor on the policy's log odds in the selection softmax")
    el2n_steps: int = Field(300, ge=1, description="gradient steps of the policy per round")


class BanditSettings(Settings):
    """Settings of `bandit`."""

    bandit_arms: int = Field(0, ge=0, description="clusters the bandit chooses from; 0: two for each label of a round")
    bandit_memory: float = Field(
        0.7, ge=0, le=1, description="what counts of earlier rounds' rewards, per round; prompts change, errors move"
    )


class PCBSettings(Settings):
    """Settings of the wrapper `pcb`."""

    pcb: Literal["intent", "released"] = Field(
        "intent",
        description="class balancer as PCB's paper means it, or as the released code does where a class runs out",
    )
    pcb_fraction: float = Field(0.1, gt=0, le=1, description="candidates of +pcb as a share of the whole pool")
    pcb_first_round: Literal["random", "strategy"] = Field(
        "random", description="first round of +pcb: uniform as in PCB's protocol, or balanced like the others"
    )


AUDIT_FRACTION = 0.03
"""`audit_fraction: auto` beside a test set: estimates from the draws are a bonus there."""
AUDIT_FRACTION_UNTESTED = 0.1
"""The same where only the draws tell how good the prompts are, or more where there are few labels."""
AUDIT_DRAWS = 8
"""Draws that make an estimate worth showing; small runs give up to `AUDIT_MOST` of their labels for them."""
AUDIT_MOST = 0.3


def automatic_audit(labels: int, tested: bool) -> float:
    """`audit_fraction: auto` for a run of so many labels, with a test set or without."""
    if tested:
        return AUDIT_FRACTION
    return round(min(max(AUDIT_FRACTION_UNTESTED, AUDIT_DRAWS / max(labels, 1)), AUDIT_MOST), 3)


class AuditSettings(Settings):
    """The share of the labels that is left to plain chance."""

    audit_fraction: float | Literal["auto"] = Field(
        "auto",
        description="share of the labels drawn by chance, for honest estimates; auto: 0.03, or at least 0.1 "
        "without a test set",
    )

    @field_validator("audit_fraction")
    @classmethod
    def _share(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and not 0 <= value < 1:
            raise ValueError("must be at least 0 and less than 1, or auto")
        return value

    @property
    def audit_share(self) -> float:
        """`audit_fraction` in numbers."""
        return AUDIT_FRACTION if self.audit_fraction == "auto" else self.audit_fraction


class SubsampleSettings(Settings):
    """Settings of the wrapper `sub`."""

    sub_size: int = Field(10_000, ge=1, description="unlabeled samples that +sub shows its strategy in a round")


class SamplerSettings(
    PolicySettings,
    CoresetSettings,
    TypiClustSettings,
    AlfaMixSettings,
    CBSQSettings,
    KMeansSettings,
    ProbCoverSettings,
    MaxHerdingSettings,
    UHerdingSettings,
    DropQuerySettings,
    El2nPolicySettings,
    BanditSettings,
    PCBSettings,
    SubsampleSettings,
    AuditSettings,
):
    """Who is asked: the strategy, the preset that named it, and what VSSP, the others and the wrappers can be told."""

    strategy: str = Field(
        "psp",
        description="who chooses the images: psp (a learned policy), random, badge+pcb, ... "
        "(`psp-ray list strategies`), or full, zero-shot (references)",
    )
    strategy_settings: dict[str, bool | int | float | str] = Field(
        {}, description="settings of a strategy of your own: KEY=VALUE, several with commas"
    )
    preset: str | None = Field(None, description="the preset that --strategy named; set by the program")

    @field_validator("strategy_settings", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """`KEY=VALUE,KEY=VALUE` as a mapping; values are read like those of a YAML file."""
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if not all(equals and key.strip() for key, equals, _ in pairs):
            raise ValueError("expected KEY=VALUE, several with commas")
        return {key.strip().replace("-", "_"): yaml.safe_load(item) for key, _, item in pairs}

    @property
    def shown_strategy(self) -> str:
        """The name to show: the preset if one was given, else the acquisition function."""
        return self.preset or self.strategy
