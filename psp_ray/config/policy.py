"""Settings of the sampling policy (VSSP). Field names are config keys; defaults are the preset `psp`'s.

`PSP_PAPER` lists what the preset `psp-paper` sets otherwise: the method note taken literally.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from psp_ray.config.base import Settings
from psp_ray.config.kinds import ALIGNMENTS, INDICATORS, PRIORS, REWARDS, OneOf


class PolicySettings(Settings):
    """How VSSP selects, what it is paid for, and how it learns."""

    # action and draw
    kappa: float = Field(1.0, gt=0, description="sharpness of the selection softmax over u in (-1, 1)")
    sampling: Literal["gumbel", "topk"] = Field(
        "gumbel", description="exact draw without replacement (gumbel), or the most probable samples (topk)"
    )
    prior: Annotated[str, OneOf(PRIORS)] = Field(
        "coverage",
        description="added to the policy's log odds: uncertainty, or anchors that together cover what is uncertain",
    )
    prior_weight: float = Field(
        5.0,
        ge=0,
        description="log odds per standard deviation of the uncertainty, or of an anchor against all other samples",
    )
    coverage_weight: Literal["posterior", "disagreement", "uniform"] = Field(
        "posterior",
        description="what is to be covered: what the posterior doubts and where teacher and graph may disagree, the "
        "latter alone, or all samples alike",
    )
    coverage_kernel: Literal["both", "reach", "distance"] = Field(
        "both",
        description="a sample covers those that its label reaches over the graph, those near it, or both",
    )
    coverage_width: float = Field(
        2.0, gt=0, description="reach of a sample by distance, in mean distances to the 8th neighbor"
    )
    coverage_first_width: float = Field(
        2.0,
        ge=0,
        description="width of the kernel on plain encodings that the first round adds, in mean distances between "
        "samples; 0: none",
    )
    coverage_fade: float = Field(
        12.0, ge=0, description="log odds that the anchors beyond the query's size lose, from first to last"
    )
    coverage_limit: int = Field(
        6000, ge=1, description="in larger pools anchors are sought among this many samples, drawn anew each round"
    )
    coverage_whitening: float = Field(
        0.25, ge=0, le=1, description="whitening of the space in which samples cover each other: 0 none, 1 full"
    )

    # state
    centered: bool = Field(
        True, description="center and scale the factors of the state by their means over the first pool"
    )
    state_features: bool = Field(True, description="feed confidence, margin, entropy and the like to actor and critics")
    pooled_context: bool = Field(
        True,
        description="feed each sample's relation to the pool and to what is labeled to actor and critics",
    )

    # reward
    ms: Annotated[str, OneOf(INDICATORS)] = Field(
        "multinomial", description="indicator of the draw in the reward; none puts -1 in its place"
    )
    reward_scaling: Literal["normalized", "paper"] = Field(
        "normalized",
        description="divide the indicator by its size under uniform selection, or take it as it is",
    )
    reward_gap: Annotated[str, OneOf(REWARDS)] = Field(
        "closed",
        description="pay for a small gap of the student (after), a large one of the teacher (before), a closed one",
    )
    reward_form: Literal["scalar", "per-sample"] = Field(
        "per-sample", description="one reward for all samples, or bought samples get their own gap"
    )
    reward_centered: bool = Field(
        True, description="subtract the mean reward: else every sample gains by leaving the pool of negative rewards"
    )
    reward_scale: float | Literal["auto"] = Field(
        "auto", description="constant factor of the reward; auto: mean size 1 over the replay buffer"
    )
    beta: float = Field(0.7, ge=0, description="weight of the pseudo-labels' gap in the reward")

    # update
    gamma: float = Field(0.9, ge=0, lt=1, description="discount")
    tau: float = Field(0.1, gt=0, le=1, description="rate at which the target critic follows the critic")
    alpha: float | Literal["auto"] = Field("auto", description="temperature of the entropy term, or auto")
    alpha_start: float = Field(0.1, gt=0, description="first temperature where alpha is auto")
    target_entropy: float = Field(-1.0, description="entropy per sample at which the automatic alpha aims")
    critic: Literal["vector", "scalar"] = Field(
        "vector", description="a value per sample, or pool means with a plain squared error"
    )
    n_critics: int = Field(1, ge=1, le=2, description="Q networks; of two the smaller value counts")
    q_input: Literal["u", "log-odds"] = Field("u", description="what Q sees of the action: u, or the log odds log(n a)")
    align: Annotated[str, OneOf(ALIGNMENTS)] = Field("softdtw", description="how Q and its shorter target are aligned")
    sdtw_gamma: float = Field(0.01, gt=0, description="smoothing of Soft-DTW relative to the mean cost in the band")
    sdtw_band: bool = Field(True, description="align within the band that holds the true alignment")
    sdtw_backend: Literal["auto", "numba", "torch"] = Field(
        "auto", description="Soft-DTW by numba on the CPU, or as a torch wavefront where the networks run; auto: numba"
    )
    sdtw_divergence: bool = Field(False, description="Soft-DTW divergence, which is 0 at equality")
    vae_code: int = Field(16, ge=1, description="length of the code of align vae")
    vae_hidden: int = Field(64, ge=1, description="width of the VAE of align vae")
    update_steps: int = Field(10, ge=0, description="gradient steps of the policy per round")
    update_sample: int = Field(4, ge=0, description="blocks of 4,096 samples per gradient step; 0: all")
    replay_capacity: int = Field(64, ge=1, description="transitions kept")
    actor_lr: float = Field(1e-3, gt=0, description="learning rate of the actor (Adam)")
    critic_lr: float = Field(1e-3, gt=0, description="learning rate of the critics (Adam)")
    alpha_lr: float = Field(1e-2, gt=0, description="learning rate of the automatic alpha (Adam)")
    max_grad_norm: float = Field(10.0, gt=0, description="longest gradient of a network; longer ones are cut")

    # networks
    rank_image: int = Field(16, ge=1, description="rank of the first layer in the image feature")
    rank_class: int = Field(16, ge=1, description="rank of the first layer in the class factor")
    hidden: int = Field(64, ge=1, description="width of actor and critics")
    layers: int = Field(2, ge=1, description="hidden layers of actor and critics, the bilinear one included")
    log_std_min: float = Field(-5.0, description="smallest log standard deviation of the latent")
    log_std_max: float = Field(2.0, description="largest log standard deviation of the latent")

    @field_validator("alpha", "reward_scale")
    @classmethod
    def _positive(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and not value > 0:
            raise ValueError("must be positive, or auto")
        return value

    @field_validator("log_std_max")
    @classmethod
    def _ordered(cls, value: float, info: Any) -> float:
        if value <= info.data.get("log_std_min", value - 1):
            raise ValueError("must be larger than log_std_min")
        return value

    @model_validator(mode="after")
    def _own_rewards_need_a_vector(self) -> Self:
        if self.reward_form == "per-sample" and self.critic == "scalar":
            raise ValueError("reward_form per-sample needs critic vector")
        return self


PSP_PAPER: dict[str, Any] = {
    "prior": "none",
    "prior_weight": 1.0,
    "kappa": 1.0,
    "centered": False,
    "state_features": False,
    "pooled_context": False,
    "reward_scaling": "paper",
    "reward_gap": "after",
    "reward_form": "scalar",
    "reward_centered": False,
    "reward_scale": 1.0,
    "update_steps": 40,
}
"""Policy settings of the preset `psp-paper` where they differ from the defaults."""
