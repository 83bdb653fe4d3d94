"""Settings of self-training; field names are config keys. The defaults are those of `psp`; presets hold the others."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from psp_ray.config.base import Settings
from psp_ray.config.kinds import PSEUDO_SOURCES, OneOf


class SelfTrainingSettings(Settings):
    """How pseudo-labels are made and which of them are kept (method.md, "UST")."""

    self_training: Literal["none", "ust"] = Field(
        "none", description="learn from pseudo-labels too (ust) or not; presets choose their own"
    )
    confidence_min: float = Field(
        default=0.7, ge=0, le=1, description="keep a pseudo-label only from this confidence on; 0: any"
    )
    uncertainty_max: float = Field(
        default=0.2, ge=0, le=1, description="keep a pseudo-label only up to this spread over the views; 1: any"
    )
    uncertainty: Literal["confidence", "averaged-class"] = Field(
        default="averaged-class",
        description="spread over the views of each view's own confidence (as in the paper), or of the averaged class's "
        "probability",
    )
    pseudo_cap: int = Field(default=40, ge=0, description="most pseudo-labels kept per class; 0: no cap")
    pseudo_floor: int = Field(default=0, ge=0, description="fewest pseudo-labels per class: the rest is filled up")
    include_center: bool = Field(
        default=False, description="the unaltered image counts as a view (in the paper only the altered ones do)"
    )
    pseudo_source: Annotated[str, OneOf(PSEUDO_SOURCES)] = Field(
        default="posterior",
        description="whose labels: the last round's prompt (as in the paper), bought labels spread over the graph of "
        "nearest neighbors, the prompt's where the graph agrees, or all evidence weighed (posterior)",
    )
    graph_neighbors: int = Field(default=10, ge=1, description="neighbors of each image in the graph")
    graph_alpha: float = Field(
        default=0.9, gt=0, lt=1, description="how far bought labels spread over the graph: near 0 next door, near 1 far"
    )
    graph_power: float = Field(
        default=3.0, ge=0, description="an edge weighs the cosine to this power; 0: all edges weigh the same"
    )
    graph_balance: Literal["none", "mass", "tempered", "halfway"] = Field(
        default="halfway",
        description="mass of each class on the graph: as it comes, equal, by the root of its number of labels, or "
        "halfway between that and as it comes",
    )
    graph_whitening: float = Field(
        default=0.25, ge=0, le=1, description="whitening of the space in which neighbors are sought: 0 none, 1 full"
    )
    graph_limit: int = Field(
        default=20_000,
        ge=1,
        description="most images in the graph: in larger pools drawn from all of their cells (by chance where no "
        "posterior is asked for)",
    )

    posterior_whitening: float = Field(
        default=0.85, ge=0, le=1, description="whitening of the space in which classes have means: 0 none, 1 full"
    )
    posterior_shrinkage: float = Field(
        default=0.1, ge=0, le=1, description="share of the identity added to the covariance before that whitening"
    )
    posterior_sharpness: float = Field(
        default=40.0, gt=0, description="log odds per unit of cosine between an image and a class's mean"
    )
    posterior_label_weight: float = Field(
        default=3.0, gt=0, description="a bought label counts this many sure images in its class's mean"
    )
    posterior_steps: int = Field(default=5, ge=1, description="rounds of re-estimating the class means from the pool")
    posterior_rounds: int = Field(
        default=8, ge=1, description="latest purchases by which the weights of teacher and graph are judged"
    )

    @model_validator(mode="after")
    def _floor_below_cap(self) -> SelfTrainingSettings:
        if self.pseudo_cap and self.pseudo_floor > self.pseudo_cap:
            raise ValueError(f"pseudo_floor {self.pseudo_floor} is above pseudo_cap {self.pseudo_cap}; lower it")
        return self
