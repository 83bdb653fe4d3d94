"""Settings of the strategies beside `vssp`, and of the wrappers; field names are config keys."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
):
    """Who is asked: the strategy, the preset that named it, and what VSSP, the others and the wrappers can be told."""

    strategy: str = Field(
        "psp", description="acquisition function (random, badge+pcb, vssp, ...) or preset (psp, psp-paper, full, ...)"
    )
    preset: str | None = Field(None, description="the preset that --strategy named; set by the program")

    @property
    def shown_strategy(self) -> str:
        """The name to show: the preset if one was given, else the acquisition function."""
        return self.preset or self.strategy
