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

    cbsq_clusters: int = Field(500, ge=1, description="most clusters of cbsq")
    cbsq_selective: bool = Field(True, description="pass over samples surer than their class's threshold")


class TrustSetSettings(Settings):
    """Settings of `trustset`."""

    trustset_share: float = Field(0.5, gt=0, le=1, description="share of each class's labels that enters the TrustSet")
    trustset_temperature: float = Field(
        0.3, gt=0, description="weight of the policy's entropy against its reward of -1 or 1"
    )
    trustset_sharpness: float = Field(2.0, ge=0, description="factor on the policy's log odds in the selection softmax")
    trustset_steps: int = Field(300, ge=1, description="gradient steps of the policy per round")


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
    TrustSetSettings,
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
