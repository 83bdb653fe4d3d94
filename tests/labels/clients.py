"""Clients that the tests run as processes of their own. Usage: python -m tests.labels.clients ROLE ARGUMENTS(JSON)."""

import json
import os
import random
import signal
import sys
import time

from psp_ray.labels import GroundTruthAnnotator, LabelRequest, Ledger, Oracle, OracleSettings
from tests.labels.conftest import CLASSES

POPULATION = 60


class LoggingAnnotator(GroundTruthAnnotator):
    """Ground truth that writes down every image it was paid for, and takes its time."""

    def __init__(self, labels, log, seconds=0.0, batch_size=None, die_after=None):
        super().__init__(labels)
        self.log, self.seconds, self.batch_size, self.die_after = log, seconds, batch_size, die_after
        self.calls = 0

    def answer(self, items):
        answers = super().answer(items)
        time.sleep(self.seconds)
        with open(self.log, "a") as log:
            log.write("".join(f"{item.content_hash}\n" for item in items))
        self.calls += 1
        if self.calls == self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)  # paid for, and not yet in the ledger
        return answers


def truth(n=POPULATION):
    return {f"s{i}": i % 3 for i in range(n)}


def request(request_id, experiment, round, numbers):
    return LabelRequest(
        request_id,
        experiment,
        round,
        tuple(f"s{i}" for i in numbers),
        tuple(f"hash{i}" for i in numbers),
    )


def hammer(url, log, client, requests):
    """Ask for random overlapping sets, every client in an experiment of its own; print what was told."""
    draw = random.Random(client)
    oracle = Oracle(Ledger(url), LoggingAnnotator(truth(), log, seconds=0.002), CLASSES)
    told = {}
    for round in range(requests):
        numbers = draw.sample(range(POPULATION), 9)
        response = oracle.label(request(f"{client}-{round}", f"client{client}", round, numbers))
        told.update(zip(response.sample_ids, response.labels.tolist(), strict=True))
    print(json.dumps({"told": told, "used": response.labels_used, "paid": response.labels_paid}))


def killed(url, log, die_after):
    """Buy ten labels two at a time and be killed in the middle."""
    annotator = LoggingAnnotator(truth(), log, batch_size=2, die_after=die_after)
    oracle = Oracle(Ledger(url), annotator, CLASSES, OracleSettings(lease_seconds=600))
    oracle.label(request("r1", "e", 1, range(10)))


if __name__ == "__main__":
    {"hammer": hammer, "killed": killed}[sys.argv[1]](**json.loads(sys.argv[2]))
