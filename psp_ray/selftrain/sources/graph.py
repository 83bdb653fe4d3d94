"""The bought labels, spread over the graph of nearest neighbors."""

from __future__ import annotations

from psp_ray.config.kinds import PSEUDO_SOURCES
from psp_ray.neighbors.graph import Opinion
from psp_ray.selftrain.source import PseudoSource


@PSEUDO_SOURCES.register("graph", source="ours; Iscen et al., CVPR 2019 (psp_ray.neighbors.graph)")
class Graph(PseudoSource):
    """The graph's labels; the teacher has no say but by its uncertainty."""

    uses_graph = True

    def choose(self, teacher: Opinion, graph: Opinion) -> Opinion:
        return graph
