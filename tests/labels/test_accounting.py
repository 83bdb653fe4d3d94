"""Who paid for what; caps over all experiments; labels out, in and copied; older ledgers."""

import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from psp_ray.cli.main import cli
from psp_ray.core.errors import BudgetError, OracleError
from psp_ray.labels import GroundTruthAnnotator, Ledger, Oracle
from psp_ray.labels.accounting import LedgerAccounting, account, read_account, write_account
from psp_ray.labels.answer_book import AnswerBook, Said
from psp_ray.labels.backup import backup
from psp_ray.labels.database import open_engine, resolve_ledger_url
from psp_ray.labels.imports import import_labels
from psp_ray.labels.orders import Order
from psp_ray.labels.schema import label_space_of, metadata
from tests.labels.clients import request, truth
from tests.labels.conftest import CLASSES


def set_limits(ledger, label_cap, cost_cap):
    """Set both caps; None lifts one."""
    lifted = (math.inf if cap is None else cap for cap in (label_cap, cost_cap))
    LedgerAccounting(ledger).change_limits(*lifted)


@pytest.fixture
def used(ledger_url):
    """A ledger where e bought 0..9 in two rounds and f bought 10..14 and reused 5."""
    with Ledger(ledger_url) as ledger:
        oracle = Oracle(ledger, GroundTruthAnnotator(truth(), cost=0.5), CLASSES)
        oracle.label(request("e1", "e", 1, range(5)))
        oracle.label(request("e2", "e", 2, range(5, 10)))
        oracle.label(request("f1", "f", 1, [5, 10, 11, 12, 13, 14]))
        yield ledger


def test_the_account_says_who_paid_for_what_and_when(used):
    rows = account(used).to_pylist()
    assert {row["content_hash"] for row in rows} == {f"hash{i}" for i in range(15)}
    by_hash = {row["content_hash"]: row for row in rows}
    assert [by_hash[f"hash{i}"]["paid_by"] for i in range(15)] == ["e"] * 10 + ["f"] * 5
    assert [by_hash[f"hash{i}"]["round"] for i in range(15)] == [1] * 5 + [2] * 5 + [1] * 5
    assert all(by_hash[f"hash{i}"]["class"] == CLASSES[i % 3] for i in range(15))
    assert all(row["cost"] == 0.5 and row["request_id"] in ("e1", "e2", "f1") for row in rows)
    times = [row["paid_at"] for row in rows]
    assert times == sorted(times)
    assert times[0].tzinfo is not None
    assert account(used, "f").num_rows == 5
    assert {row["content_hash"]: row["sample_id"] for row in rows} == {f"hash{i}": f"s{i}" for i in range(15)}


def test_people_read_names_where_the_ledger_has_them(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        Oracle(ledger, GroundTruthAnnotator(truth()), CLASSES).label(request("e1", "e", 1, range(2)))
        table = account(ledger)
    with Ledger(tmp_path / "other.sqlite") as other:
        import_labels(other, table, "elsewhere")
    shown = CliRunner().invoke(cli, ["oracle", "account", "--each", "--ledger", str(path)]).output
    assert [line.split()[0] for line in shown.splitlines()] == ["image", "s0", "s1"]
    shown = CliRunner().invoke(cli, ["oracle", "account", "--each", "--ledger", str(tmp_path / "other.sqlite")]).output
    assert [line.split()[0] for line in shown.splitlines()] == ["image", "hash0", "hash1"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_exported_labels_are_imported_once(used, tmp_path, suffix):
    path = tmp_path / f"labels{suffix}"
    table = account(used)
    write_account(table, path)
    assert (
        read_account(path)
        .select(["content_hash", "label", "paid_by", "cost"])
        .equals(table.select(["content_hash", "label", "paid_by", "cost"]))
    )
    other = tmp_path / "other.sqlite"
    with Ledger(other) as ledger:
        assert import_labels(ledger, read_account(path), path.name) == (15, 0, 0)
        assert import_labels(ledger, read_account(path), path.name) == (0, 15, 0)
        oracle = Oracle(ledger, GroundTruthAnnotator({}), CLASSES)
        response = oracle.label(request("g1", "g", 1, range(15)))
        assert response.labels.tolist() == [i % 3 for i in range(15)]
        assert (response.newly_paid, response.labels_used) == (0, 15)
        changed = table.set_column(2, "label", pa.array([(label + 1) % 3 for label in table["label"].to_pylist()]))
        assert import_labels(ledger, changed, "changed") == (0, 0, 15)
        assert account(ledger)["label"].to_pylist() == table["label"].to_pylist(), "what is bought stays"


def test_bad_imports_change_nothing(used, tmp_path):
    table = account(used)
    with Ledger(tmp_path / "other.sqlite") as ledger:
        for bad, message in [
            (table.drop_columns(["annotator"]), "lacks column 'annotator'"),
            (table.set_column(2, "label", pa.array([0] * 14 + [3])), "row 15: label 3 is no class"),
            (table.set_column(2, "label", pa.array([0.0] * 14 + [0.7])), "row 15: label 0.7 is no class"),
            (table.set_column(2, "label", pa.array(["cat"] * 15)), "row 1: label 'cat' is no class"),
            (table.set_column(3, "annotator", pa.array(["a"] * 14 + [None])), "row 15: annotator is empty"),
            (table.set_column(4, "cost", pa.array(["cheap"] * 15)), "'cost' doesn't hold numbers"),
            (table.set_column(4, "cost", pa.array([1.0] * 14 + [float("nan")])), "row 15: cost nan is no price"),
            (table.set_column(7, "paid_at", pa.array(["yesterday"] * 15)), "'paid_at' doesn't hold times"),
            (table.set_column(10, "classes", pa.array(["cat, dog"] * 15)), "not a JSON list"),
            (table.set_column(10, "classes", pa.array([["cat", "dog"]] * 15)), "'classes' holds list<.*, not text"),
        ]:
            with pytest.raises(OracleError, match=message):
                import_labels(ledger, bad, "file")
        assert account(ledger).num_rows == 0
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(OracleError, match="can't be read"):
        read_account(tmp_path / "broken.parquet")
    with pytest.raises(OracleError, match=r"\.parquet or \.csv"):
        write_account(table, tmp_path / "labels.txt")


def order_of(name, *numbers, **more):
    hashes = tuple(f"hash{i}" for i in numbers)
    samples = tuple(f"s{i}" for i in numbers)
    space = label_space_of(CLASSES)
    return Order(f"{name}1", name, 1, space, CLASSES, "ground-truth", 1.0, samples, hashes, **more)


def test_imported_labels_fill_claims_and_count_against_no_cap(used, tmp_path):
    table = account(used)
    assert table["annotator"][0].as_py() == "ground-truth"
    with Ledger(tmp_path / "other.sqlite") as ledger:
        waiting = order_of("w", 0, 1)
        assert len(ledger.advance(waiting).to_buy) == 2, "claimed, and its client then dies"
        assert import_labels(ledger, table, "labels.csv") == (15, 0, 0)
        assert ledger.advance(waiting).answer == {"s0": 0, "s1": 1}
        status = ledger.status()
        assert [status[key] for key in ("labels_bought", "labels_imported", "labels_claimed", "cost")] == [0, 15, 0, 0]
        set_limits(ledger, 1, 1.0)
        oracle = Oracle(ledger, GroundTruthAnnotator(truth()), CLASSES)
        assert oracle.label(request("g1", "g", 1, [2, 20])).newly_paid == 1
        with pytest.raises(BudgetError, match="bought or claimed 1 label "):
            oracle.label(request("g2", "g", 2, [21]))


def test_stale_claims_are_named_and_dropped(used, ledger_url):
    set_limits(used, 17, None)
    used.advance(order_of("dead", 20, 21, lease_seconds=0.01))
    used.advance(order_of("alive", 12))  # nothing to claim
    time.sleep(0.05)
    oracle = Oracle(used, GroundTruthAnnotator(truth(), cost=0.5), CLASSES)
    with pytest.raises(
        BudgetError, match=r"\(2 of them claimed by clients that fell silent: `psp-ray oracle drop-claims`"
    ):
        oracle.label(request("g1", "g", 1, [22]))
    words = ["oracle", "status", "--ledger", ledger_url]
    assert "--experiment dead" in CliRunner().invoke(cli, words).output
    words = ["oracle", "drop-claims", "--ledger", ledger_url]
    assert "dropped 0 stale claims" in CliRunner().invoke(cli, [*words, "--experiment", "alive"]).output
    assert "dropped 2 stale claims" in CliRunner().invoke(cli, words).output
    assert oracle.label(request("g1", "g", 1, [22])).newly_paid == 1
    used.store(order_of("dead", 20, 21), [("hash20", 2), ("hash21", 0)])
    assert used.status()["labels_bought"] == 18, "a slow client's labels are kept, over the cap"


def test_a_claim_that_still_runs_is_left_alone(used):
    used.advance(order_of("busy", 20, 21))
    accounting = LedgerAccounting(used)
    assert accounting.stale_claims() == []
    assert accounting.drop_claims() == 0
    assert used.status()["labels_claimed"] == 2


def test_a_backup_is_a_ledger_that_can_be_gone_on_with(used, tmp_path):
    path = tmp_path / "copy.sqlite"
    set_limits(used, 100, None)
    assert backup(used, path) > 15
    with pytest.raises(OracleError, match="exists already"):
        backup(used, path)
    with Ledger(path) as copy:
        assert account(copy).equals(account(used))
        assert copy.status()["experiments"] == used.status()["experiments"]
        assert LedgerAccounting(copy).limits() == (100, None)
        again = Oracle(copy, GroundTruthAnnotator({}, cost=0.5), CLASSES).label(request("e2", "e", 2, range(5, 10)))
        assert again.labels.tolist() == [i % 3 for i in range(5, 10)]


def test_a_backup_has_what_people_said(used, tmp_path):
    said = AnswerBook(used, "e")
    said.write("Ann", [Said("hash0", 1), Said("hash20", 2)], "one")
    said.undo("Ann", "two")
    said.write("Bob", [Said("hash20", 0)], "three")
    said.settle({"hash20": said.taken(1)})
    backup(used, tmp_path / "copy.sqlite")
    with Ledger(tmp_path / "copy.sqlite") as copy:
        again = AnswerBook(copy, "e")
        assert again.events() == said.events()
        assert (again.settled(), again.taken(1)) == (said.settled(), said.taken(1))
        assert again.write("Ann", [Said("hash0", 1)], "four")[0].number > said.events()[-1].number


# -- caps of all experiments together ----------------------------------------------------------------------------------


def test_caps_of_all_experiments_allow_reuse_and_refuse_purchases(used):
    oracle = Oracle(used, GroundTruthAnnotator(truth(), cost=0.5), CLASSES)
    set_limits(used, 17, None)
    assert oracle.label(request("g1", "g", 1, [0, 1, 15, 16])).newly_paid == 2
    with pytest.raises(BudgetError, match=r"bought or claimed 17 labels and this request needs 1 more"):
        oracle.label(request("g2", "g", 2, [2, 17]))
    assert used.status()["labels_bought"] == 17
    assert used.status()["labels_claimed"] == 0
    assert oracle.label(request("g2", "g", 2, [2, 3])).newly_paid == 0, "the refused request left no trace"
    set_limits(used, None, 9.0)
    assert oracle.label(request("g3", "g", 3, [20])).newly_paid == 1  # 18 labels, 9.0
    with pytest.raises(BudgetError, match=r"spent or claimed 9 and this request needs 0.5 more"):
        oracle.label(request("g4", "g", 4, [21]))


def test_a_cap_of_all_is_never_overrun_by_many_at_once(ledger_url):
    """Threads with connections of their own; each asks for 3 new samples until it is refused."""
    cap, bought, refused, failures = 20, [], [], []
    with Ledger(ledger_url) as ledger:
        set_limits(ledger, cap, None)

    def client(number):
        try:
            with Ledger(ledger_url) as ledger:
                oracle = Oracle(ledger, GroundTruthAnnotator(truth()), CLASSES)
                for round in range(3):
                    start = 9 * number + 3 * round
                    try:
                        bought.append(
                            oracle.label(request(f"{number}/{round}", f"c{number}", round, range(start, start + 3)))
                        )
                    except BudgetError:
                        refused.append(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failures
    with Ledger(ledger_url) as ledger:
        status = ledger.status()
    assert status["labels_bought"] == 3 * len(bought) == 18, "all that fits whole requests, and nothing more"
    assert len(refused) == 18 - 6
    assert status["labels_claimed"] == 0


def test_an_older_ledger_is_upgraded_in_place(tmp_path):
    """A ledger of version 1: without corrections, limits and votes."""
    path = tmp_path / "old.sqlite"
    with Ledger(path) as ledger:
        Oracle(ledger, GroundTruthAnnotator(truth()), CLASSES).label(request("e1", "e", 1, range(4)))
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for name in ("corrections", "limits", "votes"):
            metadata.tables[name].drop(connection)
        connection.exec_driver_sql("UPDATE schema_version SET version = 1")
    engine.dispose()
    open_engine(resolve_ledger_url(path)).dispose()
    with Ledger(path) as ledger:
        set_limits(ledger, 4, None)
        assert account(ledger).num_rows == 4


# -- the command line --------------------------------------------------------------------------------------------------


def test_commands_on_a_ledger(used, ledger_url, tmp_path):
    runner = CliRunner()

    def call(*words, code=0):
        result = runner.invoke(cli, ["oracle", *words], standalone_mode=False)
        if code:
            assert result.exception is not None
            return str(result.exception)
        assert result.exception is None, result.exception
        return result.output

    text = call("status", "--ledger", ledger_url)
    assert "15 labels for 7.5" in text
    rows = json.loads(call("status", "--ledger", ledger_url, "--json"))["experiments"]
    assert [(row["experiment"], row["labels_used"], row["labels_paid"], row["cost_paid"]) for row in rows] == [
        ("e", 10, 10, 5.0),
        ("f", 6, 5, 2.5),
    ]
    assert "5 labels" in call("export", "--ledger", ledger_url, "--experiment", "f", str(tmp_path / "f.csv"))
    Ledger(tmp_path / "new.sqlite").close()
    assert "5 new labels" in call("import", "--ledger", str(tmp_path / "new.sqlite"), str(tmp_path / "f.csv"))
    assert "go on with it" in call("backup", "--ledger", ledger_url, str(tmp_path / "copy.sqlite"))
    assert "exists already" in call("backup", "--ledger", ledger_url, str(tmp_path / "copy.sqlite"), code=2)
    assert "no such file" in call("status", "--ledger", str(tmp_path / "typo.sqlite"), code=2)
    assert not (tmp_path / "typo.sqlite").exists()
    assert "give one of them" in call("status", "--ledger", "a", "--name", "b", code=2)


def test_help_needs_neither_ray_nor_a_database():
    code = "import sys; import psp_ray.cli.main as m\ntry: m.main(['oracle', '--help'])\nexcept SystemExit: pass\n"
    code += "print([n for n in ('ray', 'torch', 'sqlalchemy') if n in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
