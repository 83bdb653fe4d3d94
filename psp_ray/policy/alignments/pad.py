"""Padding: the target is filled up with zeros, whoever left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.config.kinds import ALIGNMENTS
from psp_ray.policy.alignment import Alignment

if TYPE_CHECKING:
    from torch import Tensor


@ALIGNMENTS.register("pad", source="method.md, Soft-DTW: the note's ablation")
class Padding(Alignment):
    """The target padded with zeros to the length of Q, place by place."""

    def loss(self, q: Tensor, target: Tensor, stayed: Tensor, reward: Tensor) -> Tensor:
        from torch.nn.functional import pad

        return ((q - pad(target, (0, len(q) - len(target)))) ** 2).sum()
