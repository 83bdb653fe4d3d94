"""Corrected accounts back into the ledger, the history of corrections, and caps that are changed one at a time."""

import math
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from psp_ray.cli.main import cli
from psp_ray.core.errors import OracleError
from psp_ray.labels import IGNORE, SKIP, Ledger, Oracle
from psp_ray.labels.accounting import LedgerAccounting, account, correction_history, read_account, write_account
from psp_ray.labels.imports import correct_labels
from tests.labels.clients import request
from tests.labels.conftest import CLASSES
from tests.labels.test_answers import Person

OTHER = ("north", "south")


@pytest.fixture
def asked(ledger_url):
    """e and f both use images 0..3, of which 3 was skipped; g asked about image 0 over other classes."""
    with Ledger(ledger_url) as ledger:
        person = Person({"s0": 0, "s1": 1, "s2": 1, "s3": SKIP}, cost=2.0)
        for name in ("e", "f"):
            Oracle(ledger, person, CLASSES).label(request(f"{name}1", name, 1, range(4)))
        Oracle(ledger, Person({"s0": 1}, cost=7.0), OTHER).label(request("g1", "g", 1, [0]))
        yield ledger


def edited(table, changes):
    """The account with other classes, as a person would type them."""
    names = [changes.get(h, old) for h, old in zip(table["content_hash"].to_pylist(), table["class"].to_pylist())]  # noqa: B905
    return table.set_column(table.column_names.index("class"), "class", pa.array(names))


def mine(ledger):
    return account(ledger).filter(pc.field("classes") == '["cat", "dog", "owl"]')


def test_an_edited_account_corrects_labels_for_everybody(asked, tmp_path):
    path = tmp_path / "account.csv"
    write_account(edited(mine(asked), {"hash1": "OWL", "hash2": "ignore", "hash3": "cat"}), path)
    before = datetime.now(UTC).timestamp()
    assert correct_labels(asked, read_account(path), "account.csv", "ann") == (3, 1)
    assert correct_labels(asked, read_account(path), "account.csv", "ann") == (0, 4), "again changes nothing"
    assert {row["content_hash"]: row["label"] for row in mine(asked).to_pylist()} == {
        "hash0": 0,
        "hash1": 2,
        "hash2": IGNORE,
        "hash3": 0,
    }
    for name in ("e", "f"):
        assert [use.label for use in asked.history(name)] == [0, 2, IGNORE, 0]
        answer = Oracle(asked, Person({}, cost=2.0), CLASSES).label(request(f"{name}2", name, 2, []))
        assert dict(zip(answer.corrected_ids, answer.corrected_labels.tolist(), strict=True)) == {
            "s1": 2,
            "s2": IGNORE,
            "s3": 0,
        }
    assert [use.label for use in asked.history("g")] == [1], "other classes, other labels"
    assert asked.cost_paid("e") == 8.0, "the skipped one is paid for now, at the annotator's price"

    correct_labels(asked, edited(mine(asked), {"hash1": "dog"}), "second", "bob")
    history = correction_history(asked).to_pylist()
    assert [(r["content_hash"], r["number"], r["previous_class"], r["class"], r["corrected_by"]) for r in history] == [
        ("hash1", 1, "dog", "owl", "ann"),
        ("hash2", 1, "dog", "ignore", "ann"),
        ("hash3", 1, "skip", "cat", "ann"),
        ("hash1", 2, "owl", "dog", "bob"),
    ]
    assert all(before - 5 <= row["corrected_at"].timestamp() <= before + 60 for row in history)


def test_what_is_wrong_in_an_edited_account_changes_nothing(asked):
    table = mine(asked)
    good = edited(table, {"hash0": "dog"})
    for bad, message in [
        (edited(table, {"hash0": "dog", "hash1": "owll"}), r"row 2: 'owll' is no class.*did you mean 'owl'"),
        (edited(table, {"hash0": "dog", "hash2": " "}), "row 3: class is empty"),
        (good.drop_columns(["annotator"]), "lacks column 'annotator'"),
        (pa.concat_tables([good, table.slice(0, 1)]), "row 5: image hash0 is there twice"),
        (good.set_column(good.column_names.index("classes"), "classes", pa.array(["cat"] * 4)), "not a JSON list"),
        (good.set_column(good.column_names.index("classes"), "classes", pa.array([["cat"]] * 4)), "holds list"),
        (
            good.set_column(0, "content_hash", pa.array(["hash0", None, "hash2", "hash3"])),
            "row 2: content_hash is empty",
        ),
        (
            good.set_column(0, "content_hash", pa.array(["hash0", "hash1", "hash2", "hash9"])),
            "nobody has bought a label of image hash9 from 'person'",
        ),
    ]:
        with pytest.raises(OracleError, match=message):
            correct_labels(asked, bad, "file", "ann")
    assert correction_history(asked).num_rows == 0
    assert mine(asked).equals(table)


def test_a_cap_stays_unless_it_is_named(ledger_url):
    with LedgerAccounting(ledger_url) as accounting:
        accounting.change_limits(20, 3.5)
        accounting.change_limits(30, None)
        assert accounting.limits() == (30, 3.5)
        accounting.change_limits(None, 4.0)
        assert accounting.limits() == (30, 4.0)
        accounting.change_limits(math.inf, None)
        assert accounting.limits() == (None, 4.0)
        accounting.change_limits(None, math.inf)
        assert accounting.limits() == (None, None)


def test_commands(asked, ledger_url, tmp_path):
    def call(*words):
        result = CliRunner().invoke(cli, ["oracle", *words], standalone_mode=False)
        assert result.exception is None, result.exception
        return result.output

    call("export", "--ledger", ledger_url, "--experiment", "e", str(tmp_path / "e.csv"))
    text = (tmp_path / "e.csv").read_text()
    assert '"hash1","dog"' in text
    (tmp_path / "e.csv").write_text(text.replace('"hash1","dog"', '"hash1","cat"'))
    assert call("correct", "--ledger", ledger_url, "--by", "ann", str(tmp_path / "e.csv")) == (
        "corrected 1 of 4 labels, the others were so already\n"
    )
    assert "1 correction in" in call("export", "--ledger", ledger_url, "--corrections", str(tmp_path / "history.csv"))
    assert '"hash1",1,"dog","cat","person","ann"' in (tmp_path / "history.csv").read_text()

    lines = call("account", "--ledger", ledger_url).splitlines()
    assert [line.split()[:5] for line in lines[1:]] == [["e", "1", "person", "4", "6"], ["g", "1", "person", "1", "7"]]
    each = call("account", "--ledger", ledger_url, "--experiment", "e", "--each").splitlines()
    assert [line.split()[:6] for line in each[1:]] == [
        ["s0", "cat", "person", "2", "e", "1"],
        ["s1", "cat", "person", "2", "e", "1"],
        ["s2", "dog", "person", "2", "e", "1"],
        ["s3", "skip", "person", "0", "e", "1"],
    ]
