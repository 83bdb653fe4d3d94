"""A Ray that is started here for one run, without what serves clusters alone.

By itself `ray.init` starts, beside the processes that it needs (GCS, raylet and two agents), three that have nothing to
do on one machine: the autoscaler's monitor, the dashboard's server even where no dashboard is asked for (and waits for
it), and one that tails log files for a driver that doesn't show them. The node's agent is there for the dashboard, too,
unless Ray is installed without its packages, a form that Ray supports (`psp_ray.actors.bare_agent`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray._private import node, ray_constants, services, utils

from psp_ray.actors import bare_agent

_COMMAND = "_build_python_executable_command_memory_profileable"


@contextmanager
def lean(include_log: bool = False) -> Iterator[None]:
    """Around `ray.init`: a cluster that is started in here has the processes that it needs. `include_log`: and the one
    that brings what actors print to the driver."""
    replaced: list[tuple[Any, str, Any]] = [
        (node.Node, "start_monitor", _nothing),
        (node.Node, "start_api_server", _no_api_server),
        (utils, "get_dashboard_dependency_error", _no_dashboard),
    ]
    if not include_log:
        replaced.append((node.Node, "start_log_monitor", _nothing))
    if hasattr(services, _COMMAND):
        replaced.append((services, _COMMAND, _python_of(getattr(services, _COMMAND))))
    with ExitStack() as stack:
        for owner, name, value in replaced:
            if hasattr(owner, name):  # what another version of Ray doesn't have is left as it is
                stack.enter_context(patch.object(owner, name, value))
        yield


def _python_of(command: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Ray's `command` (what comes before a component's file), with our own start before the agent's."""

    def started(component: str, *arguments: Any, **options: Any) -> list[str]:
        words = command(component, *arguments, **options)
        ours = [str(Path(bare_agent.__file__))] if component == ray_constants.PROCESS_TYPE_DASHBOARD_AGENT else []
        return [*words, *ours]

    return started


def _nothing(self: Any) -> None:
    """A process that isn't started."""


def _no_api_server(self: Any, **unused: Any) -> None:
    """The dashboard's server isn't started either; this is its address."""
    self._webui_url = ""


def _no_dashboard() -> ImportError:
    """What Ray finds where the dashboard's packages aren't installed."""
    return ImportError("not on one machine")
