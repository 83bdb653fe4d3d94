"""A run labeled over HTTP from its first image to its files, with the worker in its thread; and the command line."""

from __future__ import annotations

import socket
import time

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from starlette.testclient import TestClient

import psp_ray
from psp_ray.cli.main import main
from psp_ray.core.errors import ConfigError, OracleError, UserError
from psp_ray.web.serve import PORT, Serving, Station, bind, is_loopback, leave
from psp_ray.web.worker import WebEvents

WRITE = {"x-psp-ray": "1"}
CLASSES = ["blue", "green", "red"]


@pytest.fixture
def settings(tiny_model, cache_folder):
    return {
        "model": tiny_model,
        "cache": str(cache_folder),
        "rounds": 2,
        "labels_per_round": 4,
        "learning_steps": 4,
        "update_steps": 2,
        "views": "2",
        "threads": 1,
        "audit_fraction": 0.25,
    }


def station_of(folder, out, settings, **more):
    events = WebEvents(2, Console(quiet=True))
    session = psp_ray.Session(folder, out=out, events=events, **settings)
    station = Station(session, events, Serving(people=[("Ann", "label")], **more))
    station.worker.start()
    return station


def browser(station, name="you"):
    client = TestClient(station.app(["testserver"]))
    client.get("/", params={"token": next(p.token for p in station.crew.people if p.name == name)})
    return client


def until(client, condition, seconds=120):
    """The state for which the condition holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = client.get("/api/state").json()
        if condition(state):
            return state
        time.sleep(0.02)
    raise AssertionError(f"still {state}")


def answer(client, items):
    said = [{"position": i["position"], "label": CLASSES.index(i["name"].split("/")[0])} for i in items]
    return client.post("/api/answers", json={"answers": said, "way": "test"}, headers=WRITE).json()["state"]


def end(station):
    station.worker.stop()
    station.worker.join(60)
    leave(station.session)


def test_a_whole_run(tiny_folder, tmp_path, settings):
    out = tmp_path / "run"
    station = station_of(tiny_folder, out, settings, ahead=3)
    you, ann = browser(station), browser(station, "Ann")
    until(you, lambda state: state["state"] == "waiting")
    first = you.get("/api/work?n=2").json()["items"]
    answer(you, first)
    rest = [item for item in ann.get("/api/work?n=9").json()["items"] if not item["ahead"]]
    assert len(rest) == 2
    assert not {i["position"] for i in rest} & {i["position"] for i in first}
    answer(ann, rest)
    ahead = you.get("/api/work?n=9").json()["items"]  # while it learns, or just after
    until(you, lambda state: state["round"] == 2 and state["state"] == "waiting")
    assert you.get("/api/state").json()["labels"] == 4
    answer(you, ahead)
    one = you.get("/api/work?n=1").json()["items"]
    answer(you, one)
    assert not any(item["ahead"] for item in ann.get("/api/work?n=60").json()["items"]), "of no query set to come"
    you.post("/api/learn", json={}, headers=WRITE)
    state = until(you, lambda state: state["over"])
    assert state["state"] == "over"
    you.post("/api/extend", json={"rounds": 1}, headers=WRITE)
    until(you, lambda state: state["round"] == 3 and state["state"] == "waiting")
    end(station)
    labels = pq.read_table(out / "labels.parquet").to_pandas()
    assert (labels.label == labels.sample_id.str.split("/").str[0]).all()
    assert labels.sample_id.is_unique
    assert (out / "prompts.safetensors").is_file()


def test_a_kill_loses_no_answer_and_the_rest_goes_on(tiny_folder, tmp_path, settings):
    out = tmp_path / "run"
    station = station_of(tiny_folder, out, settings)
    you = browser(station)
    until(you, lambda state: state["state"] == "waiting")
    items = you.get("/api/work?n=4").json()["items"]
    answer(you, items[:3])
    station.worker.stop()
    station.worker.join(60)
    station.session.close()  # as a kill leaves it: no summary, no farewell
    again = station_of(tiny_folder, out, settings)
    you = browser(again)
    state = until(you, lambda state: state["state"] == "waiting")
    assert (state["round"], state["answered"], state["asked"]) == (1, 3, 4)
    left = you.get("/api/work?n=1").json()["items"]
    assert [item["position"] for item in left] == [items[3]["position"]]
    undone = you.post("/api/undo", json={}, headers=WRITE).json()["items"]
    assert [item["position"] for item in undone] == [item["position"] for item in items[:3]]
    answer(you, undone + left)
    until(you, lambda state: state["round"] == 2)
    end(again)


def test_a_forgotten_class_comes_in_while_people_go_on(tiny_folder, tmp_path, settings):
    out = tmp_path / "run"
    station = station_of(tiny_folder, out, settings, ahead=0)
    you, ann = browser(station), browser(station, "Ann")
    until(you, lambda state: state["state"] == "waiting")
    items = you.get("/api/work?n=4").json()["items"]
    none = {"answers": [{"position": items[0]["position"], "label": -2}]}
    you.post("/api/answers", json=none, headers=WRITE)
    answer(you, items[1:])
    until(you, lambda state: state["round"] == 2 and state["state"] == "waiting")
    refused = you.post("/api/classes", json={"name": "Blue"}, headers=WRITE)
    assert (refused.status_code, "is there already" in refused.text) == (400, True)
    half = you.get("/api/work?n=2").json()["items"]
    answer(you, half)
    you.post("/api/classes", json={"name": "black"}, headers=WRITE)
    you.post("/api/classes", json={"name": "azure", "instead": "blue"}, headers=WRITE)
    state = until(you, lambda state: "black" in state["classes"] and state["state"] == "waiting")
    until(you, lambda state: "azure" in state["classes"] and state["state"] == "waiting")
    assert (state["round"], state["answers"], state["labels"]) == (2, 6, 3)
    assert [item["position"] for item in you.get("/api/review").json()["none"]] == [items[0]["position"]]
    assert ann.get("/api/review").json()["none"] == []
    black = [*CLASSES, "black"]
    you.post("/api/decide", json={"position": items[0]["position"], "label": black.index("black")}, headers=WRITE)
    assert you.get("/api/review").json()["none"] == []
    while not you.get("/api/state").json()["over"]:
        more = ann.get("/api/work?n=9").json()["items"]
        if more:
            answer(ann, more)
        time.sleep(0.05)
    end(station)
    labels = pq.read_table(out / "labels.parquet").to_pandas().set_index("sample_id").label
    assert labels[items[0]["name"]] == "black"
    assert {item["name"] for item in half} <= set(labels.index), "what was answered of the old query set counts"
    others = labels.drop(items[0]["name"])
    assert (others.replace("azure", "blue") == others.index.str.split("/").str[0]).all()


def test_what_goes_wrong_is_shown_and_costs_no_answer(tiny_folder, tmp_path, settings, monkeypatch):
    station = station_of(tiny_folder, tmp_path / "run", settings)

    def fail(part=False):
        raise OracleError("the disk is full; make room")

    monkeypatch.setattr(station.session, "learn", fail)
    you = browser(station)
    until(you, lambda state: state["state"] == "waiting")
    items = you.get("/api/work?n=4").json()["items"]
    answer(you, items)
    state = until(you, lambda state: state["state"] == "broken")
    assert state["problem"] == "the disk is full; make room"
    assert (state["answers"], station.worker.is_alive()) == (4, False)
    leave(station.session)


def test_too_many_rounds_are_said_and_break_nothing(tiny_folder, tmp_path, settings):
    station = station_of(tiny_folder, tmp_path / "run", settings)
    you = browser(station)
    until(you, lambda state: state["state"] == "waiting")
    you.post("/api/extend", json={"rounds": 1000}, headers=WRITE)
    state = until(you, lambda state: state["notes"])
    assert "images left to ask about" in state["notes"][-1]
    assert until(you, lambda state: state["state"] == "waiting")["rounds"] == 2
    end(station)


def test_a_run_that_asks_nobody_has_no_page(tiny_folder, tmp_path, settings):
    events = WebEvents(2, Console(quiet=True))
    with (
        psp_ray.Session(tiny_folder, out=tmp_path / "run", oracle="ground-truth", **settings) as session,
        pytest.raises(UserError, match="asks nobody"),
    ):
        Station(session, events, Serving())


def test_ports():
    with bind("127.0.0.1", None) as first, bind("127.0.0.1", None) as second:
        taken, other = first.getsockname()[1], second.getsockname()[1]
        assert PORT <= taken < other
        with pytest.raises(ConfigError, match=f"--port {taken}: can't be listened on"):
            bind("127.0.0.1", taken)
    with pytest.raises(ConfigError, match="--port 70000"):
        bind("127.0.0.1", 70000)
    with pytest.raises((ConfigError, socket.gaierror)):
        bind("nowhere.invalid", None)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere/at/all"], "dataset folder 'nowhere/at/all' does not exist"),
        (["--second-opinions", "2"], "second-opinions"),
        (["{folder}", "--people", "Ann:boss"], "role 'boss' is none"),
        (["{folder}", "--oracle", "ground-truth"], "asks nobody"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, says, tiny_folder, tmp_path, settings, capsys):
    given = [word.format(folder=tiny_folder) for word in words]
    for key in ("model", "cache", "labels_per_round", "views"):
        given += [f"--{key.replace('_', '-')}", str(settings[key])]
    with pytest.raises(SystemExit) as ended:
        main(["label", *given, "--no-browser", "--out", str(tmp_path / "run")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line
