"""Labels by file: whose changes count, and in which order rounds are taken."""

import csv

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from psp_ray.core.errors import OracleError
from psp_ray.core.names import Names
from psp_ray.labels import AnnotatorInput, AwaitingLabels, Ledger, Oracle, make_annotator, query
from psp_ray.labels.accounting import account
from psp_ray.labels.annotators.file import TAKEN
from psp_ray.labels.imports import correct_labels
from psp_ray.labels.query import query_files
from psp_ray.labels.service import LabelRequest

NAMES = ["cat", "dog"]


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(path)
        rows.append({"sample_id": path.name, "path": str(path), "image": None})
    schema = pa.schema([("sample_id", pa.string()), ("path", pa.string()), ("image", pa.binary())])
    return pa.Table.from_pylist(rows, schema)


class Run:
    """A by-file run in `folder`; every call is a new process's, as far as the oracle can tell."""

    def __init__(self, folder, ledger, manifest):
        self.folder, self.ledger, self.manifest = folder, ledger, manifest
        folder.mkdir()

    def oracle(self):
        annotator = make_annotator("file", AnnotatorInput(NAMES, pool=self.manifest, folder=self.folder))
        return Oracle(self.ledger, annotator, NAMES)

    def ask(self, number, *ids):
        name = self.folder.name
        hashes = [f"h{sample}" for sample in ids]
        return (
            self.oracle().label(LabelRequest(f"{name}/round-{number:03d}", name, number, ids, hashes)).labels.tolist()
        )

    def fill_in(self, number, **answers):
        file = self.folder / f"round_{number:02d}" / "query.csv"
        with open(file) as text:
            rows = list(csv.DictReader(text))
        for row in rows:
            row["label"] = answers.get("i" + row["sample_id"][0], row["label"])
        with open(file, "w") as text:
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def answer(self, number, *ids, **answers):
        with pytest.raises(AwaitingLabels):
            self.ask(number, *ids)
        self.fill_in(number, **answers)
        return self.ask(number, *ids)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


def said(ledger):
    return {row["content_hash"]: row["class"] for row in account(ledger).to_pylist()}


def changes(ledger):
    return [(c.content_hash, c.previous, c.label) for c in ledger.corrections()]


def test_a_correction_of_the_ledger_outlasts_files_that_did_not_change(tmp_path, ledger, manifest):
    run = Run(tmp_path / "run", ledger, manifest)
    assert run.answer(1, "0.png", "1.png", i0="cat", i1="cat") == [0, 0]
    table = account(ledger)
    edited = table.set_column(table.column_names.index("class"), "class", pa.array(["dog", "cat"]))
    assert correct_labels(ledger, edited, "account.csv", "ann") == (1, 1)
    assert run.oracle().revise("run") == 0
    assert run.answer(2, "2.png", i2="cat") == [0]
    assert said(ledger)["h0.png"] == "dog"
    # What is changed in the file afterwards counts, once.
    run.fill_in(1, i0="dog", i1="dog")
    assert run.oracle().revise("run") == 1
    run.fill_in(1, i0="cat")
    assert run.oracle().revise("run") == 1
    assert run.oracle().revise("run") == 0
    assert changes(ledger) == [("h0.png", 0, 1), ("h1.png", 0, 1), ("h0.png", 1, 0)]


def test_two_runs_on_one_ledger_don_t_take_turns(tmp_path, ledger, manifest):
    one, other = (Run(tmp_path / name, ledger, manifest) for name in ("one", "other"))
    with pytest.raises(AwaitingLabels):
        other.ask(1, "0.png", "1.png")
    one.answer(1, "0.png", i0="cat")
    other.fill_in(1, i0="dog", i1="dog")
    assert other.ask(1, "0.png", "1.png") == [0, 1], "bought by the other run in the meantime"
    (other.folder / "corrections.csv").write_text("sample_id,label\n0.png,dog\n")
    for _ in range(3):
        one.oracle().revise("one")
        other.oracle().revise("other")
    assert changes(ledger) == [("h0.png", 0, 1)]


def test_a_change_before_the_round_is_complete_and_one_that_was_cut_off(tmp_path, ledger, manifest):
    run = Run(tmp_path / "run", ledger, manifest)
    with pytest.raises(AwaitingLabels):
        run.answer(1, "0.png", "1.png", i0="cat")
    run.fill_in(1, i0="dog", i1="cat")
    assert run.ask(1, "0.png", "1.png") == [0, 0], "0.png is bought already"
    oracle = run.oracle()
    told = {"0.png": 0, "1.png": 0}
    assert oracle.annotator.revisions(told) == {"0.png": 1}
    # Killed before the ledger had it: it is said again.
    assert run.oracle().revise("run") == 1
    assert run.oracle().revise("run") == 0


def test_an_unreadable_memory_is_named(tmp_path, ledger, manifest):
    run = Run(tmp_path / "run", ledger, manifest)
    run.answer(1, "0.png", i0="cat")
    (run.folder / TAKEN).write_text("[")
    with pytest.raises(OracleError, match=TAKEN):
        run.oracle().revise("run")


def test_rounds_follow_their_numbers(tmp_path):
    for number in (9, 99, 100, 1000):
        (tmp_path / f"round_{number:02d}").mkdir()
        (tmp_path / f"round_{number:02d}" / "query.csv").write_text("")
    assert [file.parent.name for file in query_files(tmp_path)] == ["round_09", "round_99", "round_100", "round_1000"]


NAMED = st.lists(st.sampled_from(["007", "7", "7.0", "70", "a", " a", "é", "é", "b-1", '"b-1"']), unique=True)


@given(NAMED, NAMED, st.sampled_from(["7", "007", "0007", "7,0", "a ", "é", "é", "b-1", "“b-1”", "c", "\ud800"]))
def test_a_cell_means_the_same_sample_of_many_names_as_of_few(names, rest, cell):
    few = query.SampleNames(sorted(names), query.SampleNames(sorted(rest)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(query, "MANY", 0)
        many = query.SampleNames(Names.of(sorted(names)), query.SampleNames(Names.of(sorted(rest))))
        assert many.find(cell) == few.find(cell)
        assert [name in many for name in [*names, *rest, cell]] == [name in few for name in [*names, *rest, cell]]
