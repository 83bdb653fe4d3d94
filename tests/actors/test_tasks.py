"""Independent tasks on Ray: results, errors, processes that die, and how many run side by side."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest

from psp_ray.actors.tasks import Tasks
from psp_ray.core.errors import ResourceError
from psp_ray.run.resolve import resolve

HERE = "tests.actors.test_tasks"


def die_once(folder):
    """Kill the own process at the first call."""
    mark = Path(folder) / "mark"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def span(_):
    start = time.time()
    time.sleep(0.3)
    return start, time.time()


def answers(tasks, function, arguments):
    return {name: result for name, result in tasks.run(function, arguments) if name is not None}


def test_results_and_errors_come_back_under_their_names(local_ray):
    with Tasks(resolve({})) as tasks:
        found = answers(tasks, "builtins:int", {"a": "1", "b": "one", "c": "3"})
    assert (found["a"], found["c"]) == (1, 3)
    assert isinstance(found["b"], ValueError)


def test_a_process_that_dies_is_tried_once_more(local_ray, tmp_path):
    with Tasks(resolve({})) as tasks:
        assert answers(tasks, f"{HERE}:die_once", {"x": str(tmp_path)}) == {"x": "alive"}
        assert isinstance(answers(tasks, f"{HERE}:die", {"x": ""})["x"], Exception)


def test_parallel_limits_what_is_under_way(local_ray):
    with Tasks(resolve({}), parallel=1) as tasks:
        spans = sorted(answers(tasks, f"{HERE}:span", dict.fromkeys("abc", "")).values())
    assert all(first[1] <= second[0] for first, second in pairwise(spans))


def test_more_than_there_is_is_refused(local_ray):
    with pytest.raises(ResourceError, match="CPUs"):
        Tasks(resolve({"threads": 10_000}))


def test_what_has_ended_is_never_canceled(local_ray, monkeypatch):
    """Ray aborts the driver when a task is canceled whose result it is just taking in."""

    class Ended(BaseException):
        pass

    def end(signum, frame):
        raise Ended

    canceled = []

    def cancel(reference, **options):
        canceled.append(bool(local_ray.wait([reference], timeout=0)[0]))
        return real(reference, **options)

    def work(stop):
        with Tasks(resolve({}), parallel=1) as tasks:
            for name, _ in tasks.run(f"{HERE}:span", dict.fromkeys("ab", "")):
                if name == "a":
                    stop()

    real = local_ray.cancel
    monkeypatch.setattr(local_ray, "cancel", cancel)
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Ended):
            work(lambda: os.kill(os.getpid(), signal.SIGTERM))  # heard when `b` has ended
        with pytest.raises(ZeroDivisionError):
            work(lambda: 1 / 0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not any(canceled)


def test_sigterm_keeps_its_meaning(local_ray):
    class Ended(BaseException):
        pass

    def end(signum, frame):
        raise Ended

    def work():
        with Tasks(resolve({}), parallel=1) as tasks:
            for name, _ in tasks.run(f"{HERE}:span", dict.fromkeys("abcdef", "")):
                assert name != "f", "SIGTERM was lost"
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Ended):
            work()
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
