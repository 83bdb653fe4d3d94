"""Soft-DTW: the order is known, the places are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psp_ray.config.kinds import ALIGNMENTS
from psp_ray.policy.alignment import Alignment

if TYPE_CHECKING:
    from torch import Tensor


@ALIGNMENTS.register("softdtw", source="method.md, step 9; Cuturi and Blondel, ICML 2017")
class SoftDTW(Alignment):
    """Soft dynamic time warping, within the band that holds the true alignment (`sdtw_band`)."""

    def loss(self, q: Tensor, target: Tensor, stayed: Tensor, reward: Tensor) -> Tensor:
        from psp_ray.policy.softdtw import softdtw_loss

        settings = self.settings
        return softdtw_loss(
            q,
            target,
            settings.sdtw_gamma,
            len(q) - len(target) if settings.sdtw_band else None,
            divergence=settings.sdtw_divergence,
            backend=settings.sdtw_backend,
        )
