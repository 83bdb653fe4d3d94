"""Joining or starting Ray, and checking that a run can be placed before anything starts."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import ray

from psp_ray.actors.lean import lean
from psp_ray.actors.loopback import ADDRESS, on_loopback
from psp_ray.actors.starting import joining, require_listener, temporary_folder
from psp_ray.core.errors import ResourceError


@dataclass(frozen=True)
class Need:
    """What a group of actors asks of the cluster."""

    what: str
    count: int
    cpus: float
    gpus: float = 0.0


def start_ray(address: str | None, include_log: bool = False) -> bool:
    """Join the cluster at `address` (or `RAY_ADDRESS`), else start one on this machine. True if it was started here.

    A cluster started here listens on loopback only (`psp_ray.actors.loopback`) and has no dashboard
    (`psp_ray.actors.lean`).

    Raises:
        ResourceError: no cluster answers at the address, within minutes.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    target = address or os.environ.get("RAY_ADDRESS")
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": include_log}
    if not target or target == "local":
        folder = temporary_folder()
        if folder is not None:
            common["_temp_dir"] = folder
        with joining("local", "--ray-address"), on_loopback(), lean(include_log):
            ray.init(address="local", include_dashboard=False, _node_ip_address=ADDRESS, **common)
        return True
    name = "--ray-address" if address else "RAY_ADDRESS"
    require_listener(target, name)
    with joining(target, name):
        ray.init(address=target, **common)
    return False


def cluster_resources() -> dict[str, float]:
    """What the cluster has in all, by kind (`CPU`, `GPU`, `memory` in bytes)."""
    found: dict[str, float] = ray.cluster_resources()
    return found


def check_needs(needs: list[Need]) -> None:
    """Compare what a run asks for with what the cluster has in all.

    Raises:
        ResourceError: with the numbers, when the run could never be placed.
    """
    total = cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    need_cpus = sum(need.count * need.cpus for need in needs)
    need_gpus = sum(need.count * need.gpus for need in needs)
    if need_cpus <= cpus + 1e-9 and need_gpus <= gpus + 1e-9:
        return
    parts = ", ".join(
        f"{need.what} {need.count} x ({need.cpus:g} CPU{f', {need.gpus:g} GPU' if need.gpus else ''})" for need in needs
    )
    raise ResourceError(
        f"the run needs {need_cpus:g} CPUs and {need_gpus:g} GPUs ({parts}) but the cluster has {cpus:g} CPUs and "
        f"{gpus:g} GPUs; use fewer --shards or --workers, lower --actor-cpus, another --device, or --runner inline"
    )
