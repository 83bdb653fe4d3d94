"""Where the components of a run live. This one: in this process. The other one is `psp_ray.actors.runtime`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from psp_ray.config.config import Config
from psp_ray.core.errors import ConfigError
from psp_ray.features.encoder import ChunkResult, ChunkTask
from psp_ray.run import build
from psp_ray.run.inputs import ComponentInputs, OracleInput
from psp_ray.run.interfaces import Components, LabelSource
from psp_ray.run.local import LocalLabelSource, LocalPromptLearner, LocalPseudoLabeler, LocalSampler
from psp_ray.run.views import ViewEncoder


class Featurizer(Protocol):
    """Encodes images, in this process or on workers; results come in any order."""

    def map_chunks(self, tasks: Iterable[ChunkTask]) -> Iterable[ChunkResult]: ...


class Runtime(Featurizer, Protocol):
    """Encodes images and builds the components of a run."""

    def components(self, given: ComponentInputs) -> Components: ...


OpenRuntime = Callable[[Config], AbstractContextManager[Runtime]]
"""Opens the runtime that the settings ask for, and closes it: how `psp_ray.actors` comes into a run."""
ConnectShared = Callable[[Config, OracleInput], LabelSource]
"""Finds the cluster's oracle that the settings name."""


class InlineRuntime:
    """Everything in this process, one call after the other; `connect_shared` is for `--oracle shared`."""

    def __init__(self, config: Config, connect_shared: ConnectShared | None = None):
        self._config, self._connect_shared = config, connect_shared

    def map_chunks(self, tasks: Iterable[ChunkTask]) -> Iterable[ChunkResult]:
        encoder = build.build_encoder(self._config.model, self._config.runtime.threads)
        return (encoder.encode_chunk(task) for task in tasks)

    def components(self, given: ComponentInputs) -> Components:
        pool = given.pool.open()
        labeler = None
        if given.pseudo_labeler is not None:
            views = given.pseudo_labeler.views
            fresh = None if views is None else ViewEncoder(views)
            labeler = LocalPseudoLabeler(build.build_pseudo_labeler(given.pseudo_labeler, pool, fresh))
        return Components(
            oracle=self._label_source(given.oracle),
            sampler=LocalSampler(build.build_sampler(given.sampler, pool)),
            learner=LocalPromptLearner(build.build_learner(given.learner, pool)),
            pseudo_labeler=labeler,
        )

    def _label_source(self, given: OracleInput) -> LabelSource:
        if given.settings.oracle != "shared":
            return LocalLabelSource(build.build_oracle(given))
        if self._connect_shared is None:
            raise ConfigError("--oracle shared: it lives in a Ray cluster; open the run with psp_ray.actors.opening")
        return self._connect_shared(self._config, given)


@contextmanager
def inline(config: Config) -> Iterator[Runtime]:
    """Opens an `InlineRuntime`.

    Raises:
        ConfigError: the settings ask for Ray.
    """
    if config.runtime.runner != "inline":
        raise ConfigError(
            f"--runner {config.runtime.runner}: open the run with psp_ray.actors.opening, or use --runner inline"
        )
    yield InlineRuntime(config)
