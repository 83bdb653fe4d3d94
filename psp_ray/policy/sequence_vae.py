"""A small VAE of value sequences, for the alignment `vae`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from psp_ray.config.policy import PolicySettings
from psp_ray.core import noise
from psp_ray.core.records import Float64Array


class SequenceVAE(nn.Module):
    """A small VAE of value sequences, padded with zeros to `length`; it learns beside the critics (ours).

    Source of the objective: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014.
    """

    kl_weight = 1e-3

    def __init__(self, length: int, settings: PolicySettings, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(noise.stream_key(seed, "vssp-vae-init"))
        width, code = settings.vae_hidden, settings.vae_code
        self.length, self.seed = length, seed
        self.encoder = nn.Sequential(nn.Linear(length, width), nn.SiLU(), nn.Linear(width, 2 * code))
        self.decoder = nn.Sequential(nn.Linear(code, width), nn.SiLU(), nn.Linear(width, length))
        with torch.no_grad():
            for layer in (self.encoder[0], self.encoder[2], self.decoder[0], self.decoder[2]):
                assert isinstance(layer, nn.Linear)
                scale = 1.0 / math.sqrt(layer.in_features)
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * scale)
                layer.bias.zero_()

    def code(self, sequence: Tensor) -> Tensor:
        """Mean of the code (vae_code,) of a sequence of at most `length` values."""
        encoded: Tensor = self.encoder(F.pad(sequence, (0, self.length - len(sequence))))
        return encoded.chunk(2)[0]

    def loss(self, sequences: list[Tensor], round: int, draw: int) -> Tensor:
        """Negative evidence bound, averaged over the sequences; noise keyed by (round, draw)."""
        batch = torch.stack([F.pad(item.detach(), (0, self.length - len(item))) for item in sequences])
        mean, log_var = self.encoder(batch).chunk(2, 1)
        log_var = log_var.clamp(-10.0, 10.0)
        keys = np.arange(mean.numel(), dtype=np.uint64)
        random: Float64Array = noise.normal(self.seed, "vssp-vae", keys, round=round, draw=draw)
        epsilon = torch.from_numpy(random).to(mean).view_as(mean)
        rebuilt = self.decoder(mean + torch.exp(0.5 * log_var) * epsilon)
        divergence = 0.5 * (mean**2 + torch.exp(log_var) - 1.0 - log_var).sum(1).mean()
        result: Tensor = ((rebuilt - batch) ** 2).mean() + self.kl_weight * divergence
        return result
