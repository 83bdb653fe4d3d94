"""One oracle for many experiments: a detached actor on a real Ray, restarts, caps, versions, and whole runs."""

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from rich.console import Console

from psp_ray.actors import oracle as shared
from psp_ray.actors.opening import open_runtime
from psp_ray.actors.runtime import RayRuntime
from psp_ray.cli.main import cli
from psp_ray.core.errors import BudgetError, ConfigError, OracleError, ResourceError
from psp_ray.labels import Ledger
from psp_ray.labels.accounting import account
from psp_ray.labels.annotators.simulated import SimulatedGroup
from psp_ray.report.progress import Reporter
from psp_ray.run.command import run
from psp_ray.run.inputs import OracleInput
from psp_ray.run.prepare import prepare
from psp_ray.run.resolve import resolve
from tests.labels.clients import request
from tests.labels.conftest import CLASSES


@pytest.fixture
def started(local_ray, tmp_path):
    """Starts oracles and stops them again."""
    names = []

    def start(name, ledger=None, **more):
        names.append(name)
        return shared.start_oracle(name, str(ledger or tmp_path / f"{name}.sqlite"), **more)

    yield start
    for name in dict.fromkeys(names):  # a stopped one is listed for a moment still
        if name in shared.oracle_names():
            shared.stop_oracle(name)


def client(name, numbers=range(60), classes=CLASSES, **settings):
    config = resolve({"oracle": "shared", "oracle_name": name, **settings})
    given = OracleInput(
        settings=config.labels,
        classes=list(classes),
        ledger="",
        sample_ids=[f"s{i}" for i in numbers],
        labels=np.array([i % 3 for i in numbers], np.int32),
        content_hashes=[f"hash{i}" for i in numbers],
    )
    return shared.connect_shared(config, given)


def test_two_experiments_pay_once_and_a_restarted_actor_forgets_nothing(started, local_ray, tmp_path):
    assert started("one")["protocol"] == shared.PROTOCOL
    assert started("one")["name"] == "one", "starting it again finds it"
    assert shared.oracle_names() == ["one"]
    a, b = client("one"), client("one", range(30))
    under_way = [a.label(request("a1", "a", 1, range(10))) for _ in range(4)]
    first = under_way[0].result()
    assert [asked.result().newly_paid for asked in under_way] == [10] * 4, "a request is one, however often it is sent"
    assert first.labels.tolist() == [i % 3 for i in range(10)]
    second = b.label(request("b1", "b", 1, range(5, 15))).result()
    assert (first.newly_paid, second.newly_paid, second.labels_used) == (10, 5, 10)
    assert a.label(request("a1", "a", 1, range(10))).result().newly_paid == 10, "a request repeats its answer"

    local_ray.kill(shared.find_oracle("one"), no_restart=False)
    third = b.label(request("b2", "b", 2, range(15, 20))).result()
    assert third.labels.tolist() == [i % 3 for i in range(15, 20)], "the client enrolled again by itself"
    status = shared.RemoteAccounting("one").status()
    assert status["labels_bought"] == 20
    table = shared.RemoteAccounting("one").account()
    assert table["content_hash"][0].as_py() == "hash0"
    edited = table.set_column(1, "class", pa.array(["owl", *table["class"].to_pylist()[1:]]))
    assert shared.RemoteAccounting("one").correct_labels(edited, "account.csv", "somebody") == (1, 19)
    assert shared.RemoteAccounting("one").correction_history()["class"].to_pylist() == ["owl"]
    fourth = a.label(request("a2", "a", 2, [20])).result()
    assert dict(zip(fourth.corrected_ids, fourth.corrected_labels.tolist(), strict=True)) == {"s0": 2}
    paid = {row["experiment"]: row["labels_paid"] for row in status["experiments"]}
    assert paid == {"a": 10, "b": 10}
    shared.stop_oracle("one")
    with pytest.raises(OracleError, match=r"no such oracle in this cluster .running: none.; start it"):
        client("one")
    with Ledger(tmp_path / "one.sqlite") as ledger:
        assert account(ledger).num_rows == 21


def test_caps_versions_and_contradictions(started, monkeypatch, tmp_path):
    started("caps", label_cap=12, cost_cap=None)
    a, b = client("caps", label_cap=8), client("caps")
    started("caps", cost_cap=50.0)
    status = shared.RemoteAccounting("caps").status()
    assert (status["label_cap"], status["cost_cap"]) == (12, 50.0), "a cap that isn't named stays"
    assert len(a.label(request("a1", "a", 1, range(8))).result().labels) == 8
    with pytest.raises(BudgetError, match="label_cap 8: experiment 'a'"):
        a.label(request("a2", "a", 2, [8])).result()
    with pytest.raises(BudgetError, match="label_cap 12 of ledger"):
        b.label(request("b1", "b", 1, range(8, 13))).result()
    assert len(b.label(request("b1b", "b", 1, range(4, 12))).result().labels) == 8
    config = resolve({"oracle": "shared", "oracle_name": "caps"})
    wrong = np.array([1], np.int32)
    contrary = OracleInput(config.labels, list(CLASSES), "", ["x"], wrong, content_hashes=["hash0"])
    with pytest.raises(OracleError, match="has class 'dog' here but 'cat' in an earlier one"):
        shared.connect_shared(config, contrary)
    with pytest.raises(OracleError, match="runs already, with ledger"):
        shared.start_oracle("caps", str(tmp_path / "other.sqlite"))
    with pytest.raises(OracleError, match="runs already, with other annotators"):
        started("caps", group=SimulatedGroup(annotators=[{"name": "ann"}]))
    (tmp_path / "garbage").write_text("not a database, and longer than a header of one would be: " * 10)
    with pytest.raises(OracleError, match=r"oracle broken: can't be started .*is damaged .*put a backup"):
        shared.start_oracle("broken", str(tmp_path / "garbage"))
    assert "broken" not in shared.oracle_names()
    monkeypatch.setattr(shared, "PROTOCOL", 99)
    with pytest.raises(OracleError, match=r"speaks protocol \d+, this psp-ray 99; install the same version"):
        client("caps")


def test_whole_runs_share_an_oracle_with_noisy_annotators(
    started, local_ray, tmp_path, tiny_model, tiny_folder, cache_folder
):
    people = [{"name": name, "cost": 0.1, "accuracy": 0.8} for name in ("ann", "bob", "cem")]
    started("noisy", group=SimulatedGroup(annotators=people, aggregation="dawid-skene"))
    options = {
        "dataset": str(tiny_folder),
        "model": tiny_model,
        "cache": str(cache_folder),
        "rounds": 2,
        "labels_per_round": 3,
        "learning_steps": 3,
        "update_steps": 2,
        "pictures": False,
        "views": "2",
        "runner": "inline",
        "oracle": "shared",
        "oracle_name": "noisy",
        "strategy": "random",
    }
    found = []
    for number in range(2):
        config = resolve({**options, "out": str(tmp_path / f"run{number}")})
        found.append(run(config, Reporter(2, Console(quiet=True)), open_runtime=open_runtime))
    assert [(summary["labels_used"], summary["labels_paid"]) for summary in found] == [(6, 6), (6, 0)]
    assert not (tmp_path / "run0" / "ledger.sqlite").exists()
    result = CliRunner().invoke(cli, ["oracle", "status", "--name", "noisy", "--json"], standalone_mode=False)
    assert result.exception is None
    status = json.loads(result.output)
    assert status["labels_bought"] == 6
    assert status["cost"] == pytest.approx(6 * 0.3)
    assert [(row["annotator"], row["answers"]) for row in status["votes"]] == [("ann", 6), ("bob", 6), ("cem", 6)]
    runner = CliRunner()
    exported = runner.invoke(
        cli, ["oracle", "export", "--name", "noisy", str(tmp_path / "a.csv")], standalone_mode=False
    )
    assert "6 labels" in exported.output
    stopped = runner.invoke(cli, ["oracle", "stop", "--name", "noisy"], standalone_mode=False)
    assert "stopped" in stopped.output
    with pytest.raises(OracleError, match="no such oracle"):
        run(resolve({**options, "out": str(tmp_path / "run2")}), Reporter(2, Console(quiet=True)), 0.0, open_runtime)


def test_a_run_joins_the_cluster_of_its_oracle_before_it_does_anything(local_ray, monkeypatch):
    """Without an address that is the one on this machine, as it is for `psp-ray oracle start`."""
    with pytest.raises(OracleError, match="--oracle-name nobody: no such oracle"):
        RayRuntime(resolve({"oracle": "shared", "oracle_name": "nobody"}))
    asked = []

    def start(address):
        asked.append(address)
        raise ResourceError("no cluster")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(shared.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(shared, "start_ray", start)
    for address in (None, "10.0.0.1:6379"):
        with pytest.raises(ResourceError):
            RayRuntime(resolve({"oracle": "shared", "ray_address": address}))
    assert asked == ["auto", "10.0.0.1:6379"]


def test_settings_are_checked():
    with pytest.raises(
        ConfigError, match=r"somebody: unknown annotator; known: file, ground-truth, people, shared, simulated"
    ):
        prepare(resolve({"oracle": "somebody"}))
