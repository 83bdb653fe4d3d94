"""Independent runs as Ray tasks: as many side by side as the machine has room for."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from psp_ray.actors.cluster import Need, check_needs, most_resources, start_ray
from psp_ray.config.config import Config
from psp_ray.core.errors import ResourceError
from psp_ray.core.threads import limit_threads

MEMORY = 1536 * 2**20
"""Bytes a run asks for, as measured with the bundled model; others add what activations may take (`memory_mib`)."""
RUNS_PER_GPU = 8
TICK = 1.0
GRACE = 10.0
"""Seconds that interrupted runs have to end by themselves."""


@ray.remote
def _call(function: str, argument: str, threads: int) -> Any:
    limit_threads(threads)
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)(argument)


class Tasks:
    """Ray, joined or started, and a limit to what is under way.

    Args:
        config: says where Ray is (`ray_address`), `threads` and `device` of each run.
        parallel: runs side by side at most; default: as many as there are CPUs and memory for.

    Raises:
        ResourceError: not even one run fits.
    """

    def __init__(self, config: Config, parallel: int | None = None):
        self._before = signal.getsignal(signal.SIGTERM)
        self._terminated = False
        self._started_here = start_ray(config.runtime.ray_address)
        if threading.current_thread() is threading.main_thread():
            # Ray has put its own in place, and an exception out of a handler would be lost inside its waiting.
            signal.signal(signal.SIGTERM, self._remember)
        self._threads = config.runtime.threads
        total = most_resources()
        cpus, gpus, memory = total.get("CPU", 0.0), total.get("GPU", 0.0), total.get("memory", 0.0)
        self._memory = MEMORY if config.model.model == "psp-lite" else MEMORY + config.learn.memory_mib * 2**20
        self._gpus = 0.0
        if config.model.device.startswith("cuda") or (config.model.device == "auto" and gpus):
            self._gpus = max(1.0 / RUNS_PER_GPU, round(min(1.0, gpus * config.runtime.threads / max(cpus, 1.0)), 3))
        check_needs([Need("run", 1, config.runtime.threads, self._gpus)])
        if memory < self._memory:
            raise ResourceError(
                f"a run needs {self._memory / 2**30:.1f} GiB of memory but the cluster has {memory / 2**30:.1f} GiB "
                "free; end other programs, or use --runner inline"
            )
        room = [cpus // config.runtime.threads, memory // self._memory, *([gpus // self._gpus] if self._gpus else [])]
        self.width = int(max(1, min([*room, *([parallel] if parallel else [])])))
        self._under_way: dict[Any, str] = {}

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread() and self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        self._stop()
        if self._started_here:
            ray.shutdown()

    def run(self, function: str, arguments: dict[str, str]) -> Iterator[tuple[str | None, Any]]:
        """Call `function` ("module:name") once for each argument.

        Yields (name, result) as they end, where the result of a task that Ray lost is the exception, and (None, None)
        about once a second. A task whose process dies is tried once more before it counts as lost.
        """
        options: dict[str, Any] = {"num_cpus": self._threads, "memory": self._memory, "max_retries": 1}
        if self._gpus:
            options |= {"num_gpus": self._gpus, "max_calls": 0}  # keep the process: torch takes seconds to import
        task = _call.options(**options)
        waiting = list(arguments.items())
        while waiting or self._under_way:
            while waiting and len(self._under_way) < self.width:
                name, argument = waiting.pop(0)
                self._under_way[task.remote(function, argument, self._threads)] = name
            ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=TICK)
            ended = [(self._under_way.pop(reference), reference) for reference in ready]  # before it could be canceled
            self._check_terminated()
            if not ended:
                yield None, None
            for name, reference in ended:
                yield name, _result(reference)

    def _remember(self, signum: int, frame: Any) -> None:
        self._terminated = True

    def _check_terminated(self) -> None:
        """Do what SIGTERM would have done, at a moment when nothing of Ray's is under way."""
        if not self._terminated:
            return
        if callable(self._before):
            self._before(signal.SIGTERM, None)
        raise SystemExit(128 + signal.SIGTERM)

    def _stop(self) -> None:
        """End what is under way: runs see an interrupt and leave a summary that says so."""
        self._cancel(force=False, grace=GRACE)
        self._cancel(force=True)
        self._under_way.clear()

    def _cancel(self, force: bool, grace: float = 0.0) -> None:
        """Cancel what hasn't ended, and give it `grace` seconds.

        Ray aborts a driver that cancels a task whose result it is just taking in ("Tried to complete task that was not
        pending"): what has ended is let alone.
        """
        with contextlib.suppress(RayError):
            _, running = _wait(list(self._under_way), 0.0)
            for reference in running:
                with contextlib.suppress(ValueError, TypeError):
                    ray.cancel(reference, force=force)
            _wait(running, grace)


def _wait(references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
    """Those that have ended after at most `timeout` seconds, and the others."""
    return ray.wait(references, num_returns=len(references), timeout=timeout) if references else ([], [])


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except TaskCancelledError:
        raise KeyboardInterrupt from None  # somebody else stopped it: `ray stop`, an operator
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except RayError as error:
        return error
