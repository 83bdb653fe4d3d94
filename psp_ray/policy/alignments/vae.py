"""Codes of a small VAE: both sequences become as long as the code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.config.kinds import ALIGNMENTS
from psp_ray.config.policy import PolicySettings
from psp_ray.policy.alignment import Alignment

if TYPE_CHECKING:
    from torch import Tensor

    from psp_ray.policy.sequence_vae import SequenceVAE


@ALIGNMENTS.register("vae", source="method.md, Soft-DTW: the note's ablation; the VAE is ours")
class Codes(Alignment):
    """Squared error between the codes' means, times the length of Q; the VAE learns beside the critics."""

    module: SequenceVAE

    def __init__(self, length: int, settings: PolicySettings, seed: int) -> None:
        from psp_ray.policy.sequence_vae import SequenceVAE

        super().__init__(length, settings, seed)
        self.module = SequenceVAE(length, settings, seed)

    def loss(self, q: Tensor, target: Tensor, stayed: Tensor, reward: Tensor) -> Tensor:
        return len(q) * ((self.module.code(q) - self.module.code(target)) ** 2).mean()

    def own_loss(self, q: Tensor, target: Tensor, round: int, draw: int) -> Tensor | None:
        return self.module.loss([q, target], round, draw)
