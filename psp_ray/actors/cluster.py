"""Joining or starting Ray, and checking that a run can be placed before anything starts."""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

import ray

from psp_ray.actors.lean import lean
from psp_ray.actors.loopback import ADDRESS, on_loopback
from psp_ray.actors.starting import joining, require_listener, temporary_folder
from psp_ray.core.errors import ResourceError

GROWS_TO = "PSP_RAY_CLUSTER_MAX"
"""Environment variable: what the cluster has once it is as large as it may become."""


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


def most_resources() -> dict[str, float]:
    """What the cluster could have in all once its autoscaler has added all nodes that it may; at least what it has.

    That is what Ray has been told of the cluster's node groups, or what `GROWS_TO` in the driver's environment says
    (`CPU=20,GPU=2`): Ray's own autoscalers keep their limits to themselves.

    Raises:
        ResourceError: the variable can't be read.
    """
    found = cluster_resources()
    told = ray._private.state.state.get_max_resources_from_cluster_config() or {}
    for key, count in (*told.items(), *grows_to(os.environ.get(GROWS_TO, "")).items()):
        found[key] = max(found.get(key, 0.0), float(count))
    return found


def grows_to(text: str) -> dict[str, float]:
    """`CPU=20,GPU=2` as numbers. Raises ResourceError for anything else."""
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, count = part.partition("=")
        if not (equals and key.strip() and re.fullmatch(r"\s*\d+(\.\d+)?\s*", count)):
            raise ResourceError(f"{GROWS_TO} {text!r}: can't be read; write it as CPU=20,GPU=2, or unset it")
        found[key.strip()] = float(count)
    return found


def check_needs(needs: list[Need]) -> None:
    """Compare what a run asks for with what the cluster has in all, or could have (`most_resources`).

    What isn't there yet is asked for by the actors themselves: they wait for their nodes, and the autoscaler sees them.

    Raises:
        ResourceError: with the numbers, when the run could never be placed.
    """
    total, most = cluster_resources(), most_resources()
    need = {
        "CPU": sum(need.count * need.cpus for need in needs),
        "GPU": sum(need.count * need.gpus for need in needs),
    }
    if all(count <= total.get(kind, 0.0) + 1e-9 for kind, count in need.items()):
        return
    what = ", ".join(
        f"{need.what} {need.count} x ({need.cpus:g} CPU{f', {need.gpus:g} GPU' if need.gpus else ''})" for need in needs
    )
    asked = f"{need['CPU']:g} CPUs and {need['GPU']:g} GPUs ({what})"
    has = f"{total.get('CPU', 0.0):g} CPUs and {total.get('GPU', 0.0):g} GPUs"
    if all(count <= most.get(kind, 0.0) + 1e-9 for kind, count in need.items()):
        print(f"waits for nodes: asks for {asked}, the cluster has {has} and may grow", file=sys.stderr, flush=True)
        return
    grown = f"{most.get('CPU', 0.0):g} CPUs and {most.get('GPU', 0.0):g} GPUs"
    limit = f" and grows to {grown} at most" if most != total else f"; where it grows, set {GROWS_TO}"
    raise ResourceError(
        f"the run needs {asked} but the cluster has {has}{limit}; use fewer --shards or --workers, lower --actor-cpus, "
        "another --device, or --runner inline"
    )
