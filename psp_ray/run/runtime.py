"""Where the components of a run live. This one: in this process. The other one is `psp_ray.actors.runtime`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from psp_ray.config.config import Config
from psp_ray.features.encoder import ChunkResult, ChunkTask
from psp_ray.run import build as components
from psp_ray.run.interfaces import Crew, Handle, InlineHandle


class Runtime(Protocol):
    """Maps featurizing work and builds the crew."""

    def map_chunks(self, tasks: Iterable[ChunkTask]) -> Iterable[ChunkResult]: ...

    def crew(
        self,
        settings: str,
        pool: components.PoolSource,
        learner: components.LearnerInput,
        oracle: components.OracleInput,
        views: components.ViewInput | None,
    ) -> Crew: ...


class InlineRuntime:
    """Everything in this process, one call after the other."""

    def __init__(self, config: Config):
        self._config = config

    def map_chunks(self, tasks: Iterable[ChunkTask]) -> Iterable[ChunkResult]:
        encoder = components.make_encoder(self._config)
        return (encoder.encode_chunk(task) for task in tasks)

    def crew(
        self,
        settings: str,
        pool: components.PoolSource,
        learner: components.LearnerInput,
        oracle: components.OracleInput,
        views: components.ViewInput | None,
    ) -> Crew:
        reader = pool.open()
        labeler = None
        if self._config.selftrain.self_training != "none":
            fresh = components.ViewEncoder(views) if views is not None else None
            labeler = InlineHandle(
                components.build_pseudo_labeler(settings, reader, fresh, views.store if views else None)
            )
        answering: Handle
        if self._config.labels.oracle == "shared":
            from psp_ray.actors.oracle import connect_shared

            answering = connect_shared(self._config, oracle)
        else:
            answering = InlineHandle(components.build_oracle(oracle))
        return Crew(
            oracle=answering,
            sampler=InlineHandle(components.build_sampler(settings, reader)),
            learner=InlineHandle(components.build_learner(learner, reader)),
            pseudo_labeler=labeler,
        )
