"""What a source of pseudo-labels is: whose word counts, the teacher's, the graph's, or some mixture."""

from __future__ import annotations

from psp_ray.neighbors.graph import Opinion


class PseudoSource:
    """Base of sources, one file each in `psp_ray.selftrain.sources`, known by `PSEUDO_SOURCES.register(name)`."""

    uses_graph = False
    """Whether bought labels are spread over the graph of nearest neighbors, and `graph` below says anything."""

    def choose(self, teacher: Opinion, graph: Opinion) -> Opinion:
        """The label and confidence of each of n samples, before thresholds and caps.

        `teacher`: what the prompt says, averaged over the views; `graph`: what the bought labels say (label -1:
        nothing). A label of -1 in the result keeps the sample out of learning.
        """
        raise NotImplementedError
