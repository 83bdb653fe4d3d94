"""Where the components of a run live, as its settings say: this process, or Ray actors. Ray is imported when needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psp_ray.actors.tokens import want_token
from psp_ray.config.config import Config
from psp_ray.run.inputs import OracleInput
from psp_ray.run.interfaces import LabelSource
from psp_ray.run.runtime import InlineRuntime, Runtime


@contextmanager
def open_runtime(config: Config) -> Iterator[Runtime]:
    """Opens what `runner` names, and closes it: the `OpenRuntime` of the command line and of studies.

    Raises:
        ResourceError: Ray can't place the run. OracleError: no shared oracle of that name.
    """
    if config.runtime.runner == "inline":
        yield InlineRuntime(config, _connect_shared)
        return
    want_token(config.runtime.ray_address)
    from psp_ray.actors.runtime import RayRuntime

    runtime = RayRuntime(config)
    try:
        yield runtime
    finally:
        runtime.close()


def _connect_shared(config: Config, given: OracleInput) -> LabelSource:
    from psp_ray.actors.oracle import connect_shared

    return connect_shared(config, given)
