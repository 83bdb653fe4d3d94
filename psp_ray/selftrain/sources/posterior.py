"""All evidence, weighed: zero-shot teacher, graph and class means."""

from __future__ import annotations

from psp_ray.config.kinds import PSEUDO_SOURCES
from psp_ray.neighbors.graph import Opinion
from psp_ray.selftrain.source import PseudoSource


@PSEUDO_SOURCES.register("posterior", source="ours (psp_ray.posterior.evidence)")
class Posterior(PseudoSource):
    """The posterior's labels; the views say how uncertain it is."""

    weighs_evidence = True

    def choose(self, teacher: Opinion, graph: Opinion) -> Opinion:
        return teacher
