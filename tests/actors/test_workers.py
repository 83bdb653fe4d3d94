"""Worker groups: whoever is up works, late ones join, a killed one is replaced, results keep their places."""

import threading
import time

import numpy as np
import pytest

from psp_ray.actors.shell import ComponentActor
from psp_ray.actors.transport import pack
from psp_ray.actors.workers import WorkerGroup
from psp_ray.core.errors import ResourceError, UserError


class Doubler:
    """Built in the actors: doubles arrays, slowly if told so."""

    def double(self, values, seconds):
        if seconds < 0:
            raise UserError("this worker refuses")
        time.sleep(seconds)
        return 2 * values


def build_doubler():
    return Doubler()


def group(local_ray, count, most, cpus, timeout=60.0):
    def spawn():
        actor = local_ray.remote(ComponentActor).options(num_cpus=cpus, max_restarts=3, max_task_retries=3)
        return actor.remote("tests.actors.test_workers:build_doubler", pack([]), 1)

    return WorkerGroup(spawn, count, most, "test worker", timeout)


def items(n, seconds=0.0):
    return [(np.arange(i, i + 3), seconds) for i in range(n)]


def check(results, n):
    found = dict(results)
    assert sorted(found) == list(range(n)), "each once"
    for place, value in found.items():
        np.testing.assert_array_equal(value, 2 * np.arange(place, place + 3))


def test_results_keep_their_places_and_errors_come_through(local_ray):
    workers = group(local_ray, 2, 0, 0.1)
    check(workers.imap(Doubler.double, items(15)), 15)
    check(workers.imap(Doubler.double, iter(items(4))), 4)
    assert list(workers.imap(Doubler.double, [])) == []
    with pytest.raises(UserError, match="refuses"):
        list(workers.imap(Doubler.double, items(3, -1.0)))
    workers.close()


def test_workers_that_find_no_room_join_when_there_is_some(local_ray):
    """Three workers that need almost a CPU each where two fit; then the room of a bystander becomes free."""
    cpus = local_ray.cluster_resources()["CPU"]
    share = 0.45 * cpus
    bystander = local_ray.remote(ComponentActor).options(num_cpus=share)
    held = bystander.remote("tests.actors.test_workers:build_doubler", pack([]), 1)
    local_ray.get(held.ping.remote())
    workers = group(local_ray, 1, 2, share)
    timer = threading.Timer(3.0, local_ray.kill, [held])
    timer.start()
    done = []
    deadline = time.monotonic() + 60

    def endless():
        for item in items(4000, 0.05):
            if (workers.ready == 2 and len(done) % 5 == 0) or time.monotonic() > deadline:
                return
            yield item

    for place, _ in workers.imap(Doubler.double, endless()):
        done.append(place)
    assert workers.ready == 2, "the second one never joined"
    assert done, "the first one worked meanwhile"
    workers.close()


def test_a_killed_worker_is_replaced(local_ray):
    workers = group(local_ray, 2, 0, 0.1)
    running = workers.imap(Doubler.double, items(20, 0.05))
    found = [next(running)]
    local_ray.kill(workers.actors[0], no_restart=False)
    found += list(running)
    check(found, 20)
    workers.close()


def test_a_group_that_never_comes_up_says_so(local_ray):
    cpus = local_ray.cluster_resources()["CPU"]
    held = group(local_ray, 1, 0, cpus)
    next(held.imap(Doubler.double, items(1)))
    waiting = group(local_ray, 1, 0, cpus, timeout=1.5)
    with pytest.raises(ResourceError, match=r"no answer within --timeout 1.5 s \(0 of 1 are up\)"):
        list(waiting.imap(Doubler.double, items(1)))
    held.close()
    waiting.close()
