"""One page for all runs that wait on a ledger: runs elsewhere ask, people answer here, whoever is killed."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from psp_ray.cli.main import cli
from psp_ray.core.errors import ConfigError, OracleError
from psp_ray.labels import Ledger
from psp_ray.labels.accounting import LedgerAccounting
from psp_ray.run.command import run
from psp_ray.run.events import Silent
from psp_ray.run.resolve import resolve
from psp_ray.web import hosting
from psp_ray.web.crew import Crew
from psp_ray.web.ledger_people import people_of
from psp_ray.web.shared import SharedPage

WRITE = {"x-psp-ray": "1"}


@pytest.fixture
def settings(two_rounds):
    return {**two_rounds, "labels_per_round": 4}


def going(settings, out, **more):
    """A run in a thread of its own; gives its thread, and a list that its summary comes into."""
    summaries = []
    config = resolve({**settings, "out": str(out), "resume": True, **more})
    thread = threading.Thread(target=lambda: summaries.append(run(config, Silent())), daemon=True)
    thread.start()
    return thread, summaries


class Browser:
    """Somebody who opened a link to a page; the page is as good as new with every one."""

    def __init__(self, path, name="you"):
        links = hosting.invite(str(path), [("Ann", "label")])
        ledger = Ledger(path)
        self.client = TestClient(SharedPage(ledger, people_of(ledger, str(path))).app(["testserver"]))
        self.client.get("/", params={"token": next(person.token for person in links if person.name == name)})

    def run(self, asks=True, seconds=60):
        """Address of the first run that asks."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for key, left in re.findall(r'runs/([0-9a-f]{16})/.*?class="number">(\d+)<', self.home(), re.S):
                if int(left) or not asks:
                    return f"/runs/{key}"
            time.sleep(0.1)
        raise AssertionError(self.home())

    def home(self):
        return self.client.get("/").text

    def answer(self, place, count=100):
        """Say what the names of the images say."""
        work = self.client.get(f"{place}/api/work?n={count}").json()
        classes, items = work["state"]["classes"], work["items"]
        said = [{"position": item["position"], "label": classes.index(item["name"].split("/")[0])} for item in items]
        if said:
            answer = self.client.post(
                f"{place}/api/answers", json={"answers": said, "id": uuid.uuid4().hex}, headers=WRITE
            )
            assert answer.status_code == 200, answer.text
        return items


def test_a_run_elsewhere_is_labeled_and_computes_what_the_truth_would(settings, tmp_path):
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    waits = {"oracle": "people", "ledger": str(path), "label_wait": 120}
    thread, summaries = going(settings, tmp_path / "waits", **waits)
    first = Browser(path)
    place = first.run()
    assert len(first.answer(place, 1)) == 1
    assert first.client.get(f"{place}/image/0").headers["content-type"] == "image/jpeg"
    with LedgerAccounting(Ledger(path)) as accounting:
        (waiting,) = accounting.status()["waiting"]
    assert (waiting["round"], waiting["rounds"], waiting["asked"], waiting["answered"]) == (1, 2, 4, 1)
    assert not waiting["silent"]
    state = first.client.get(f"{place}/api/state").json()
    assert (state["state"], state["round"], state["asked"], state["answered"]) == ("waiting", 1, 4, 1)
    refused = first.client.post(f"{place}/api/learn", json={}, headers=WRITE)
    assert (refused.status_code, "elsewhere" in refused.text) == (400, True)
    again = Browser(path, "Ann")  # the page was killed and started
    taken = {item["position"] for item in again.answer(place)}
    assert len(taken) == 3
    while thread.is_alive():
        if again.client.get(f"{place}/api/state").json()["state"] == "waiting":
            again.answer(place)
        thread.join(0.2)
    (summary,) = summaries
    assert summary["status"] == "finished"
    while not again.client.get(f"{place}/api/state").json()["over"]:
        time.sleep(0.1)
    assert again.run(asks=False) == place
    known = run(resolve({**settings, "out": str(tmp_path / "knows")}), Silent())
    here, there = (pq.read_table(tmp_path / name / "labels.parquet") for name in ("waits", "knows"))
    assert here.select(["sample_id", "label", "round"]).equals(there.select(["sample_id", "label", "round"]))
    assert summary["labels_paid"] == known["labels_paid"] == 8
    with Ledger(path) as ledger, ledger.snapshot() as connection:
        kept = connection.exec_driver_sql("select size, count(*) from question_pictures group by size").all()
    assert [tuple(row) for row in kept] == [("thumb", 8)], "large pictures go when they are answered"


def test_a_run_that_stops_waiting_takes_up_later_what_was_said_meanwhile(settings, tmp_path):
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    waits = {"oracle": "people", "ledger": str(path), "label_wait": 0.5, "rounds": 1}
    out = tmp_path / "waits"
    thread, summaries = going(settings, out, **waits)
    thread.join(60)
    assert summaries[0]["status"] == "awaiting_labels"
    assert json.loads((out / "summary.json").read_text())["awaiting"]["missing"] == 4
    page = Browser(path)
    place = page.run()
    page.answer(place, 2)
    other = {**waits, "seed": 0, "label_wait": 120}
    twin, found = going(settings, tmp_path / "twin", **other)  # asks for the same images
    page.answer(place)
    thread, summaries = going(settings, out, **waits)
    thread.join(60)
    assert summaries[0]["status"] == "finished"
    assert summaries[0]["labels_paid"] == 4
    twin.join(60)  # nobody was asked for it: its images are bought
    assert (found[0]["status"], found[0]["labels_paid"], found[0]["labels_used"]) == ("finished", 0, 4)


def test_forgetting_says_whom_there_is(tmp_path):
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    with pytest.raises(OracleError, match=r"--forget mine: asks nothing .*runs that do: none"):
        hosting.forget(str(path), "mine")
    found = CliRunner().invoke(
        cli, ["oracle", "page", "--ledger", str(path), "--forget", "mine"], standalone_mode=False
    )
    assert "--forget mine" in str(found.exception)
    found = CliRunner().invoke(cli, ["oracle", "page", "--name", "x", "--here"], standalone_mode=False)
    assert "leave --name and --stop out" in str(found.exception)


def test_only_people_are_waited_for():
    from psp_ray.run.asking import check_annotators

    settings = resolve({"label_wait": 3}).labels
    with pytest.raises(ConfigError, match=r"--label-wait: --oracle ground-truth is never waited for"):
        check_annotators(settings, 2)


def test_strangers_and_unknown_runs(tmp_path, clock):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        page = SharedPage(ledger, people_of(ledger, str(path)), clock=clock)
        client = TestClient(page.app(["testserver"]))
        for address in ("/", "/?token=wrong"):
            answer = client.get(address)
            assert answer.status_code == 401
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert client.get("/runs/0123456789abcdef/").status_code == 404
        assert client.get("/static/page.js").status_code == 200
        assert TestClient(page.app(["other"])).get("/").status_code == 400
        eve = Crew(people_of(ledger, str(path))).invite("Eve", "lead")
        clock.now += 10
        assert client.get("/", params={"token": eve.token}).status_code == 200
        assert "No run has asked" in client.get("/").text
    (file,) = tmp_path.glob(".*.people.json")
    assert file.stat().st_mode & 0o077 == 0


def test_which_ledger_a_page_opens(tmp_path, monkeypatch):
    monkeypatch.delenv(hosting.VARIABLE, raising=False)
    word = "secret"
    secret, name = f"postgresql://me:{word}@db/psp", "postgresql+psycopg://me:***@db/psp"
    for given, message in (
        ((None, None), "no ledger"),
        ((secret, None), "set PSP_RAY_LEDGER"),
        ((None, name), "set PSP_RAY_LEDGER"),
        ((None, str(tmp_path / "elsewhere.sqlite")), "of another machine"),
    ):
        with pytest.raises(OracleError, match=message) as caught:
            hosting.ledger_for(*given)
        assert "secret" not in str(caught.value)
    assert hosting.ledger_for("postgresql://me@db/psp", None) == "postgresql://me@db/psp"
    file = tmp_path / "ledger.sqlite"
    with pytest.raises(OracleError, match="no such file"):
        hosting.ledger_here(str(file))
    Ledger(file).close()
    assert hosting.ledger_for(None, str(file)) == hosting.ledger_here(str(file)) == str(file)
    monkeypatch.setenv(hosting.VARIABLE, secret)
    assert hosting.ledger_for(None, None) is hosting.ledger_for(None, name) is hosting.ledger_for(secret, None) is None
