"""People label for a job on a cluster, on a page that Ray Serve hosts, while page, oracle and job are killed."""

import http.cookiejar
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pyarrow.parquet as pq
import pytest

from psp_ray.run.command import run
from psp_ray.run.events import Silent
from psp_ray.run.resolve import resolve
from tests.cluster.conftest import ROOT, cluster_with_jobs, submit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
pytest.importorskip("ray.serve", reason="Ray Serve comes with psp-ray[serve]")


class Browser:
    """A scripted person with the link that the command said."""

    def __init__(self, link):
        self.base = link.split("?")[0]
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(cookies)
        self.patiently(link)

    def patiently(self, address, body=None, seconds=120):
        """What the address gives; where nobody answers, tried again, as the page does it."""
        headers = {"x-psp-ray": "1", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        until = time.monotonic() + seconds
        while True:
            try:
                with self.opener.open(urllib.request.Request(address, data, headers), timeout=20) as answer:
                    return answer.read().decode()
            except OSError as error:
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 404
                if refused or time.monotonic() > until:
                    raise
                time.sleep(0.3)

    def asking(self, job, seconds=240):
        """Address of the run that asks, and its round; `job` is under way."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            text = self.patiently(self.base)
            for key, number, left in re.findall(
                r'runs/([0-9a-f]{16})/.*?<td>(\d+) of.*?class="number">(\d+)<', text, re.S
            ):
                if int(left):
                    return f"{self.base}runs/{key}", int(number)
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.5)
        raise AssertionError(f"no run asks: {text}")

    def answer(self, place, count, number):
        """Say what the names of up to `count` images say; sent twice, as after a lost answer."""
        work = json.loads(self.patiently(f"{place}/api/work?n={count}"))
        classes = work["state"]["classes"]
        said = [{"position": i["position"], "label": classes.index(i["name"].split("/")[0])} for i in work["items"]]
        for _ in range(2):
            state = json.loads(self.patiently(f"{place}/api/answers", {"answers": said, "id": f"{number:032x}"}))[
                "state"
            ]
        return state["answered"]


def kill(environment, name):
    """SIGKILL for the cluster's processes that are called so; returns how many."""
    import psutil  # ray ships it

    found = 0
    for process in psutil.Process(int(environment["CLUSTER_PID"])).children(recursive=True):
        try:
            if name in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                found += 1
        except psutil.Error:
            continue
    return found


def test_people_label_while_everything_is_killed(project, tmp_path, tiny_model, tiny_folder, cache_folder):
    ledger = tmp_path / "ledger.sqlite"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"dataset": str(tiny_folder), "model": tiny_model, "cache": str(cache_folder), "rounds": 2}
    settings |= {"labels_per_round": 6, "learning_steps": 3, "update_steps": 2, "views": "2", "runner": "inline"}
    out = tmp_path / "job"
    options = [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", value)]
    words = ["-m", "psp_ray.main", "run", *options, "--oracle", "people", "--label-wait", 600, "--out", out, "--resume"]
    with cluster_with_jobs(PSP_RAY_LEDGER=str(ledger)) as head:

        def oracle(*words):
            command = [sys.executable, "-m", "psp_ray.main", "oracle", *map(str, words)]
            done = subprocess.run(command, cwd=ROOT, env=head, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, done.stderr
            return done.stdout

        oracle("start", "--name", "team", "--label-cap", 12)
        said = oracle("page", "--name", "team", "--people", "Ann", "--port", port)
        you, ann = (Browser(re.search(rf"^{name} .*: (\S+)$", said, re.M)[1]) for name in ("you", "Ann"))
        first = submit(head, project, *words)
        place, number = you.asking(first)
        assert (number, you.answer(place, 2, 1)) == (1, 2)
        assert kill(head, "ray::ServeReplica") == 1
        assert ann.answer(place, 1, 2) == 3
        assert kill(head, "ray::OracleActor") == 1
        assert kill(head, "psp_ray.main run") >= 1
        text = first.communicate(timeout=120)[0]
        assert first.returncode != 0, text
        assert "failed" in text.lower()
        assert ann.answer(place, 2, 3) == 5, "nobody runs, and people go on"
        waiting = json.loads(oracle("status", "--name", "team", "--json"))["waiting"]
        assert [(item["round"], item["asked"], item["answered"]) for item in waiting] == [(1, 6, 5)]
        second = submit(head, project, *words)
        assert you.answer(place, 6, 4) == 6
        until = time.monotonic() + 240
        while (number := you.asking(second)[1]) < 2:
            assert time.monotonic() < until
        assert you.answer(place, 6, 5) == 6
        text = second.communicate(timeout=240)[0]
        assert second.returncode == 0, text
        assert "succeeded" in text
        status = json.loads(oracle("status", "--name", "team", "--json"))
        assert (status["labels_bought"], status["waiting"], status["stale_claims"]) == (12, [], [])
        assert "is stopped" in oracle("page", "--name", "team", "--stop")
    run(resolve({**settings, "out": str(tmp_path / "truth")}), Silent())
    found, known = (pq.read_table(tmp_path / name / "labels.parquet") for name in ("job", "truth"))
    assert found.select(["sample_id", "label", "round"]).equals(known.select(["sample_id", "label", "round"]))
