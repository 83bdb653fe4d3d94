"""Pay-once with real processes: many at once, and one killed in the middle."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from psp_ray.labels import Ledger, Oracle
from psp_ray.labels.database import resolve_ledger_url
from psp_ray.labels.schema import labels, uses
from tests.labels.clients import LoggingAnnotator, request, truth
from tests.labels.conftest import CLASSES

ROOT = Path(__file__).resolve().parents[2]


def start(role, **arguments):
    command = [sys.executable, "-m", "tests.labels.clients", role, json.dumps(arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def bought_hashes(url):
    engine = sa.create_engine(resolve_ledger_url(url))
    with engine.connect() as connection:
        rows = connection.execute(sa.select(labels.c.content_hash, labels.c.label, labels.c.paid_by)).all()
        n_uses = connection.execute(sa.select(sa.func.count()).select_from(uses)).scalar_one()
    engine.dispose()
    return rows, n_uses


def test_many_processes_never_pay_twice(ledger_url, tmp_path):
    log = tmp_path / "paid.log"
    clients = [start("hammer", url=ledger_url, log=str(log), client=i, requests=8) for i in range(5)]
    told = []
    for client in clients:
        out, err = client.communicate(timeout=120)
        assert client.returncode == 0, err
        told.append(json.loads(out))
    paid = Counter(log.read_text().split())
    rows, n_uses = bought_hashes(ledger_url)
    asked = set().union(*(answer["told"] for answer in told))
    assert all(times == 1 for times in paid.values()), "an image was paid for twice"
    assert {row.content_hash for row in rows} == set(paid) == {f"hash{name[1:]}" for name in asked}
    assert all(row.label is not None for row in rows), "a claim was left behind"
    for answer in told:
        assert all(truth()[name] == label for name, label in answer["told"].items())
        assert answer["used"] == len(answer["told"])
    assert sum(answer["paid"] for answer in told) == len(paid)
    assert n_uses == sum(answer["used"] for answer in told)
    assert len({row.paid_by for row in rows}) > 1, "the clients did not overlap in time"


@pytest.mark.parametrize("die_after", [1, 3])
def test_killed_between_annotator_and_commit_then_resumed(ledger_url, tmp_path, die_after):
    """Everything committed before the kill is kept; only the batch under way is asked again."""
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    victim = start("killed", url=ledger_url, log=str(first), die_after=die_after)
    victim.communicate(timeout=60)
    assert victim.returncode == -signal.SIGKILL
    safe = 2 * (die_after - 1)
    with Ledger(ledger_url) as ledger:
        assert ledger.labels_paid("e") == safe
        assert ledger.labels_used("e") == 0, "nothing was answered yet"
        oracle = Oracle(ledger, LoggingAnnotator(truth(), second, batch_size=2), CLASSES)
        response = oracle.label(request("r1", "e", 1, range(10)))
        assert response.labels.tolist() == [i % 3 for i in range(10)]
        assert (response.newly_paid, response.labels_used, response.labels_paid) == (10, 10, 10)
        assert ledger.cost_paid("e") == 10.0
    before, after = first.read_text().split(), second.read_text().split()
    assert set(before[:safe]).isdisjoint(after), "a durable label was bought again"
    assert len(after) == 10 - safe


def test_another_client_takes_over_when_the_lease_of_a_killed_one_is_over(ledger_url, tmp_path, monkeypatch):
    victim = start("killed", url=ledger_url, log=str(tmp_path / "first.log"), die_after=1)
    victim.communicate(timeout=60)
    import psp_ray.labels.purchase as purchase

    clock = purchase.now_of
    monkeypatch.setattr(purchase, "now_of", lambda connection: clock(connection) + 601)
    with Ledger(ledger_url) as ledger:
        oracle = Oracle(ledger, LoggingAnnotator(truth(), tmp_path / "second.log"), CLASSES)
        response = oracle.label(request("other", "f", 1, [3, 4]))
        assert response.labels.tolist() == [0, 1]
        assert response.newly_paid == 2
        # The victim comes back: the two are reused, the other eight are its own.
        back = oracle.label(request("r1", "e", 1, range(10)))
        assert (back.newly_paid, back.labels_used, back.labels_paid) == (8, 10, 8)
        assert ledger.status()["labels_bought"] == 10
