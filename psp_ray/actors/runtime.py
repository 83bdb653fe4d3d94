"""The components of a run as Ray actors: the learner, the pseudo-labeler, the sampler, the oracle and pool shards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import ray

from psp_ray.actors.cluster import Need, check_needs, cluster_resources, most_resources, start_ray
from psp_ray.actors.components import RayLabelSource, RayPromptLearner, RayPseudoLabeler, RaySampler
from psp_ray.actors.oracle import connect_shared, find_oracle, join_cluster
from psp_ray.actors.pool import PoolShape, PoolShard, ShardedPool, first_blocks
from psp_ray.actors.preflight import alive_nodes, check_storage
from psp_ray.actors.shell import ActorHandle, ComponentActor, factory_name
from psp_ray.actors.transport import Packet, pack
from psp_ray.actors.workers import WorkerGroup
from psp_ray.config.config import Config
from psp_ray.core.records import Float16Array, Int64Array
from psp_ray.features.cache import FeatureCache
from psp_ray.features.encoder import ChunkEncoder, ChunkResult, ChunkTask
from psp_ray.run import build
from psp_ray.run.inputs import ComponentInputs, OracleInput, PseudoLabelerInput, ViewInput
from psp_ray.run.interfaces import Components, LabelSource
from psp_ray.run.pool_source import PoolSource
from psp_ray.run.views import ViewEncoder

CPUS = {"learner": 0.3, "sampler": 0.2, "pseudo-labeler": 0.15, "oracle": 0.05, "pool shard": 0.02, "view worker": 0.25}
"""CPU shares that the actors ask for. They say where actors may be placed, not how many threads run: on a laptop all
of them must fit beside each other, or they would wait for ever."""
MAX_WORKERS = 8
PROBE_SECONDS = 120.0


class RayRuntime:
    """Starts or joins Ray, checks that the run can be placed, and starts its actors."""

    def __init__(self, config: Config):
        self._config = config
        self._actors: list[Any] = []
        self._started_here = False
        if config.labels.oracle == "shared":
            # It lives in a cluster that is there already; look before anything is encoded.
            join_cluster(config.runtime.ray_address)
            find_oracle(config.labels.oracle_name)
        else:
            self._started_here = start_ray(config.runtime.ray_address)
        cpus = cluster_resources().get("CPU", 1.0)
        self._workers = config.runtime.workers or max(1, min(MAX_WORKERS, int(cpus)))
        gpu = _wants_gpu(config)
        self._gpus = learner_gpus(config) if gpu else 0.0
        check_needs(component_needs(config, gpu, self._workers))
        if len(alive_nodes()) > 1:
            place, setting = config.output.storage or FeatureCache.open(config.runtime.cache).folder, "--cache"
            check_storage(
                place, "--storage" if config.output.storage else setting, min(config.runtime.timeout, PROBE_SECONDS)
            )
        check_needs([Need("featurizing worker", self._workers, _cpus(config, "view worker"), self._gpu_share())])

    def close(self) -> None:
        """Stop the actors, and Ray itself if it was started here."""
        self._stop_actors()
        if self._started_here:
            ray.shutdown()

    def _stop_actors(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def _gpu_share(self) -> float:
        return worker_gpus(self._config, self._workers) if self._gpus else 0.0

    # -- featurizing ---------------------------------------------------------------------------------------------------

    def map_chunks(self, tasks: Iterable[ChunkTask]) -> Iterator[ChunkResult]:
        """Encode chunks on workers, a few under way on each; results come as they are done."""
        config = self._config
        packet = pack([config.model, config.runtime.threads])

        def spawn() -> Any:
            return self._spawn(build.build_encoder, packet, "view worker", gpus=self._gpu_share())

        most = config.runtime.workers_max or self._workers
        group = WorkerGroup(spawn, self._workers, most, "featurizing worker", config.runtime.timeout)
        try:
            for _, result in group.imap(ChunkEncoder.encode_chunk, ((task,) for task in tasks)):
                yield result
        finally:
            for worker in group.actors:
                self._actors.remove(worker)
            group.close()

    # -- components ----------------------------------------------------------------------------------------------------

    def components(self, given: ComponentInputs) -> Components:
        """The actors of a run, in place of those that there were before."""
        self._stop_actors()
        reader = self._shards(given.pool)
        # They start in this order, some at a time, and the sampler has most to import.
        sampler = self._spawn(build.build_sampler, pack([given.sampler]), "sampler", [reader])
        learner = self._spawn(build.build_learner, pack([given.learner]), "learner", [reader], self._gpus)
        oracle = self._label_source(given.oracle)
        labeler = None if given.pseudo_labeler is None else self._pseudo_labeler(given.pseudo_labeler, reader)
        timeout = self._config.runtime.timeout
        return Components(
            oracle=oracle,
            sampler=RaySampler(ActorHandle("sampler", sampler, timeout)),
            learner=RayPromptLearner(ActorHandle("learner", learner, timeout)),
            pseudo_labeler=labeler,
        )

    def _label_source(self, given: OracleInput) -> LabelSource:
        if given.settings.oracle == "shared":
            return connect_shared(self._config, given)
        actor = self._spawn(build.build_oracle, pack([given]), "oracle")
        return RayLabelSource(ActorHandle("oracle", actor, self._config.runtime.timeout))

    def _pseudo_labeler(self, given: PseudoLabelerInput, reader: ShardedPool) -> RayPseudoLabeler:
        extra: list[Any] = [reader]
        if given.views is not None:
            extra.append(RemoteViews(self._view_workers(given.views), self._config.runtime.timeout))
            given = replace(given, views=None)  # the workers have them
        actor = self._spawn(build.build_pseudo_labeler, pack([given]), "pseudo-labeler", extra)
        return RayPseudoLabeler(ActorHandle("pseudo-labeler", actor, self._config.runtime.timeout))

    def _view_workers(self, views: ViewInput) -> list[Any]:
        most = max(self._workers, self._config.runtime.workers_max or 0)
        packet, share = pack([views]), self._gpu_share()
        return [self._spawn(build.build_view_encoder, packet, "view worker", gpus=share) for _ in range(most)]

    def _shards(self, source: PoolSource) -> ShardedPool:
        pool = source.open()
        starts = first_blocks(pool.n, self._config.runtime.shards)
        ends = [*starts[1:], pool.n_blocks]
        shards = [
            ray.remote(PoolShard)
            .options(
                num_cpus=_cpus(self._config, "pool shard"),
                max_restarts=-1,
                max_task_retries=3,
                scheduling_strategy="SPREAD",  # each node maps its own part of the pool
            )
            .remote(pack(source), first, last)
            for first, last in zip(starts, ends, strict=True)
        ]
        self._actors += shards
        return ShardedPool(PoolShape(pool.n, pool.dim, pool.n_views, starts), shards, self._config.runtime.timeout)

    def _spawn(
        self,
        factory: Callable[..., object],
        packet: Packet,
        role: str,
        extra: list[Any] | None = None,
        gpus: float = 0.0,
    ) -> Any:
        """An actor that hosts what `factory` builds from the packed arguments, and `extra` that Ray has to carry."""
        # A worker keeps no state: one that a pre-empted node took along starts again elsewhere.
        lasting = {"max_restarts": 3, "max_task_retries": 3} if role == "view worker" else {}
        actor = (
            ray.remote(ComponentActor)
            .options(num_cpus=_cpus(self._config, role), num_gpus=gpus, **lasting)
            .remote(factory_name(factory), packet, self._config.runtime.threads, extra)
        )
        self._actors.append(actor)
        return actor


class RemoteViews:
    """Fresh views from a group of view workers: a `FreshSource`."""

    def __init__(self, workers: list[Any], timeout: float):
        self._workers, self._timeout = workers, timeout
        self._group: WorkerGroup | None = None

    @property
    def width(self) -> int:
        return len(self._workers)

    def __getstate__(self) -> dict[str, Any]:
        return {"_workers": self._workers, "_timeout": self._timeout, "_group": None}

    def encode(self, pieces: list[Int64Array], round: int) -> list[Float16Array]:
        if self._group is None:
            handles = iter(self._workers)
            self._group = WorkerGroup(lambda: next(handles), len(self._workers), 0, "view worker", self._timeout)
        done = dict(self._group.imap(ViewEncoder.encode_piece, ((piece, round) for piece in pieces)))
        return [done[place] for place in range(len(pieces))]


def component_needs(config: Config, gpu: bool, workers: int = 1) -> list[Need]:
    """What the actors of a run ask for, known before any starts. `gpu`: the run uses one."""
    share = learner_gpus(config) if gpu else 0.0
    needs = [
        Need("learner", 1, _cpus(config, "learner"), share),
        Need("sampler", 1, _cpus(config, "sampler")),
        Need("oracle", int(config.labels.oracle != "shared"), _cpus(config, "oracle")),
        Need("pool shard", config.runtime.shards, _cpus(config, "pool shard")),
    ]
    if config.selftrain.self_training != "none":
        needs.append(Need("pseudo-labeler", 1, _cpus(config, "pseudo-labeler")))
        if config.model.view_mode != "cached":
            view_share = worker_gpus(config, workers) if gpu else 0.0
            needs.append(Need("view worker", workers, _cpus(config, "view worker"), view_share))
    return [need for need in needs if need.count]


def learner_gpus(config: Config) -> float:
    """Share of a GPU for the learner where the run uses one: half, so that workers fit beside it."""
    return 0.5 if config.runtime.learner_gpus is None else config.runtime.learner_gpus


def worker_gpus(config: Config, workers: int) -> float:
    """Share of a GPU for each of `workers`: together what the learner leaves of one."""
    if config.runtime.worker_gpus is not None:
        return config.runtime.worker_gpus
    return math.floor(1000 * max(0.0, 1.0 - learner_gpus(config)) / workers) / 1000


def _cpus(config: Config, role: str) -> float:
    return round(CPUS[role] * config.runtime.actor_cpus, 4)


def _wants_gpu(config: Config) -> bool:
    if config.model.device.startswith("cuda"):
        return True
    return config.model.device == "auto" and most_resources().get("GPU", 0.0) > 0
