"""What an alignment is: how Q over the samples of one round meets its target over those that are left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.config.policy import PolicySettings

if TYPE_CHECKING:
    from torch import Tensor, nn


class Alignment:
    """Base of alignments, one file each in `psp_ray.policy.alignments`, known by `ALIGNMENTS.register(name)`.

    Args:
        length: most samples of a block.
        settings: the policy's.
        seed: seed of all noise.

    Files there import torch in methods only: their names are needed where no network ever is.
    """

    module: nn.Module | None = None
    """What is learned beside the critics, if anything; it is saved with the policy."""

    def __init__(self, length: int, settings: PolicySettings, seed: int) -> None:
        self.settings = settings

    def loss(self, q: Tensor, target: Tensor, stayed: Tensor, reward: Tensor) -> Tensor:
        """Sum of aligned squared errors of a block.

        `q` (m,); `target` (m',) = r + gamma V_bar of the samples that are left, 0 < m' <= m, in the order of `q`;
        `stayed` (m,) bool says which those are; `reward` (m,): r alone, for those that are not.
        """
        raise NotImplementedError

    def own_loss(self, q: Tensor, target: Tensor, round: int, draw: int) -> Tensor | None:
        """What `module` learns from a block's two sequences; noise keyed by (round, draw). None without a module."""
        return None
