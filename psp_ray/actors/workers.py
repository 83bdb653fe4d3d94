"""A group of encoding workers that grows: whoever is there works, whoever comes later joins in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, TypeVarTuple

import ray

from psp_ray.actors.shell import naming
from psp_ray.actors.transport import pack, unpack
from psp_ray.core.errors import ResourceError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

AHEAD = 2
"""Calls under way on each worker: the next one waits beside it while one is worked on."""


class WorkerGroup:
    """Actors that encode. `count` of them fit the cluster now; the others, up to `most`, wait for nodes that an
    autoscaler adds, and work from the moment they have started.

    Which worker does what never changes a result: pieces are fixed, and a worker keeps no state.
    """

    def __init__(self, spawn: Callable[[], Any], count: int, most: int, what: str, timeout: float):
        self.actors = [spawn() for _ in range(max(count, most))]
        self._what, self._timeout = what, timeout
        self._starting: dict[Any, Any] = {actor.ping.remote(): actor for actor in self.actors}
        self._ready: list[Any] = []

    @property
    def up(self) -> int:
        """How many have started."""
        return len(self._ready)

    def imap(self, method: Callable[[Any, *Ts], T], items: Iterable[tuple[*Ts]]) -> Iterator[tuple[int, T]]:
        """(place of the item, result) of the component's `method` for each tuple of arguments, as they are done.

        Raises:
            UserError: what a worker raised. ResourceError: no worker came up or answered in time.
        """
        queue = enumerate(items)
        under_way: dict[Any, tuple[Any, int]] = {}
        load = dict.fromkeys(self._ready, 0)
        exhausted = False
        while True:
            for actor in self._ready:
                while not exhausted and load.setdefault(actor, 0) < AHEAD:
                    following = next(queue, None)
                    if following is None:
                        exhausted = True
                        break
                    place, arguments = following
                    under_way[actor.call.remote(method.__name__, pack(list(arguments)))] = (actor, place)
                    load[actor] += 1
            if exhausted and not under_way:
                return
            references = [*under_way, *self._starting]
            done, _ = ray.wait(references, num_returns=1, timeout=self._timeout)
            if not done:
                raise ResourceError(
                    f"{self._what}: no answer within --timeout {self._timeout:g} s ({len(self._ready)} of "
                    f"{len(self.actors)} are up); continue with --resume, and fewer --workers or a longer one"
                )
            for reference in done:
                with naming(self._what, self._timeout):
                    value = ray.get(reference)
                if reference in self._starting:
                    self._ready.append(self._starting.pop(reference))
                    continue
                actor, place = under_way.pop(reference)
                load[actor] -= 1
                yield place, unpack(value[0])

    @property
    def ready(self) -> int:
        """Workers that are up."""
        return len(self._ready)

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
