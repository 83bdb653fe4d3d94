"""What the copies on storage promise, against a model: two machines, kills at any step, people who type anywhere."""

from __future__ import annotations

import csv
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from psp_ray.config.config import Config
from psp_ray.core.errors import OracleError
from psp_ray.core.ours import is_ours
from psp_ray.core.sealed import digest_of
from psp_ray.labels import GroundTruthAnnotator, Oracle
from psp_ray.labels.orders import request_id
from psp_ray.labels.service import LabelRequest
from psp_ray.run.checkpoint import Checkpoint, latest_round, load_latest, save_checkpoint
from psp_ray.run.folder import has_run, open_out
from psp_ray.run.mirror import RunMirror
from psp_ray.storage import remote
from psp_ray.storage.generations import Generations, Moved
from psp_ray.storage.remote import Storage

CLASSES = ("cat", "dog", "owl")
SAMPLES = [f"im{i}.jpg" for i in range(4)]
MACHINES = st.sampled_from(["a", "b"])
KILLED = st.sampled_from([None] * 12 + [0, 1, 2, 3, 5, 7, 9, 12])
WORDS = st.sampled_from(["cat", "dog", "owl"])
COUNTS = {"steps": 0, "kills": 0, "saves": 0, "overtaken": 0, "taken up": 0, "typed": 0, "conflicts": 0}


class Kill(BaseException):
    pass


@contextmanager
def killed_at(step):
    """The process ends at the `step`-th thing that it asks of the storage; None: never."""
    names = ("push", "write", "create", "delete", "pull")
    whole = {name: getattr(Storage, name) for name in names}
    seen = [0]

    def patched(name):
        def call(self, *arguments):
            seen[0] += 1
            if step is not None and seen[0] > step:
                raise Kill
            return whole[name](self, *arguments)

        return call

    for name in names:
        setattr(Storage, name, patched(name))
    try:
        yield
    finally:
        for name in names:
            setattr(Storage, name, whole[name])


def known_of(out):
    """What the ledger holds, as a set of facts, by plain SQL: what was bought, what was told, what was corrected."""
    path = out / "ledger.sqlite"
    if not path.exists():
        return set()
    statements = (
        "SELECT 'bought', content_hash, paid_by, cost FROM labels WHERE label IS NOT NULL",
        "SELECT 'told', experiment, sample_id, content_hash FROM uses WHERE label IS NOT NULL",
        "SELECT 'corrected', content_hash, previous, label, corrected_at FROM corrections",
    )
    with closing(sqlite3.connect(path)) as connection:
        facts = {tuple(row) for statement in statements for row in connection.execute(statement)}
        order = "ORDER BY content_hash, corrected_at, number"
        last = dict(list(connection.execute(f"SELECT content_hash, label FROM corrections {order}")))
        now = dict(connection.execute("SELECT content_hash, label FROM labels WHERE label IS NOT NULL"))
        told = list(connection.execute("SELECT content_hash, label FROM uses WHERE label IS NOT NULL"))
    assert {content: now[content] for content in last} == last, "the latest correction counts"
    assert all(now[content] == label for content, label in told), "and is what was told"
    return facts


def cells(path):
    with open(path, newline="") as handle:
        return {row["sample_id"]: row["label"] for row in csv.DictReader(handle)}


def fill(path, sample, word):
    with open(path, newline="") as handle:
        rows = list(csv.DictReader(handle))
    for row in rows:
        if row["sample_id"] == sample:
            row["label"] = word
    with open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, ["sample_id", "label"])
        writer.writeheader()
        writer.writerows(rows)


class Machines(RuleBasedStateMachine):
    """`self.durable`: what some generation holds for certain; `self.people`: the desk's table as people left it."""

    uri: str | None = None

    @initialize()
    def begin(self):
        self.root = Path(tempfile.mkdtemp(prefix="mirror-"))
        self.storage = Storage(f"{self.uri}/{self.root.name}" if self.uri else str(self.root / "storage"))
        self.config = Config(dataset="digits", labels_per_round=2, runner="inline")
        self.durable, self.round, self.number = set(), 0, 0
        self.people = None
        self.news = {}
        self.experiment = open_out(self.config, self.out("a"))
        self.play_a_round("a")
        self.lay_out_a_query_set("a")
        self.save("a", None)
        self.resume("b", None)

    def teardown(self):
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    def out(self, machine):
        return self.root / machine / "run"

    def mirror(self, machine):
        return RunMirror(self.storage, self.out(machine))

    # -- what runs do ----------------------------------------------------------------------------------------------

    @rule(machine=MACHINES)
    def play_a_round(self, machine):
        out = self.out(machine)
        if not has_run(out):
            return
        number = latest_round(out / "checkpoints") + 1
        # Some that the other machine buys, too, and one that it doesn't: only a merge brings that there.
        ids = [f"s{number}", f"{machine}{number}"]
        oracle = Oracle(out / "ledger.sqlite", GroundTruthAnnotator({name: int(name[1:]) % 3 for name in ids}), CLASSES)
        hashes = [f"h{name}" for name in ids]
        order = LabelRequest(request_id(self.experiment, number), self.experiment, number, ids, hashes, replaces=True)
        oracle.label(order)
        if number > 1:  # second thoughts about the round before
            oracle.correct(self.experiment, {f"s{number - 1}": (number + (machine == "b")) % 3})
        oracle.close()
        save_checkpoint(out / "checkpoints", Checkpoint(number, {"round": number}))
        (out / "rounds.csv").write_text(f"{number}\n")

    @rule(machine=MACHINES, step=KILLED)
    def run_a_round(self, machine, step):
        """What `--resume` does: take up, play, save; killed while it saves."""
        self.resume(machine, None)
        self.play_a_round(machine)
        self.save(machine, step)

    @rule(machine=MACHINES)
    def lay_out_a_query_set(self, machine):
        path = self.out(machine) / "round_01" / "query.csv"
        if has_run(self.out(machine)) and not path.exists():
            path.parent.mkdir()
            path.write_text("sample_id,label\n" + "".join(f"{name},\n" for name in SAMPLES))

    @rule(machine=MACHINES, step=KILLED)
    def save(self, machine, step):
        out = self.out(machine)
        if not has_run(out):
            return
        COUNTS["saves"] += 1
        try:
            with killed_at(step):
                self.mirror(machine).save()
        except Kill:
            COUNTS["kills"] += 1
            return
        except Moved:
            COUNTS["overtaken"] += 1
            return
        self.durable |= known_of(out)
        self.round = max(self.round, latest_round(out / "checkpoints"))
        assert Generations(self.storage, f"runs/run/{self.experiment}").newest() is not None

    @rule(machine=MACHINES, step=KILLED)
    def resume(self, machine, step):
        out, mirror = self.out(machine), self.mirror(machine)
        known, round = known_of(out), latest_round(out / "checkpoints")
        table = out / "round_01" / "query.csv"
        before = cells(table) if table.exists() else {}
        try:
            with killed_at(step):
                if not has_run(out) and not mirror.restore(True, self.config.identity()):
                    assert not self.number, "what is there is found"
                    return
                mirror.take_up()
        except Kill:
            COUNTS["kills"] += 1
            return
        except OracleError as error:
            COUNTS["conflicts"] += 1
            assert "make them agree" in str(error)  # noqa: PT017
            assert cells(table) == before, "nothing is rewritten"
            return
        COUNTS["taken up"] += 1
        assert known_of(out) >= known, "no purchase of this machine is lost"
        assert known_of(out) >= self.durable, "and none that was saved"
        assert latest_round(out / "checkpoints") >= max(round, self.round)
        checkpoint = load_latest(out / "checkpoints", lambda text: pytest.fail(text))
        assert checkpoint is None or checkpoint.state == {"round": checkpoint.round}
        after = cells(table) if table.exists() else {}
        for sample, word in before.items():
            assert not word or after[sample], "no typed answer is dropped"
        for sample, word in self.news.pop(machine, {}).items():
            assert after[sample] == word, "what was typed on the desk arrives"

    @rule(machine=MACHINES, often=st.integers(0, 3))
    def lose_the_machine(self, machine, often):
        if often:
            return
        shutil.rmtree(self.out(machine), ignore_errors=True)
        self.news.pop(machine, None)

    # -- what people do --------------------------------------------------------------------------------------------

    def desk(self):
        return f"runs/run/{self.experiment}/answers/round_01/query.csv"

    def desk_text(self):
        names = self.storage.list(f"runs/run/{self.experiment}/answers")
        return self.storage.read(self.desk()) if "round_01/query.csv" in names else None

    @rule(machine=MACHINES, sample=st.sampled_from(SAMPLES), word=WORDS)
    def type_here(self, machine, sample, word):
        table = self.out(machine) / "round_01" / "query.csv"
        if table.exists() and not cells(table)[sample]:
            fill(table, sample, word)
            COUNTS["typed"] += 1
            for news in self.news.values():
                news.pop(sample, None)

    @rule(sample=st.sampled_from(SAMPLES), word=WORDS)
    def type_on_the_desk(self, sample, word):
        text = self.desk_text()
        if text is None:
            return
        copy = self.root / "desk.csv"
        copy.write_bytes(text)
        blank_everywhere = not any(
            cells(self.out(m) / "round_01" / "query.csv")[sample]
            for m in ("a", "b")
            if (self.out(m) / "round_01" / "query.csv").exists()
        )
        if not cells(copy)[sample]:
            fill(copy, sample, word)
            COUNTS["typed"] += 1
            self.storage.write(self.desk(), copy.read_bytes())
            self.people = self.storage.read(self.desk())
            if blank_everywhere:
                for machine in ("a", "b"):
                    if has_run(self.out(machine)):
                        self.news.setdefault(machine, {})[sample] = word

    # -- what always holds -----------------------------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "root"))
    @invariant()
    def generations_are_whole(self):
        COUNTS["steps"] += 1
        generations = Generations(self.storage, f"runs/run/{self.experiment}")
        newest = generations.newest()
        if newest is None:
            assert not self.durable
            return
        assert newest.number >= self.number, "never back"
        self.number = newest.number
        for stored in newest.files.values():
            assert digest_of(self.storage.read(f"{generations.prefix}/{stored.key}")) == stored.digest

    @precondition(lambda self: hasattr(self, "root"))
    @invariant()
    def the_desk_is_the_peoples(self):
        if self.people is not None:
            assert self.storage.read(self.desk()) == self.people


def drive(uri, examples, steps):
    machines = type("Machines", (Machines,), {"uri": uri})
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # steps cost fsyncs: shrinking would take an hour
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machines, settings=profile)


def test_two_machines_that_went_on_apart_know_the_same_in_the_end():
    """The story that chance takes long to come to: both buy and correct, one saves, the other is overtaken."""
    machines = Machines()
    try:
        machines.begin()
        for _ in range(2):
            for machine in "abb":
                machines.play_a_round(machine)
            machines.save("a", None)
            machines.save("b", None)  # refused: a was quicker
            machines.type_here("b", SAMPLES[0], "dog")
            for machine in "ba":
                machines.resume(machine, None)
                machines.save(machine, None)
            a, b = (known_of(machines.out(machine)) for machine in "ab")
            assert a == b == machines.durable
            assert all(cells(machines.out(m) / "round_01" / "query.csv")[SAMPLES[0]] == "dog" for m in "ab")
            assert {kind for kind, *_ in a} == {"bought", "told", "corrected"}
            machines.generations_are_whole()
        assert is_ours(machines.root / "storage"), "no data set has its pictures as a part"
    finally:
        machines.teardown()


def test_nothing_is_lost_on_a_folder():
    drive(None, 5, 12)


@pytest.mark.slow
def test_nothing_is_lost_on_a_folder_for_long():
    drive(None, int(os.environ.get("PSP_RAY_MODEL_EXAMPLES", "300")), 30)
    print(COUNTS)


@pytest.mark.slow
def test_nothing_is_lost_on_s3(s3_server, monkeypatch):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "CLAIM_SECONDS", 1.0)  # of those that were killed while they wrote
    drive("s3://psp/model", int(os.environ.get("PSP_RAY_MODEL_EXAMPLES", "30")), 20)
    print(COUNTS)
