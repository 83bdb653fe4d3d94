"""Two opinions of different kind, where they agree."""

from __future__ import annotations

import numpy as np

from psp_ray.config.kinds import PSEUDO_SOURCES
from psp_ray.neighbors.graph import Opinion
from psp_ray.selftrain.source import PseudoSource


@PSEUDO_SOURCES.register("both", source="ours")
class Both(PseudoSource):
    """The teacher's labels and confidences where the graph names the same class."""

    uses_graph = True

    def choose(self, teacher: Opinion, graph: Opinion) -> Opinion:
        agreed = np.where(teacher.labels == graph.labels, teacher.labels, -1)
        return Opinion(agreed.astype(np.int32), teacher.confidence)
