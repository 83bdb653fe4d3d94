"""Settings of the machine side: seed, processes, Ray, the cache. Only `seed` and `threads` touch results."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from psp_ray.config.base import Settings


class RuntimeSettings(Settings):
    """Where and with what a run is executed."""

    seed: int = Field(0, ge=0, description="all chance follows from it: same seed, same run")
    runner: Literal["ray", "inline"] = Field(
        "ray", description="processes side by side, also on a cluster, or all in this one"
    )
    ray_address: str | None = Field(None, description="Ray cluster to join; default: RAY_ADDRESS, else a local one")
    shards: int = Field(1, ge=1, description="pool shard actors")
    workers: int | None = Field(None, ge=1, description="featurizing workers; default: one a CPU, at most 8")
    workers_max: int | None = Field(
        None, ge=1, description="workers that may join as an autoscaler adds nodes; default: as many as --workers"
    )
    actor_cpus: float = Field(1.0, gt=0, description="factor on the CPU shares that actors ask Ray for")
    learner_gpus: float | None = Field(
        None, ge=0, description="share of a GPU for the learner; default: 0.5 where the run uses one"
    )
    worker_gpus: float | None = Field(
        None, ge=0, description="share of a GPU for each worker; default: what the learner leaves of one, evenly"
    )
    threads: int = Field(1, ge=1, description="threads of each process; part of the result to the last bit")
    timeout: float = Field(3600.0, gt=0, description="seconds to wait for an actor before giving up")
    cache: str | None = Field(
        None, description="feature cache folder; default: PSP_RAY_CACHE, else the user's cache folder"
    )
    cache_gib: float | None = Field(
        None, gt=0, description="quota of the cache folder: before encoding, what was not used for longest makes room"
    )
