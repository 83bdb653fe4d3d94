"""Who does the work of a round, and how they are called.

The round loop talks to four components through handles. In one process a handle calls the component directly; on Ray
it calls an actor (`psp_ray.actors`). The loop can't tell the difference.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol


class Future(Protocol):
    """A call under way."""

    @property
    def seconds(self) -> float:
        """Time the component itself worked on the call; known once `result` has returned."""
        ...

    def result(self) -> Any:
        """Wait for the call and return its value, or raise what it raised."""
        ...


class Handle(Protocol):
    """A component somewhere."""

    def submit(self, method: str, *args: Any) -> Future: ...


@dataclass
class Done:
    """A call that is already finished."""

    value: Any
    seconds: float

    def result(self) -> Any:
        return self.value


class InlineHandle:
    """Calls the component in this process, at once."""

    def __init__(self, component: Any):
        self.component = component

    def submit(self, method: str, *args: Any) -> Done:
        start = time.perf_counter()
        value = getattr(self.component, method)(*args)
        return Done(value, time.perf_counter() - start)


@dataclass(frozen=True)
class Crew:
    """The components of a run; `pseudo_labeler` is None without self-training."""

    oracle: Handle
    sampler: Handle
    learner: Handle
    pseudo_labeler: Handle | None = None
