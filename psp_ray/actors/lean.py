"""A Ray that is started here for one run, without what serves clusters alone.

By itself `ray.init` starts, beside the processes that it needs (GCS, raylet and two agents), three that have nothing to
do on one machine: the autoscaler's monitor, the dashboard's server even where no dashboard is asked for (and waits for
it), and one that tails log files for a driver that doesn't show them. The node's agent serves the dashboard, too, unless
Ray is installed without its packages, a form that Ray supports. Together they are five CPU seconds at every start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from ray._private import node, utils


@contextmanager
def lean(include_log: bool = False) -> Iterator[None]:
    """Around `ray.init`: a cluster that is started in here has the processes that it needs. `include_log`: and the one
    that brings what actors print to the driver."""
    left_out: dict[str, Any] = {"start_monitor": _nothing, "start_api_server": _no_api_server}
    if not include_log:
        left_out["start_log_monitor"] = _nothing
    # What another version of Ray doesn't have is left as it is.
    left_out = {name: value for name, value in left_out.items() if hasattr(node.Node, name)}
    with patch.multiple(node.Node, **left_out), patch.object(utils, "get_dashboard_dependency_error", _no_dashboard):
        yield


def _nothing(self: Any) -> None:
    """A process that isn't started."""


def _no_api_server(self: Any, **unused: Any) -> None:
    """The dashboard's server isn't started either; this is its address."""
    self._webui_url = ""


def _no_dashboard() -> ImportError:
    """What Ray finds where the dashboard's packages aren't installed."""
    return ImportError("not on one machine")
