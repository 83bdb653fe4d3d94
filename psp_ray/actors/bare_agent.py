"""`bare_agent.py AGENT ...`: the agent of a Ray node as where the packages of Ray's dashboard aren't installed.

Ray supports that form, and doesn't serve a dashboard in it. Its agent imports the dashboard's modules all the same, as
far as they can be, and the node waits for it: that takes longer than all the rest of a start.
"""

from __future__ import annotations

import runpy
import sys
from importlib.machinery import ModuleSpec

DASHBOARD = ("aiohttp", "aiohttp_cors", "opencensus", "opentelemetry", "prometheus_client")
"""Packages that only the dashboard needs."""


class NotInstalled:
    """A finder that finds none of `DASHBOARD`."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name in DASHBOARD:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


if __name__ == "__main__":
    sys.meta_path.insert(0, NotInstalled())
    sys.argv = sys.argv[1:]
    sys.path[0] = sys.argv[0].rpartition("/")[0]  # as if the agent had been started itself
    runpy.run_path(sys.argv[0], run_name="__main__")
