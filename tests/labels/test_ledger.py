"""Opening a ledger, its version, and its accounts against a plain model."""

import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psp_ray.core.errors import BudgetError, OracleError
from psp_ray.labels import (
    GroundTruthAnnotator,
    LabelRequest,
    Ledger,
    Oracle,
    OracleSettings,
    label_space_of,
    resolve_ledger_url,
)
from psp_ray.labels.schema import SCHEMA_VERSION
from tests.labels.clients import request, truth
from tests.labels.conftest import CLASSES


@pytest.mark.parametrize(
    ("ledger", "message"),
    [
        ("mysql://somewhere/db", "'mysql' is not supported"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("http//:x://", "not a readable database URL"),
        ("/no/such/folder/ledger.db", "does not exist"),
    ],
)
def test_unusable_ledgers(ledger, message):
    with pytest.raises(OracleError, match=message) as caught:
        Ledger(ledger)
    assert "\n" not in str(caught.value)


def test_folder_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(OracleError, match="is a folder"):
        Ledger(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be read as one " * 20)
    with pytest.raises(OracleError, match="is damaged"):
        Ledger(text)
    assert text.read_text().startswith("not a database")
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE labels (x)")
    with pytest.raises(OracleError, match="not ours"):
        Ledger(foreign)


def test_unreachable_server_hides_the_password():
    pytest.importorskip("psycopg")
    with pytest.raises(OracleError) as caught:
        Ledger("postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_urls_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_ledger_url("ledger.db").database == str(tmp_path / "ledger.db")
    assert resolve_ledger_url(f"sqlite:///{tmp_path}/x.db").database == f"{tmp_path}/x.db"
    assert resolve_ledger_url("postgres://h/d").drivername == "postgresql+psycopg"
    assert not (tmp_path / "ledger.db").exists(), "resolving opens nothing"


def test_newer_ledger_is_refused_in_one_line(tmp_path):
    path = tmp_path / "ledger.db"
    Ledger(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(OracleError, match=f"has version 99, this psp-ray knows {SCHEMA_VERSION}; upgrade psp-ray"):
        Ledger(path)


def as_version_1(path):
    """Turn a new ledger into one of version 1, which had no corrections."""
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE corrections")
        connection.execute("UPDATE schema_version SET version = 1")


def test_older_ledger_is_migrated_once_and_keeps_its_labels(tmp_path):
    path = tmp_path / "ledger.db"
    Oracle(path, GroundTruthAnnotator(truth()), CLASSES).label(request("r1", "e", 1, [0, 1]))
    as_version_1(path)
    for turn in range(2):
        with Ledger(path) as ledger:
            assert ledger.labels_used("e") == 2
            oracle = Oracle(ledger, GroundTruthAnnotator(truth()), CLASSES)
            assert oracle.correct("e", {"s0": 2}) == (1 if turn == 0 else 0)
            assert [(c.previous, c.label) for c in ledger.corrections()] == [(0, 2)]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM schema_version ORDER BY version").fetchall() == [
            (version,) for version in range(1, SCHEMA_VERSION + 1)
        ]


def test_commits_reach_the_disk(tmp_path):
    """A commit is synced (EXTRA = 3) before the answer leaves, and a second reader sees it at once."""
    path = tmp_path / "ledger.db"
    ledger = Ledger(path)
    with ledger.snapshot() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 3
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    Oracle(ledger, GroundTruthAnnotator(truth()), CLASSES).label(request("r1", "e", 1, [0, 1]))
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT count(*) FROM labels WHERE label IS NOT NULL").fetchone() == (2,)
    ledger.close()


def test_label_space_depends_on_names_and_their_order():
    spaces = {label_space_of(names) for names in [("a", "b"), ("b", "a"), ("a", "b", "c"), ("ab",), ("a,b",)]}
    assert len(spaces) == 5
    assert label_space_of(["cat", "dog", "owl"]) == "82fb1ae0045b15860cd4b29a78b8722e", "stable for ever"


# ---- against a plain model ---------------------------------------------------------------------------------------

N, HASHES = 12, 8
requests_of_runs = st.lists(
    st.tuples(
        st.sampled_from(["e", "f"]),
        st.integers(1, 4),
        st.lists(st.integers(0, N - 1), min_size=1, max_size=5, unique=True),
    ),
    max_size=14,
)


class Model:
    """What the ledger must say, with dictionaries."""

    def __init__(self, cap):
        self.cap, self.bought, self.uses, self.requests = cap, {}, {}, {}

    def ask(self, experiment, round, numbers):
        request_id = f"{experiment}-{round}"
        mine = self.uses.setdefault(experiment, {})
        if request_id in self.requests and self.requests[request_id] != frozenset(numbers):
            return "refused"
        if request_id not in self.requests:
            new = [i for i in numbers if i not in mine]
            if len(mine) + len(new) > self.cap:
                return "over"
            self.requests[request_id] = frozenset(numbers)
            for i in new:
                mine[i] = round
            for i in new:
                self.bought.setdefault(i % HASHES, (experiment, round))
        newly = sum(who == (experiment, round) for who in self.bought.values())
        used = sum(at <= round for at in mine.values())
        paid = sum(who == experiment and at <= round for who, at in self.bought.values())
        return [i % HASHES % 3 for i in numbers], newly, used, paid


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=requests_of_runs, cap=st.integers(4, 20), reopen=st.booleans())
def test_random_requests_agree_with_a_dictionary(tmp_path_factory, sequence, cap, reopen):
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    annotator = GroundTruthAnnotator({f"s{i}": i % HASHES % 3 for i in range(N)})
    model, ledger = Model(cap), Ledger(path)
    for experiment, round, numbers in sequence:
        if reopen:
            ledger.close()
            ledger = Ledger(path)
        oracle = Oracle(ledger, annotator, CLASSES, OracleSettings(label_cap=cap))
        ask = LabelRequest(
            f"{experiment}-{round}",
            experiment,
            round,
            tuple(f"s{i}" for i in numbers),
            tuple(f"hash{i % HASHES}" for i in numbers),
        )
        expected = model.ask(experiment, round, numbers)
        if expected == "over":
            with pytest.raises(BudgetError):
                oracle.label(ask)
        elif expected == "refused":
            with pytest.raises(OracleError, match="made before"):
                oracle.label(ask)
        else:
            got = oracle.label(ask)
            assert (got.labels.tolist(), got.newly_paid, got.labels_used, got.labels_paid) == expected
    for experiment, uses in model.uses.items():
        assert ledger.labels_used(experiment) == len(uses)
        assert ledger.labels_paid(experiment) == sum(who == experiment for who, _ in model.bought.values())
    assert ledger.status()["labels_bought"] == len(model.bought)
    ledger.close()
