"""The page in headless Chromium: whole runs by keys and by grid, two people at once, kill and go on, a phone.

A run here is a real one (a tiny model on noisy squares of three colors) in a process of its own, started by the command
line; what is clicked and typed is all that is known of it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pyarrow.parquet as pq
import pytest
import uvicorn
from rich.console import Console

import psp_ray
from psp_ray.data.thumbnails import jpeg
from psp_ray.labels import Ledger
from psp_ray.labels.answer_book import AnswerBook
from psp_ray.labels.questions import QuerySetInfo, Question, Questions
from psp_ray.web.desk import Rules
from psp_ray.web.ledger_people import people_of
from psp_ray.web.serve import Serving, Station, bind, leave
from psp_ray.web.shared import SharedPage
from psp_ray.web.worker import WebEvents

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
KEYS = {"blue": "1", "green": "2", "red": "3"}
DESK, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


class Server:
    """`psp-ray label` on a folder, as a user starts it."""

    def __init__(self, folder, out, model, cache, *words, log):
        command = [sys.executable, "-m", "psp_ray.main", "label", str(folder), "--no-browser", "--out", str(out)]
        command += ["--model", model, "--cache", str(cache), "--views", "2", "--learning-steps", "4", *words]
        command += ["--update-steps", "2", "--audit-fraction", "0.2"]
        self.out, self.log = out, log
        with open(log, "w") as text:
            self.process = subprocess.Popen(command, stdout=text, stderr=subprocess.STDOUT, env=os.environ.copy())
        deadline = time.monotonic() + 240
        while "Ctrl-C" not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    def link(self, name):
        return re.search(rf"^{name} \(\w+\): (\S+)$", self.log.read_text(), re.M).group(1)

    def end(self, how=signal.SIGINT):
        self.process.send_signal(how)
        self.process.wait(60)
        return self.process.returncode

    def answers(self):
        """(person, true class, answer as a class name) of every answer that stands."""
        summary = [line for line in (self.out / "run.json").read_text().splitlines() if '"experiment"' in line]
        experiment = summary[0].split('"')[3]
        with Ledger(self.out / "ledger.sqlite") as ledger:
            return AnswerBook(ledger, experiment).standing()


class Here:
    """The same page from this process: what starts quickly when nothing is to be killed."""

    def __init__(self, folder, out, settings, serving):
        self.out = out
        events = WebEvents(settings["rounds"], Console(quiet=True))
        session = psp_ray.Session(folder, out=out, events=events, **settings)
        self.station = Station(session, events, serving)
        self.listener = bind("127.0.0.1", None)
        config = uvicorn.Config(self.station.app(["127.0.0.1"]), log_level="warning", access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.station.worker.start()
        self.thread.start()

    def link(self, name):
        (token,) = [person.token for person in self.station.crew.people if person.name == name]
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/?token={token}"

    def answers(self):
        return self.station.desk.standing

    def end(self):
        self.server.should_exit = True
        self.thread.join(60)
        self.listener.close()
        self.station.worker.stop()
        self.station.worker.join(60)
        leave(self.station.session)


@pytest.fixture
def serve(tiny_folder, tmp_path, tiny_model, cache_folder):
    """Starts the command line."""
    servers = []

    def start(*words):
        log = tmp_path / f"log{len(servers)}.txt"
        servers.append(Server(tiny_folder, tmp_path / "run", tiny_model, cache_folder, *words, log=log))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(60)


@pytest.fixture
def serve_here(tiny_folder, tmp_path, tiny_model, cache_folder):
    """Serves a run from this process."""
    servers = []

    def start(serving=None, **more):
        settings = {"model": tiny_model, "cache": str(cache_folder), "views": "2", "threads": 1, "rounds": 1}
        settings |= {"learning_steps": 4, "update_steps": 2, "audit_fraction": 0.2, **more}
        servers.append(Here(tiny_folder, tmp_path / "run", settings, serving or Serving(ahead=0)))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture
def visit(chromium):
    """A page opened by somebody's link; what a console or a script complains about fails the test."""
    contexts, complaints = [], []

    def opened(server, name="you", size=DESK, **more):
        context = chromium.new_context(viewport=size, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.goto(server.link(name))
        page.wait_for_selector("main *", timeout=60_000)
        page.complaints = complaints
        return page

    yield opened
    for context in contexts:
        context.close()


def color_of(page):
    """The class of the image that is shown: its pixels say so, its name doesn't."""
    return page.evaluate(
        """async () => {
          const image = document.querySelector(".stage img");
          await image.decode();
          const canvas = document.createElement("canvas");
          canvas.width = canvas.height = 1;
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0, 1, 1);
          const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
          return red > green && red > blue ? "red" : green > blue ? "green" : "blue";
        }"""
    )


def wait_for(page, text, seconds=120):
    page.wait_for_function("text => document.body.innerText.includes(text)", arg=text, timeout=1000 * seconds)


def press_through(page, count, seconds=120):
    """Answer `count` images by their keys."""
    for _ in range(count):
        page.wait_for_selector(".stage img", timeout=1000 * seconds)
        page.keyboard.press(KEYS[color_of(page)])
    page.wait_for_function(
        "() => Object.keys(localStorage).every(key => !key.includes('outbox') || localStorage[key] === '[]')"
    )


def labels_of(out):
    table = pq.read_table(out / "labels.parquet").to_pandas()
    return table.label.tolist(), table.sample_id.str.split("/").str[0].tolist()


def test_a_whole_run_by_keys(serve, visit):
    server = serve("--rounds", "2", "--labels-per-round", "4", "--ahead", "2")
    page = visit(server)
    press_through(page, 1)
    wrong = next(key for color, key in KEYS.items() if color != color_of(page))
    page.keyboard.press(wrong)
    page.keyboard.press("u")  # a mistake, taken back
    wait_for(page, "1 answer taken back")
    while "2 rounds done" not in page.inner_text("#round"):
        if page.query_selector(".stage img"):
            page.keyboard.press(KEYS[color_of(page)])
        page.wait_for_timeout(50)
    wait_for(page, "All rounds are done")
    assert not page.complaints
    assert server.end() == 0
    said, true = labels_of(server.out)
    assert said == true
    assert len(said) >= 8
    assert (server.out / "prompts.safetensors").is_file()
    assert "go on with" not in server.log.read_text()  # it is done


def test_a_round_by_grid(serve_here, visit):
    """Without suggestions groups have no names: select by clicks and keys, then say the class."""
    server = serve_here(labels_per_round=12)
    page = visit(server)
    page.keyboard.press("g")
    page.wait_for_selector(".tile img")
    assert page.query_selector(".tile[aria-pressed=true]") is None
    for _ in range(40):
        tiles = page.query_selector_all(".group:first-of-type .tile")
        if not tiles:
            break
        names = [tile.get_attribute("aria-label") for tile in tiles]
        colors = page.evaluate(COLORS, [int(tile.get_attribute("data-position")) for tile in tiles])
        wanted = colors[0]
        assert len(names) == len(colors)
        page.keyboard.press("a")  # all, then deselect what differs
        for tile, color in zip(tiles, colors, strict=True):
            if color != wanted:
                tile.click()
        page.keyboard.press(KEYS[wanted])
        page.wait_for_timeout(150)
    wait_for(page, "All rounds are done")
    assert not page.complaints
    said, true = labels_of(server.out)
    assert said == true
    assert len(said) == 12


COLORS = """async (positions) => {
  const found = [];
  for (const position of positions) {
    const image = new Image();
    image.src = `/image/${position}?size=thumb`;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, 1, 1);
    const [red, green, blue] = context.getImageData(0, 0, 1, 1).data;
    found.push(red > green && red > blue ? "red" : green > blue ? "green" : "blue");
  }
  return found;
}"""


def test_groups_with_names_are_confirmed_by_one_key(serve_here, visit):
    server = serve_here(Serving(ahead=0, rules=Rules(suggest_after=0)), labels_per_round=9)
    page = visit(server)
    page.keyboard.press("g")
    page.wait_for_selector(".group .main")
    named = page.query_selector(".group")
    count = len(named.query_selector_all(".tile"))
    assert len(named.query_selector_all(".tile[aria-pressed=true]")) == count
    title = named.get_attribute("aria-label")
    named.query_selector(".tile").focus()
    page.keyboard.press("Space")
    assert len(page.query_selector_all(".group:first-of-type .tile[aria-pressed=true]")) == count - 1
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    wait_for(page, f"{count} image{'s' if count > 1 else ''}: {title}")
    page.wait_for_timeout(500)
    events = server.answers()
    assert len(events) == count
    assert {event.batch for event in events} == {events[0].batch}
    assert all(event.shown and event.suggested == event.label for event in events)
    page.keyboard.press("u")
    wait_for(page, "taken back")
    assert not server.answers()
    assert not page.complaints


def test_a_class_is_added_and_renamed(serve_here, visit):
    """From the page of whoever leads; everybody's page has it at once, with its key."""
    server = serve_here(Serving(ahead=0, people=[("Ann", "label")]), labels_per_round=6)
    ann, page = visit(server, "Ann"), visit(server)
    assert ann.query_selector("nav [data-tab=classes]") is None
    press_through(page, 2)
    page.click("nav [data-tab=classes]")
    page.fill(".form input", "violet <b>")
    page.click("text=Add class")
    for other in (page, ann):
        other.wait_for_function("() => document.body.dataset.classes.includes('violet')", timeout=60_000)
    page.wait_for_selector("td form")
    page.fill("[aria-label='Another name for red']", "crimson")
    page.click("[aria-label='Rename red']")
    ann.wait_for_function("() => document.body.dataset.classes.includes('crimson')", timeout=60_000)
    ann.wait_for_selector(".stage img", timeout=60_000)
    ann.keyboard.press("4")
    wait_for(ann, "violet <b>")
    assert len(server.answers()) == 3
    page.goto(server.link("you") + "#classes")
    page.wait_for_selector("td form")
    for size in (DESK, PHONE):
        page.set_viewport_size(size)
        width = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert width <= 0
    assert not page.complaints


def test_two_people_and_a_second_opinion(serve_here, visit):
    people = [("Ann", "label"), ("Bob", "review")]
    server = serve_here(Serving(ahead=0, people=people, rules=Rules(second_share=1.0)), labels_per_round=6)
    ann, bob = visit(server, "Ann"), visit(server, "Bob")
    for page in (ann, bob):
        page.wait_for_selector(".stage img")
    shown = [page.get_attribute(".stage img", "src") for page in (ann, bob)]
    assert shown[0] != shown[1]
    press_through(ann, 1)
    wrong = next(key for color, key in KEYS.items() if color != color_of(bob))
    bob.keyboard.press(wrong)
    bob.wait_for_timeout(300)
    bob.keyboard.press("v")  # gives back what Bob has not come to
    wait_for(bob, "Where people differ")
    deadline = time.monotonic() + 90
    # Ann does the rest, and says what Bob's image really shows.
    while not server.station.desk.board.over and time.monotonic() < deadline:
        if ann.query_selector(".stage img"):
            ann.keyboard.press(KEYS[color_of(ann)])
        ann.wait_for_timeout(100)
    ann.wait_for_function("() => !document.querySelector('.stage img')")
    bob.keyboard.press("v")
    wait_for(bob, "Where people differ (1)")
    bob.click(f".card .choices button:has-text('{right_of(server)}')")
    wait_for(bob, "Nobody differs.")
    assert not bob.complaints


def right_of(server):
    """What Ann says of the image on which the two differ."""
    by = {}
    for event in server.answers():
        by.setdefault(event.content_hash, {})[event.person] = event.label
    (said,) = [said for said in by.values() if len(set(said.values())) > 1]
    return sorted(KEYS)[said["Ann"]]


def test_a_key_held_down_and_two_tabs_write_nothing_twice(serve_here, visit):
    server = serve_here(labels_per_round=6)
    page = visit(server)
    page.wait_for_selector(".stage img")
    for _ in range(5):  # from the second on the browser says that it is the same press
        page.keyboard.down("1")
    page.keyboard.up("1")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".stage img")
    with other.expect_response(lambda response: response.url.endswith("/api/answers")):
        other.keyboard.press("2")
    wait_for(page, "2 of 6")
    assert len(server.answers()) == 2


def test_the_server_is_killed_while_somebody_labels(serve, visit):
    words = ("--rounds", "1", "--labels-per-round", "6", "--ahead", "0")
    server = serve(*words)
    page = visit(server)
    press_through(page, 2)
    server.end(signal.SIGKILL)
    page.wait_for_selector(".stage img")
    page.keyboard.press(KEYS[color_of(page)])  # nobody hears it
    wait_for(page, "1 answer waits here")
    assert len(server.answers()) == 2
    again = serve(*words)
    assert again.link("you") == server.link("you")
    page.wait_for_function(
        "() => Object.keys(localStorage).every(key => !key.includes('outbox') || localStorage[key] === '[]')",
        timeout=60_000,
    )
    assert len(again.answers()) == 3
    page.reload()
    press_through(page, 3)
    wait_for(page, "All rounds are done")
    again.end()
    said, true = labels_of(again.out)
    assert said == true
    assert len(said) == 6


def test_a_phone_and_nobody_shut_out(serve_here, visit):
    """No sideways scrolling at 390 pixels, touch targets, and nothing that axe finds in any view, light or dark."""
    from axe_playwright_python.sync_playwright import Axe

    people = [("Ann", "label"), ("Bob", "review")]
    server = serve_here(Serving(people=people, rules=Rules(suggest_after=0)), rounds=2, labels_per_round=6)
    for size, scheme in ((PHONE, "light"), (DESK, "dark"), (DESK, "light")):
        page = visit(server, size=size, color_scheme=scheme, bypass_csp=True)  # axe is put into the page
        for tab in ("one", "grid", "review", "people"):
            page.click(f'nav [data-tab="{tab}"]')
            page.wait_for_timeout(600)
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
        page.keyboard.press("?")
        assert Axe().run(page).violations_count == 0
        assert not page.complaints
        page.context.close()


class Shared:
    """The page of a ledger on which two runs wait, without the runs."""

    def __init__(self, folder, path):
        self.ledger = Ledger(path)
        self.posts = Questions(self.ledger)
        for run, colors in (("first", ("red", "blue")), ("second", ("green",))):
            files = [folder / color / "00.png" for color in colors]
            for file in files:
                self.posts.keep_picture(f"h{file.parent.name}", "thumb", jpeg(str(file), None, "thumb"))
            about = {"title": run, "classes": ("blue", "green", "red"), "label_space": "", "annotator": "people"}
            asked = [Question(f"h{color}", f"{color}.png") for color in colors]
            self.posts.post(QuerySetInfo(experiment=run, round=1, rounds=2, labels=0, **about), asked)
        self.page = SharedPage(self.ledger, people_of(self.ledger, str(path)))
        self.page.crew.invite("you", "lead")
        self.listener = bind("127.0.0.1", None)
        config = uvicorn.Config(self.page.app(["127.0.0.1"]), log_level="warning", access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()

    def link(self, name):
        (token,) = [person.token for person in self.page.crew.people if person.name == name]
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/?token={token}"

    def end(self):
        self.server.should_exit = True
        self.thread.join(60)
        self.listener.close()
        self.ledger.close()


def test_one_page_for_all_runs_that_wait(tiny_folder, tmp_path, visit):
    from axe_playwright_python.sync_playwright import Axe

    server = Shared(tiny_folder, tmp_path / "ledger.sqlite")
    try:
        page = visit(server, bypass_csp=True)  # axe is put into the page
        assert Axe().run(page).violations_count == 0
        assert page.locator("tbody td.number").all_inner_texts() == ["2", "1"]
        page.click("text=first")
        press_through(page, 2)
        assert Axe().run(page).violations_count == 0
        page.click("text=All runs")
        page.wait_for_function("() => document.querySelector('td.number')?.innerText === '0'")
        page.click("text=second")
        page.wait_for_selector(".stage img")
        listing = page.context.new_page()
        listing.goto(page.url.split("runs/")[0])
        press_through(page, 1)
        listing.bring_to_front()
        listing.wait_for_function("() => document.querySelectorAll('td.number')[1].innerText === '0'")
        books = [AnswerBook(server.ledger, run).standing() for run in ("first", "second")]
        said = [{event.content_hash: event.label for event in events} for events in books]
        assert said == [{"hred": 2, "hblue": 0}, {"hgreen": 1}]
        assert not page.complaints
    finally:
        server.end()
