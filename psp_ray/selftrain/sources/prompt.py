"""The last round's prompt, as in the note."""

from __future__ import annotations

from psp_ray.config.kinds import PSEUDO_SOURCES
from psp_ray.neighbors.graph import Opinion
from psp_ray.selftrain.source import PseudoSource


@PSEUDO_SOURCES.register("prompt", source="method.md, UST")
class Prompt(PseudoSource):
    """The teacher's labels, averaged over the views."""

    def choose(self, teacher: Opinion, graph: Opinion) -> Opinion:
        return teacher
