"""The true alignment, which the positions tell: the ablation that every reviewer asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.config.kinds import ALIGNMENTS
from psp_ray.policy.alignment import Alignment

if TYPE_CHECKING:
    from torch import Tensor


@ALIGNMENTS.register("id", source="ours; method.md, Soft-DTW")
class TrueAlignment(Alignment):
    """Who stayed meets its own next value, who left meets the reward alone."""

    def loss(self, q: Tensor, target: Tensor, stayed: Tensor, reward: Tensor) -> Tensor:
        whole = reward.clone()
        whole[stayed] = target
        return ((q - whole) ** 2).sum()
