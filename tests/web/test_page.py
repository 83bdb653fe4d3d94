"""The HTTP layer: who gets in, what is refused, what the page is told. Without a browser, without a run."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from starlette.testclient import TestClient

from psp_ray.core.errors import ConfigError
from psp_ray.core.files import files_under
from psp_ray.web.app import Page
from psp_ray.web.crew import Crew
from psp_ray.web.guard import LONGEST_BODY
from psp_ray.web.pictures import Pictures
from tests.web.conftest import SIZE, board

WRITE = {"x-psp-ray": "1"}
HOST = "http://127.0.0.1:8420"


class Steering:
    """Notes what it was asked."""

    def __init__(self):
        self.wishes = []

    def learn_now(self):
        self.wishes.append("learn")

    def extend(self, rounds):
        self.wishes.append(rounds)

    def add_class(self, name):
        if name == "cat":
            raise ConfigError("class 'cat' is there already (as 'cat'); give another name")
        self.wishes.append(name)

    def rename_class(self, old, new):
        self.wishes.append((old, new))


@pytest.fixture
def steering():
    return Steering()


@pytest.fixture
def crew(tmp_path):
    found = Crew(tmp_path)
    for name, role in (("you", "lead"), ("Ann", "label"), ("Bob", "review")):
        found.invite(name, role)
    return found


@pytest.fixture
def app(desk, crew, steering, tmp_path):
    """Image 0 is 600 x 20 pixels, 1 lies in the table itself, 2 is no image, the rest have embeddings alone."""
    Image.new("RGB", (600, 20), "red").save(tmp_path / "a.png")
    (tmp_path / "c.png").write_text("nothing")
    inside = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(inside, "PNG")
    paths = [str(tmp_path / "a.png"), None, str(tmp_path / "c.png"), *[None] * (SIZE - 3)]
    images = [None, inside.getvalue(), *[None] * (SIZE - 2)]
    pool = pa.table({"path": pa.array(paths, pa.string()), "image": pa.array(images, pa.binary())})
    pictures = Pictures(tmp_path, pool, desk.pool.content_hashes)
    desk.publish(board(0, 1, 2, ahead=(3,)))
    return Page(desk, crew, pictures, steering, "photos <b>").app(["127.0.0.1", "localhost"])


@pytest.fixture
def enter(app, crew):
    """A browser that has opened somebody's link."""

    def opened(name):
        client = TestClient(app, base_url=HOST)
        token = next((person.token for person in crew.people if person.name == name), name)
        client.get("/", params={"token": token})
        return client

    return opened


def post(client, path, body, **headers):
    return client.post(path, json=body, headers=WRITE | headers)


def test_a_link_becomes_a_cookie_and_leaves_the_address(app, crew):
    client = TestClient(app, base_url=HOST, follow_redirects=False)
    answer = client.get("/", params={"token": crew.people[1].token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert re.search("samesite=(lax|strict)", cookie, re.I)
    page = client.get("/")
    assert page.status_code == 200
    assert crew.people[1].token not in page.text
    assert "photos &lt;b&gt;" in page.text


@pytest.mark.parametrize("token", ["", "wrong", "x" * 5000, "\u00e9"])
def test_strangers_see_nothing(enter, token):
    client = enter(token)
    assert client.get("/").status_code == 401
    for path in ("/api/state", "/api/work", "/api/review", "/api/examples", "/image/0"):
        assert client.get(path).status_code == 401
    assert post(client, "/api/answers", {"answers": [{"position": 0, "label": 0}]}).status_code == 401


def test_every_answer_has_the_headers_that_keep_scripts_and_frames_out(enter):
    client = enter("you")
    for path in ("/", "/api/state", "/image/0", "/static/page.js", "/nowhere", "/static/nowhere"):
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    page = client.get("/").text
    assert not re.search(r"<script(?![^>]*src=)", page)
    assert not re.search(r"\son\w+=|style=", page)
    assert not re.search(r"(src|href)=\"(?!static/|#)", page)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8420", "127.0.0.1.evil.example"])
def test_other_names_of_this_host_are_refused(enter, host):
    assert enter("you").get("/", headers={"host": host}).status_code == 400


def test_only_the_page_writes(enter, desk):
    client = enter("you")
    body = {"answers": [{"position": 0, "label": 1}]}
    assert client.post("/api/answers", json=body).status_code == 403
    assert client.post("/api/answers", data=json.dumps(body), headers={"content-type": "text/plain"}).status_code == 403
    huge = client.post("/api/answers", content=b"x", headers=WRITE | {"content-length": str(LONGEST_BODY + 1)})
    assert huge.status_code == 413
    assert client.get("/api/answers").status_code == 405
    assert not desk.standing


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"answers": []},
        {"answers": [{"position": "0", "label": 1}]},
        {"answers": [{"position": 0, "label": 1, "seconds": -1}]},
        {"answers": [{"position": 0, "label": 1.5}]},
        {"answers": [{"position": 0, "label": 1}], "person": "Bob"},
        {"answers": [{"position": 0, "label": 1}] * 501},
        [],
        "text",
    ],
)
def test_what_the_page_would_not_say_is_refused(enter, desk, body):
    assert post(enter("Ann"), "/api/answers", body).status_code == 422
    assert not desk.standing


@pytest.mark.parametrize(("position", "label"), [(SIZE, 0), (-1, 0), (0, 3), (10**30, 0)])
def test_what_there_is_not_is_refused(enter, desk, position, label):
    answer = post(enter("Ann"), "/api/answers", {"answers": [{"position": position, "label": label}]})
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert not desk.standing


def test_labeling(enter, desk):
    client = enter("Ann")
    work = client.get("/api/work?n=2").json()
    assert [item["position"] for item in work["items"]] == [0, 1]
    assert work["items"][0]["name"] == "0.png"
    assert work["state"]["asked"] == 3
    answers = {"answers": [{"position": 0, "label": 2, "seconds": 1.25}], "shown": [], "way": "one"}
    assert post(client, "/api/answers", answers).json()["state"]["answered"] == 1
    assert [(event.person, event.label, event.seconds) for event in desk.standing] == [("Ann", 2, 1.25)]
    assert [item["position"] for item in post(client, "/api/undo", {}).json()["items"]] == [0]
    assert not desk.standing
    assert post(client, "/api/give-back", {"positions": [0, 1]}).json() == {}
    assert enter("Bob").get("/api/work?n=3").json()["items"][0]["position"] == 0


@pytest.mark.parametrize(("asked", "given"), [("2", 2), ("0", 0), ("9" * 5000, 4), ("-1", 4), ("\u00b2", 4), ("", 4)])
def test_as_many_as_are_asked_for_and_there(enter, asked, given):
    answer = enter("you").get("/api/work", params={"n": asked})
    assert answer.status_code == 200
    assert len(answer.json()["items"]) == given


def test_somebody_leads(enter, crew):
    lead = enter("you")
    answer = post(lead, "/api/people", {"name": "you", "role": "review"})
    assert (answer.status_code, crew.people[0].role) == (400, "lead")
    assert "nobody would lead" in answer.json()["error"]
    post(lead, "/api/people", {"name": "Bob", "role": "lead"})
    assert post(lead, "/api/people", {"name": "you", "role": "review"}).status_code == 200
    assert lead.get("/api/state").json()["role"] == "review"


def test_what_a_role_may(enter, steering, crew):
    label, review, lead = enter("Ann"), enter("Bob"), enter("you")
    wishes = [("/api/learn", {}), ("/api/extend", {"rounds": 2}), ("/api/people", {"name": "Eve", "role": "label"})]
    wishes += [("/api/classes", {"name": "eel"}), ("/api/classes", {"name": "hound", "instead": "dog"})]
    for path, body in wishes:
        assert post(label, path, body).status_code == post(review, path, body).status_code == 403
    assert not steering.wishes
    for path, body in wishes:
        assert post(lead, path, body).status_code == 200
    assert steering.wishes == ["learn", 2, "eel", ("dog", "hound")]
    refused = post(lead, "/api/classes", {"name": "cat"})
    assert (refused.status_code, "is there already" in refused.json()["error"]) == (400, True)
    assert crew.people[-1].name == "Eve"
    assert post(lead, "/api/people", {"name": "Eve", "role": "boss"}).json()["error"]
    assert post(label, "/api/decide", {"position": 0, "label": 1}).status_code == 403
    assert label.get("/api/agreement").status_code == 403
    assert post(review, "/api/decide", {"position": 0, "label": 1}).status_code == 200
    assert "token" not in label.get("/api/state").text
    assert {person["name"] for person in lead.get("/api/state").json()["people"]} == {"you", "Ann", "Bob", "Eve"}


def test_an_action_that_comes_again_is_written_once(enter, desk):
    client, action = enter("Ann"), {"answers": [{"position": 0, "label": 2}], "id": "0123456789abcdef" * 2}
    for _ in range(2):
        assert post(client, "/api/answers", action).status_code == 200
    assert [(event.person, event.label) for event in desk.standing] == [("Ann", 2)]
    post(client, "/api/undo", {})
    post(client, "/api/answers", action)  # from a tab that did not hear that it was heard
    assert not desk.standing
    post(enter("Bob"), "/api/answers", action)
    assert [event.person for event in desk.standing] == ["Bob"]
    assert post(client, "/api/answers", action | {"id": "x"}).status_code == 422


def test_an_answer_that_can_t_be_written_now_is_not_refused(enter, desk, ledger):
    """The page throws away what is refused (4xx) and sends the rest again (5xx)."""
    client, action = enter("Ann"), {"answers": [{"position": 0, "label": 2}], "id": "0123456789abcdef" * 2}
    place = Path(ledger.name)
    aside = place.rename(place.with_suffix(".aside"))
    answer = post(client, "/api/answers", action)
    assert answer.status_code == 503
    assert "removed or replaced" in answer.json()["error"]
    assert not desk.standing
    aside.rename(place)
    assert post(client, "/api/answers", action).status_code == 200
    assert len(desk.standing) == 1


def test_review(enter):
    ann, bob = enter("Ann"), enter("Bob")
    for client, label in ((ann, 0), (bob, 1)):
        post(client, "/api/answers", {"answers": [{"position": 2, "label": label}]})
    assert ann.get("/api/review").json() == {
        "disputed": [],
        "doubted": [],
        "none": [],
        "mine": [{"position": 2, "name": "2.png", "label": 0, "said": "cat"}],
    }
    (item,) = bob.get("/api/review").json()["disputed"]
    assert item["said"] == [{"person": "Ann", "label": 0}, {"person": "Bob", "label": 1}]
    assert bob.get("/api/state").json()["to_review"] == 1
    post(bob, "/api/decide", {"position": 2, "label": 0})
    assert bob.get("/api/state").json()["to_review"] == 0
    assert bob.get("/api/agreement").json()["pairs"][0]["images"] == 1
    assert ann.get("/api/examples").json()["0"] == [2]


def test_pictures(enter, tmp_path):
    client = enter("Ann")
    small, full = (client.get(f"/image/0?size={size}") for size in ("thumb", "full"))
    assert small.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(small.content)) as picture:
        assert picture.size == (256, 9)
    with Image.open(io.BytesIO(full.content)) as picture:
        assert picture.size == (600, 20)
    with Image.open(io.BytesIO(client.get("/image/1").content)) as picture:
        assert picture.size == (8, 8)
    (tmp_path / "a.png").unlink()
    assert client.get("/image/0").content == small.content  # made once
    assert client.get("/image/2").status_code == 404
    assert client.get("/image/3").status_code == 404
    assert not [name for name in files_under(tmp_path) if "thumbnails" in name or "people" in name]


def test_a_picture_that_can_t_be_kept_is_shown_all_the_same(enter, tmp_path):
    (tmp_path / ".thumbnails" / ".h0-thumb.jpg").mkdir(parents=True)
    answer = enter("Ann").get("/image/0")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")


@pytest.mark.parametrize(
    "path",
    [
        "/image/-1",
        f"/image/{SIZE}",
        f"/image/{10**30}",
        f"/image/{'9' * 5000}",
        "/image/\u0663",
        "/image/1.5",
        "/image/../ledger.sqlite",
        "/image/..%2fledger.sqlite",
        "/image/0?size=../../../ledger",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
    ],
)
def test_no_path_reaches_the_disk(enter, path):
    assert enter("you").get(path).status_code in (400, 404)
