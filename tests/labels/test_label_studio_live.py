"""Tasks pushed and annotations pulled, through the real label-studio-sdk, against a stand-in for its server.

The stand-in answers what Label Studio's API reference says of five calls, and no more. Skipped where the library isn't
installed (`pip install 'psp-ray[label-studio]'`).
"""

import csv
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from psp_ray.core.errors import ConfigError, OracleError
from psp_ray.labels.label_studio_live import KEY, pull, push

CLASSES = ["cat", "dog"]
TOKEN = "0123456789abcdef0123456789abcdef01234567"


class Studio(ThreadingHTTPServer):
    """Projects with their tasks, in memory."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answering)
        self.projects, self.calls, self.broken = {}, [], 0

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def annotate(self, project, people):
        """Everybody's answer to every task, {person: {sample_id: class}}."""
        for task in self.projects[project]["tasks"]:
            task["annotations"] = [
                {"completed_by": who, "was_cancelled": False, "result": chosen(said[task["data"]["sample_id"]])}
                for who, said in people.items()
                if task["data"]["sample_id"] in said
            ]


def chosen(name):
    return [{"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": [name]}}]


class Answering(BaseHTTPRequestHandler):
    def log_message(self, *unused):
        pass

    def reply(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_call(self):
        size = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        path = self.path.split("?")[0]
        self.server.calls.append(f"{self.command} {path}")
        if self.headers.get("authorization") != f"Token {TOKEN}":
            return self.reply({"detail": "Invalid token."}, 401)
        if self.server.broken and "import" in path:
            self.server.broken -= 1
            return self.reply({"detail": "the disk is full"}, 500)
        projects = self.server.projects
        if (self.command, path) == ("POST", "/api/projects/"):
            number = len(projects) + 1
            projects[number] = {**body, "tasks": []}
            return self.reply({"id": number, **body}, 201)
        found = re.fullmatch(r"/api/projects/(\d+)(/import|/export)?/?", path)
        project = projects.get(int(found.group(1))) if found else None
        if project is None:
            return self.reply({"detail": "Not found."}, 404)
        if self.command == "PATCH":
            project.update(body)
            return self.reply({"id": int(found.group(1)), **body})
        if found.group(2) == "/import":
            start = len(project["tasks"])
            project["tasks"] += [{"id": start + i, "annotations": [], **task} for i, task in enumerate(body, 1)]
            return self.reply({"task_count": len(body)}, 201)
        return self.reply(project["tasks"])

    do_GET = do_POST = do_PATCH = handle_call


@pytest.fixture
def studio(monkeypatch):
    pytest.importorskip("label_studio_sdk", reason="label-studio-sdk is not installed")
    monkeypatch.setenv(KEY, TOKEN)
    server = Studio()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(30)


@pytest.fixture
def run(tmp_path):
    """A run whose first query set is laid out: four images with suggestions."""
    lay_out(tmp_path, "round_01", "abcd")
    return tmp_path


def lay_out(folder, name, samples):
    images = folder / name / "images"
    images.mkdir(parents=True)
    for sample in samples:
        Image.new("RGB", (4, 4), "red").save(images / f"{sample}.png")
    (folder / name / "shown.json").write_text(json.dumps({sample: f"{sample}.png" for sample in samples}))
    (folder / name / "scores.json").write_text(json.dumps(dict.fromkeys(samples, 0.75)))
    with (folder / name / "query.csv").open("w", newline="") as file:
        rows = [["sample_id", "path", "image", "suggestion", "label"]]
        csv.writer(file).writerows(rows + [[sample, "", "", "cat", ""] for sample in samples])


def answers(run, name="round_01"):
    return {row["sample_id"]: row["label"] for row in csv.DictReader((run / name / "query.csv").open(newline=""))}


def test_there_and_back(studio, run):
    told = push(run, CLASSES, studio.address, name="run-12")
    assert told[0] == f"4 tasks in {studio.address}/projects/1"
    (project,) = studio.projects.values()
    assert project["title"] == "psp-ray run-12"
    assert '<Choice value="dog"/>' in project["label_config"]
    prediction = project["tasks"][0]["predictions"][0]
    assert (prediction["score"], prediction["model_version"]) == (0.75, "psp-ray/run-12/round_01")
    assert prediction["result"] == chosen("cat")
    assert "4 were there already" in push(run, CLASSES)[0]
    assert len(project["tasks"]) == 4
    studio.annotate(1, {1: {"a": "cat", "b": "dog", "c": "cat"}, 2: {"a": "cat", "b": "cat"}})
    project["tasks"].append({"id": 99, "data": {"sample_id": "of somebody else"}, "annotations": []})
    told = pull(run, CLASSES)
    assert answers(run) == {"a": "cat", "b": "", "c": "cat", "d": ""}
    assert "2 images were annotated by several of 2 people" in told[1]
    assert TOKEN not in "".join(path.read_text() for path in run.glob("*.json"))
    lay_out(run, "round_02", "ef")
    assert "2 tasks" in push(run, [*CLASSES, "eel"])[0]
    assert '<Choice value="eel"/>' in project["label_config"], "a class that was added since"


def test_a_project_of_somebody_else(studio, run):
    studio.projects[7] = {"title": "ours", "label_config": "<View/>", "tasks": []}
    push(run, CLASSES, studio.address, project=7)
    assert len(studio.projects[7]["tasks"]) == 4
    assert list(studio.projects) == [7]


def test_a_push_that_fails_half_way_goes_on(studio, run, monkeypatch):
    monkeypatch.setattr("psp_ray.labels.label_studio_live.AT_ONCE", 2)
    studio.broken = 99
    with pytest.raises(OracleError, match="answered 500") as error:
        push(run, CLASSES, studio.address)
    assert "\n" not in str(error.value)
    studio.broken = 0
    push(run, CLASSES, studio.address)
    assert [len(project["tasks"]) for project in studio.projects.values()] == [4]


def test_what_is_wrong_is_one_line(studio, run, monkeypatch, tmp_path):
    with pytest.raises(OracleError, match="nothing was pushed"):
        pull(run, CLASSES)
    with pytest.raises(ConfigError, match="--server"):
        push(run, CLASSES)
    with pytest.raises(OracleError, match="answered 404"):
        push(run, CLASSES, studio.address, project=3)
    with pytest.raises(OracleError, match=r"Label Studio at http://127\.0\.0\.1:9"):
        push(run, CLASSES, "http://127.0.0.1:9")
    monkeypatch.setenv(KEY, "1" * 40)
    with pytest.raises(OracleError, match="answered 401"):
        push(run, CLASSES, studio.address)
    monkeypatch.delenv(KEY)
    with pytest.raises(ConfigError, match="is not set"):
        push(run, CLASSES, studio.address)
