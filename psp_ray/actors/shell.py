"""The thin Ray shell around a component: builds it in its own process, calls it, packs what comes back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from psp_ray.actors.transport import Packet, pack, unpack
from psp_ray.core.errors import ResourceError, UserError
from psp_ray.core.light import spare_pandas
from psp_ray.core.others import named_faults
from psp_ray.core.threads import limit_threads

C = TypeVar("C")
P = ParamSpec("P")
T = TypeVar("T")


class ComponentActor:
    """Hosts one component. `factory` names a function `module:name` that takes the unpacked arguments."""

    def __init__(self, factory: str, packet: Packet, threads: int, extra: list[Any] | None = None):
        limit_threads(threads)
        spare_pandas()
        module, _, name = factory.partition(":")
        self._component: Any = None
        self._failure: UserError | None = None
        try:
            with named_faults():
                self._component = getattr(import_module(module), name)(*unpack(packet), *(extra or []))
        except UserError as error:  # told at the first call: of a failed constructor Ray keeps only the text
            self._failure = error
        warm_up = getattr(self._component, "warm_up", None)
        if warm_up is not None:  # while the other actors start
            threading.Thread(target=warm_up, name="warm-up", daemon=True).start()

    def call(self, method: str, packet: Packet) -> tuple[Packet, float]:
        """Run a method; returns the packed result and the seconds it took."""
        if self._failure is not None:
            raise self._failure
        start = time.perf_counter()
        with named_faults():
            value = getattr(self._component, method)(*unpack(packet))
        return pack(value), time.perf_counter() - start

    def ping(self) -> int:
        """The actor's process id, once the component is built."""
        return os.getpid()


@dataclass
class RayFuture(Generic[T]):
    """A call under way on an actor."""

    reference: ray.ObjectRef[Any]
    what: str
    timeout: float
    seconds: float = 0.0

    def result(self) -> T:
        packet, self.seconds = wait_for(self.reference, self.what, self.timeout)
        value: T = unpack(packet)
        return value


class ActorHandle(Generic[C]):
    """Calls a component of class `C` that lives in a `ComponentActor`."""

    def __init__(self, name: str, actor: Any, timeout: float):
        self.name, self.actor, self.timeout = name, actor, timeout

    def ask(self, method: Callable[Concatenate[C, P], T], *args: P.args, **kwargs: P.kwargs) -> RayFuture[T]:
        """Start `method`, named as the class has it (`LearnerComponent.learn`), so that types are checked; positional
        arguments only."""
        if kwargs:
            raise TypeError(f"{self.name}.{method.__name__}: give arguments by position")
        reference = self.actor.call.remote(method.__name__, pack(list(args)))
        return RayFuture(reference, f"{self.name}.{method.__name__}", self.timeout)


def factory_name(factory: Callable[..., Any]) -> str:
    """How a `ComponentActor` is told of a module's function."""
    return f"{factory.__module__}:{factory.__qualname__}"


def wait_for(reference: Any, what: str, timeout: float) -> Any:
    """`ray.get` with a timeout and the errors of `naming`."""
    with naming(what, timeout):
        return ray.get(reference, timeout=timeout)


@contextmanager
def naming(what: str, timeout: float) -> Iterator[None]:
    """Turn Ray's errors into ours: user errors unwrapped, a dead or silent actor named.

    Raises:
        UserError: what the component itself raised.
        ResourceError: no answer in `timeout` seconds, or the actor's process died.
    """
    try:
        yield
    except (GetTimeoutError, TimeoutError):
        raise ResourceError(
            f"{what}: no answer within --timeout {timeout:g} s (busy, or its process hangs); continue with --resume, "
            "and more CPUs or a longer --timeout; a shorter one finds a hanging process sooner"
        ) from None
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError):
            raise cause from None
        raise
    except RayActorError as error:
        if "creation task" in str(error):
            raise  # a fault in a constructor: its traceback is worth more than advice
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "its process ended"
        raise ResourceError(f"{what}: the actor died ({reason}); continue with --resume") from None
    except RayError as error:  # a node, the object store or Ray itself is gone
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ResourceError(f"{what}: Ray failed ({reason}); continue with --resume") from None
