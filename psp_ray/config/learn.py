"""Settings of prompt learning; field names are config keys, defaults those of `psp`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from psp_ray.config.base import Settings
from psp_ray.config.kinds import HEADS, OneOf


class LearnSettings(Settings):
    """How the student learns: by which head, and how context vectors are laid out and trained."""

    head: Annotated[str, OneOf(HEADS)] = Field(
        "auto",
        description="what is learned: auto (a mixture of the others, chosen by labels held out), gda, linear, "
        "residual, prompt (text prompts), zero-shot (nothing), or one of your own",
    )
    head_penalty: float = Field(
        0.05, gt=0, description="L2 penalty on the vectors of head linear and on the residual of head residual"
    )
    head_shrinkage: float = Field(
        0.3, ge=0, le=1, description="shrinkage of the covariance of heads gda and auto towards the identity"
    )
    head_soft_weight: float = Field(
        1.0, ge=0, description="what an unlabeled image with its posterior counts for a head; a bought label counts 1"
    )
    head_hard_weight: float = Field(
        0.5, ge=0, description="what a hard pseudo-label counts for a head, times its confidence"
    )
    head_folds: int = Field(
        5, ge=0, description="parts in which bought labels are held out to choose head auto's mixture; 0: no evidence"
    )
    protocol: Literal["short", "pcb"] = Field(
        "short", description="short: learning_steps steps on all labels at once; pcb: PCB's 200 epochs of SGD"
    )
    learning_steps: int = Field(100, ge=1, description="optimizer steps a round (protocol short)")
    context_length: int = Field(4, ge=1, description="context vectors a prompt (M)")
    context: Literal["class", "shared"] = Field(
        "class", description="every class has context vectors of its own (CSC), or all share them"
    )
    context_init: str = Field(
        "a photo of a", description="random, or words such as 'a photo of a' for the slots next to the class name"
    )
    class_token_position: Literal["end", "middle", "front"] = Field(
        "end", description="where the class name stands among the context vectors"
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="optimizer of protocol short")
    learning_rate: float = Field(0.02, gt=0, description="peak learning rate of protocol short; falls along a cosine")
    rate_unit: Literal["absolute", "model"] = Field(
        "model",
        description="learning_rate as it stands, or as for psp-lite and scaled to the model: by the size of its token "
        "embeddings, and by one over its logit scale (protocol short)",
    )
    weight_decay: float = Field(4.0, ge=0, description="weight decay of protocol short")
    decay_towards: Literal["zero", "start"] = Field(
        "start", description="where weight decay pulls the context vectors (protocol short)"
    )
    averaging: float = Field(
        0.0, ge=0, le=1, description="share of the last steps whose context vectors are averaged; 0 takes the last"
    )
    anchor_weight: float = Field(
        0.2, ge=0, description="weight of the squared distance to the zero-shot embeddings (KgCoOp; protocol short)"
    )
    anchor: Literal["fixed", "gated"] = Field(
        "gated",
        description="anchor_weight and the start that decay pulls to as they stand, or times the square of zero-shot's "
        "share of hits on bought labels",
    )
    pseudo_weight: float = Field(1.0, ge=0, description="weight of the mean loss over pseudo-labels")
    pseudo_batch: int = Field(512, ge=1, description="pseudo-labeled samples a step, drawn class by class")
    label_batch: int = Field(2048, ge=1, description="most labeled samples a step")
    descriptions: Literal["none", "AS", "AE"] = Field(
        "none", description="class descriptions: average similarity or average embedding"
    )
    warm_start: bool = Field(False, description="start from the last round's context vectors instead of fresh ones")
    divergence_guard: bool = Field(
        True, description="start again with a smaller learning rate where learning fails or ends below the teacher"
    )
    memory_mib: int = Field(
        2048, ge=1, description="memory for the text tower's activations; beyond it they are computed twice"
    )

    @field_validator("context_init")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("give random, or words such as 'a photo of a'")
        return value
