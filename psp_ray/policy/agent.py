"""The policy's networks, temperature and optimizers: acting, and a state of plain arrays.

How they learn is in `psp_ray.policy.sac`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from psp_ray.config.kinds import ALIGNMENTS
from psp_ray.config.policy import PolicySettings
from psp_ray.core import noise
from psp_ray.core.records import Float32Array, Float64Array, StateDict
from psp_ray.policy.networks import Actor, Critic, load_module_state, module_state
from psp_ray.policy.optim import Optimizer
from psp_ray.policy.state import BlockState, Normalization, StateReader


class Agent:
    """Actor, critics, temperature and their optimizers.

    Args:
        reader: states of the pool.
        n_classes: C.
        seed: seed of initialization and of all noise.
    """

    def __init__(self, reader: StateReader, n_classes: int, seed: int, settings: PolicySettings) -> None:
        self.reader, self.n_classes, self.seed, self.settings = reader, n_classes, seed, settings
        device, dim, extra = reader.device, reader.pool.dim, reader.n_extra

        def generator(name: str) -> torch.Generator:
            return torch.Generator().manual_seed(noise.stream_key(seed, f"vssp-init-{name}"))

        def critic(name: str, action: bool) -> Critic:
            return Critic(dim, n_classes, extra, settings, generator(name), action=action).to(device)

        self.actor = Actor(dim, n_classes, extra, settings, generator("actor")).to(device)
        self.value = critic("value", False)
        self.value_target = critic("value", False).requires_grad_(False)
        self.critics = [critic(f"critic-{k}", True) for k in range(settings.n_critics)]
        start = settings.alpha_start if settings.alpha == "auto" else float(settings.alpha)
        self.log_alpha = torch.tensor(math.log(start), dtype=torch.float64, requires_grad=True)
        norm = settings.max_grad_norm
        self.optimizers = {
            "actor": Optimizer(self.actor.parameters(), settings.actor_lr, norm),
            "value": Optimizer(self.value.parameters(), settings.critic_lr, norm),
            "critics": Optimizer([p for q in self.critics for p in q.parameters()], settings.critic_lr, norm),
            "alpha": Optimizer([self.log_alpha], settings.alpha_lr, math.inf),
        }
        self.alignment = ALIGNMENTS.find(settings.align)(min(reader.block_size, reader.pool.n), settings, seed)
        if self.alignment.module is not None:
            learned = self.alignment.module.to(device)
            self.optimizers[settings.align] = Optimizer(learned.parameters(), settings.critic_lr, norm)

    # -- action --------------------------------------------------------------------------------------------------

    @property
    def alpha(self) -> float:
        """Temperature of the entropy term."""
        return float(torch.exp(self.log_alpha.detach()))

    def normalize(self, constants: Normalization) -> None:
        """Center and scale the factors by these constants in all networks."""
        owners: list[Actor | Critic] = [self.actor, self.value, self.value_target, *self.critics]
        for owner in owners:
            owner.network.first.normalize(constants)

    @torch.no_grad()
    def act(self, block: BlockState, purpose: str, round: int, draw: int = 0) -> Float32Array:
        """Actions u (m,) of a block, with noise keyed by the samples."""
        u, _ = self.actor(block, self.noise_of(block, purpose, round, draw))
        return np.asarray(u.cpu().numpy(), np.float32)

    def logits(self, u: Float32Array, block: BlockState) -> Float64Array:
        """Logits (m,) float64 of the selection softmax: `kappa u`, plus the prior's log odds if there is one."""
        return self.settings.kappa * u.astype(np.float64) + block.prior

    def noise_of(self, block: BlockState, purpose: str, round: int, draw: int) -> Tensor:
        """Standard normal noise (m,), keyed by the samples."""
        values = noise.normal(self.seed, purpose, block.keys, round=round, draw=draw)
        return torch.from_numpy(values.astype(np.float32)).to(self.reader.device)

    def action_input(self, u: Tensor, block: BlockState, normalizer: float, n: int) -> Tensor:
        """What Q sees of the actions: u, or log(n a_i) with the pool's normalizer as a constant."""
        if self.settings.q_input == "u":
            return u
        prior = torch.from_numpy(block.prior).to(u)
        return self.settings.kappa * u + prior - (normalizer - math.log(n))

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """Every network by its name in a checkpoint."""
        modules: dict[str, torch.nn.Module] = {
            "actor": self.actor,
            "value": self.value,
            "value_target": self.value_target,
            **{f"critic_{k}": q for k, q in enumerate(self.critics)},
        }
        learned = self.alignment.module
        return modules if learned is None else {**modules, self.settings.align: learned}

    def state_dict(self) -> StateDict:
        """Networks, target, temperature and optimizer moments as arrays."""
        state: StateDict = {"log_alpha": self.log_alpha.detach().numpy().copy()}
        for name, module in self.modules.items():
            state.update(module_state(f"net.{name}", module))
        for name, optimizer in self.optimizers.items():
            state.update(optimizer.state_dict(f"adam.{name}"))
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Inverse of `state_dict`. Raises KeyError or RuntimeError where the settings were others."""
        with torch.no_grad():
            self.log_alpha.copy_(torch.from_numpy(np.array(state["log_alpha"])))
        for name, module in self.modules.items():
            load_module_state(f"net.{name}", module, state)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(f"adam.{name}", state)
