"""Minutes to label 120 images of RSSCN7: in query.csv, by keys on the page, and in its grid, by a scripted person.

The person knows every answer and has a human's pace: 1.5 s a look, 0.4 s a key (or click). Looks and keys are counted,
not slept. What the program makes a person wait for (starting, proposing, learning, answering a request) is measured as
its seconds of CPU on one thread: what it would take on a machine with nothing else to do, whatever else this one does.
All ways ask about the same images and give the same answers, so the classifier is the same to the bit; the script
says so if not.

    python -m benchmarks.labeling --data-root DATA [--out FILE.md]

`DATA/rsscn7` holds the data set. Features are encoded beforehand: they are paid for once, whatever the way.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from starlette.testclient import TestClient

import psp_ray
from psp_ray.run.folder import read_summary
from psp_ray.web.desk import Rules
from psp_ray.web.serve import Serving, Station, leave
from psp_ray.web.worker import WebEvents

LOOK, KEY = 1.5, 0.4
ROUNDS, EACH = 4, 30
IMAGE_SIZE = 128
WRITE = {"x-psp-ray": "1"}


@dataclass
class Tally:
    """What a person did, and what it waited for (seconds)."""

    looks: int = 0
    keys: int = 0
    starting: float = 0.0
    waiting: float = 0.0
    others: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return LOOK * self.looks + KEY * self.keys + self.starting + self.waiting


def settings(data_root: str, out: Path) -> dict[str, Any]:
    """The same run for all three: what is chosen by default, on a data set of aerial photos."""
    return {
        "dataset": "rsscn7",
        "data_root": data_root,
        "image_size": IMAGE_SIZE,
        "rounds": ROUNDS,
        "labels_per_round": EACH,
        "threads": 1,
        "out": str(out),
    }


FOLDERS = {
    "aGrass": "grass land",
    "bField": "farm field",
    "cIndustry": "industrial area",
    "dRiverLake": "river or lake",
    "eForest": "forest",
    "fResident": "residential area",
    "gParking": "parking lot",
}


def class_of(name: str) -> str:
    """What a person sees: the class of an image by its folder, which the page doesn't show."""
    return FOLDERS[name.split("/")[-2]]


# ---- by table ----------------------------------------------------------------------------------------------------


def by_csv(data_root: str, out: Path) -> Tally:
    """Look at an image, go to the table, type its class (a spreadsheet completes what was typed before), go back; after
    each round save, and start the program again."""
    tally = Tally()
    words = [f"--{key.replace('_', '-')}={value}" for key, value in settings(data_root, out).items()]
    tally.starting = timed(command, "run", *words, "--oracle=file", "--runner=inline", "--no-html")
    typed: list[str] = []
    for number in range(1, ROUNDS + 1):
        file = out / f"round_{number:02d}" / "query.csv"
        rows = list(csv.DictReader(file.open(newline="")))
        tally.keys += 4  # find and open the table and the contact sheet
        for row in rows:
            row["label"] = class_of(row["sample_id"])
            tally.looks += 1
            tally.keys += 2 + characters(row["label"], typed) + 1  # there and back; the word; Enter
        with file.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        tally.keys += 2 + 3  # save; the terminal, the last command, Enter
        tally.waiting += timed(command, "continue", str(out), "--no-html")
    return tally


def characters(word: str, typed: list[str]) -> int:
    """Letters until a spreadsheet completes the word to one that stands above; all of them the first time."""
    known = word in typed
    others = [other.lower() for other in typed if other != word]
    typed.append(word)
    if not known:
        return len(word)
    prefixes = (count for count in range(1, len(word)) if not any(o.startswith(word[:count].lower()) for o in others))
    return next(prefixes, len(word))


def command(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "psp_ray.main", *words], capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr)


def timed(work: Callable[..., object], *given: Any) -> float:
    """CPU seconds of the program that `work` starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work(*given)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# ---- on the page -------------------------------------------------------------------------------------------------


class Page:
    """The page of a run, asked as the browser asks it."""

    def __init__(self, data_root: str, out: Path, tally: Tally, rules: Rules | None = None) -> None:
        self.tally, start = tally, time.process_time()
        given = settings(data_root, out)
        session = psp_ray.Session(given.pop("dataset"), events=WebEvents(ROUNDS, Console(quiet=True)), **given)
        self.classes = session.classes_.tolist()
        # Nothing ahead: all ways are to ask about the same images, so the person waits while it learns.
        self.station = Station(
            session, WebEvents(ROUNDS, Console(quiet=True)), Serving(ahead=0, rules=rules or Rules())
        )
        self.station.worker.start()
        self.client = TestClient(self.station.app(["testserver"]))
        self.client.get("/", params={"token": self.station.crew.people[0].token})
        while self.state["state"] not in ("waiting", "over"):
            time.sleep(0.2)
        tally.starting = time.process_time() - start

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/api/state").json()
        return found

    def work(self) -> list[dict[str, Any]]:
        """The next images; none at the end. Whatever passes until they are there was waited for."""
        start = time.process_time()
        items: list[dict[str, Any]] = []
        while not items:
            items = self.client.get(f"/api/work?n={EACH}").json()["items"]
            if not items:
                if self.state["over"]:
                    break
                time.sleep(0.2)
        self.tally.waiting += time.process_time() - start
        return items

    def say(self, items: Sequence[dict[str, Any]], label: int, way: str) -> None:
        """One action. The page sends it in the background: nobody waits for that."""
        answers = [{"position": item["position"], "label": label, "seconds": LOOK} for item in items]
        shown = [item["position"] for item in items if item["suggestion"] >= 0]
        body = {"answers": answers, "shown": shown, "way": way}
        self.client.post("/api/answers", json=body, headers=WRITE).raise_for_status()

    def right(self, item: dict[str, Any]) -> int:
        return self.classes.index(class_of(item["name"]))

    def end(self) -> None:
        self.station.worker.join(60)
        leave(self.station.session)


def by_keys(data_root: str, out: Path) -> Tally:
    """A look and a key an image."""
    page = Page(data_root, out, tally := Tally())
    while items := page.work():
        for item in items:
            tally.looks += 1
            tally.keys += 1
            page.say([item], page.right(item), "keys")
    page.station.worker.stop()
    page.end()
    return tally


def by_named_grid(data_root: str, out: Path) -> Tally:
    """The same with suggestions from the start (`--suggest-from 0`), so that groups have names."""
    return by_grid(data_root, out, Rules(suggest_after=0))


def by_grid(data_root: str, out: Path, rules: Rules | None = None) -> Tally:
    """A look at a group, one more at each image in it that is something else, deselected before the rest is named."""
    page = Page(data_root, out, tally := Tally(), rules)
    images = named = 0
    while items := page.work():
        groups: dict[int, list[dict[str, Any]]] = {}
        for item in items:
            groups.setdefault(item["group"], []).append(item)
        for group in groups.values():
            left = group
            while left:
                counts = Counter(page.right(item) for item in left)
                suggested = left[0]["suggestion"] if left is group else -1
                label = suggested if counts[suggested] else counts.most_common(1)[0][0]
                same = [item for item in left if page.right(item) == label]
                others = len(left) - len(same)
                tally.looks += 1 + (others if left is group else 0)
                # Of a group with a name all is selected, else `a` does it; the others are deselected, or the same ones
                # selected, whatever is less; Enter, or the class's key.
                tally.keys += min((suggested != label) + others, len(same)) + 1
                page.say(same, label, "grid")
                named += len(same) if suggested == label else 0
                left = [item for item in left if page.right(item) != label]
        images += len(items)
    page.station.worker.stop()
    page.end()
    tally.others = {"images": images, "confirmed by name": named}
    return tally


# ---- the table ---------------------------------------------------------------------------------------------------


def outcome(out: Path) -> tuple[list[tuple[str, str]], float]:
    """(answers by image, final accuracy) of a run."""
    rows = pq.read_table(out / "labels.parquet").to_pylist()
    return sorted((row["sample_id"], row["label"]) for row in rows), read_summary(out)["final_accuracy"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--out", type=Path, help="write the table there, too")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ways = {"query.csv": by_csv, "keys": by_keys, "grid": by_grid, "grid, named": by_named_grid}
    with tempfile.TemporaryDirectory() as folder:
        command("featurize", "--dataset=rsscn7", f"--data-root={given.data_root}", f"--image-size={IMAGE_SIZE}")
        tallies = {name: way(given.data_root, Path(folder) / name.replace(", ", "-")) for name, way in ways.items()}
        outcomes = {name: outcome(Path(folder) / name.replace(", ", "-")) for name in ways}
    answers, accuracy = outcomes["keys"]
    lines = [
        "| way | looks | keys | person | starting | waiting | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, tally in tallies.items():
        person = LOOK * tally.looks + KEY * tally.keys
        lines.append(
            f"| {name} | {tally.looks} | {tally.keys} | {person:.0f} s | {tally.starting:.0f} s "
            f"| {tally.waiting:.0f} s | {tally.seconds / 60:.1f} |"
        )
    same = all(found == (answers, accuracy) for found in outcomes.values())
    lines += ["", f"{len(answers)} answers, accuracy {100 * accuracy:.1f} %, the same in all ways: {same}"]
    for name in ("grid", "grid, named"):
        lines.append(f"{name}: {tallies[name].others['confirmed by name']} of the images were confirmed by name")
    text = "\n".join(lines) + "\n"
    print(text)
    if given.out is not None:
        given.out.write_text(text)
    if not same:
        raise SystemExit("the ways differ")


if __name__ == "__main__":
    main()
