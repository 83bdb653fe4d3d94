"""Answers as people and spreadsheets leave them: each reaches the image it was typed for, or a line says why not."""

import codecs
import csv
import io

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from psp_ray.core.errors import OracleError
from psp_ray.labels import AnnotatorInput, AwaitingLabels, Ledger, Oracle, make_annotator
from psp_ray.labels.service import LabelRequest

NAMES = ["cat", "dog", 'O\'Neil; "quoted", 1']
SCHEMA = pa.schema([("sample_id", pa.string()), ("path", pa.string()), ("image", pa.binary())])


class Run:
    """A by-file run over samples without pictures; every call is a new process's, as far as the oracle can tell."""

    def __init__(self, folder, pool):
        self.folder, self.pool = folder, list(pool)
        self.ledger = Ledger(folder / "ledger.sqlite")

    def oracle(self, pool=None):
        names = self.pool if pool is None else pool
        table = pa.Table.from_pylist([{"sample_id": name, "path": None, "image": None} for name in names], SCHEMA)
        hashes = {name: f"h{name}" for name in names}
        return Oracle(
            self.ledger,
            make_annotator("file", AnnotatorInput(NAMES, pool=table, folder=self.folder, content_hashes=hashes)),
            NAMES,
        )

    def ask(self, number, *ids, pool=None):
        hashes = [f"h{sample}" for sample in ids]
        request = LabelRequest(f"run/round-{number:03d}", "run", number, ids, hashes, replaces=True)
        return self.oracle(pool).label(request).labels.tolist()

    def table(self, number):
        return self.folder / f"round_{number:02d}" / "query.csv"

    def rows(self, number):
        with open(self.table(number), newline="") as file:
            return list(csv.DictReader(file))

    def told(self):
        return {use.sample_id: use.label for use in self.ledger.history("run")}


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path, ["007", "7", "a b.jpg", "é.png", "12", "c"])
    yield made
    made.ledger.close()


def saved(rows, delimiter=",", ids=lambda text: text):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({**row, "sample_id": ids(row["sample_id"])} for row in rows)
    return out.getvalue()


def spreadsheet(text):
    """What a spreadsheet shows of a cell: numbers as numbers."""
    return str(int(text)) if text.isdecimal() else text


@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    asked=st.lists(st.sampled_from(["007", "a b.jpg", "é.png", "12", "c", "0.50"]), min_size=1, unique=True),
    words=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    form=st.sampled_from(["utf-8", "bom", "utf-16-le", "utf-16-be"]),
    blanks=st.booleans(),
    sep=st.booleans(),
)
def test_whatever_a_spreadsheet_saves_is_the_answer(tmp_path_factory, asked, words, delimiter, form, blanks, sep):
    """The pool holds every id that a spreadsheet makes of another one's, so that a mistake would be a wrong label."""
    run = Run(tmp_path_factory.mktemp("typed"), ["007", "7", "a b.jpg", "é.png", "12", "012", "c", "0.50", "0.5"])
    with pytest.raises(AwaitingLabels):
        run.ask(1, *asked)
    rows = run.rows(1)
    expected = []
    for row, word in zip(rows, words, strict=False):
        row["label"] = f"  {NAMES[word]} " if blanks else NAMES[word]
        expected.append(word)
    text = saved(rows, delimiter, lambda name: {"0.50": "0.5"}.get(name, spreadsheet(name)) + " " * blanks)
    text = f"sep={delimiter}\r\n{text}" if sep else text
    marks = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE, "bom": codecs.BOM_UTF8}
    data = marks.get(form, b"") + text.encode("utf-8" if form == "bom" else form)
    run.table(1).write_bytes(data)
    assert run.ask(1, *asked) == expected
    assert run.told() == dict(zip(asked, expected, strict=True))
    run.ledger.close()


def test_a_line_that_was_put_back_is_meant_before_another_sample(run):
    with pytest.raises(AwaitingLabels):
        run.ask(1, "c", "007")
    run.table(1).write_text("sample_id,label\nc,cat\n")
    with pytest.raises(AwaitingLabels):
        run.ask(1, "c", "12", "007", pool=["c", "007", "7", "12", "012"])
    assert {row["sample_id"] for row in run.rows(1)} == {"c", "12", "007"}
    run.table(1).write_text(run.table(1).read_text().replace("007,", "7,dog").replace("12,", "12.0,cat"))
    assert run.ask(1, "c", "12", "007", pool=["c", "007", "7", "12", "012"]) == [0, 0, 1]


def test_two_samples_in_one_cell_s_clothes_are_told(run):
    with pytest.raises(AwaitingLabels):
        run.ask(1, "007", "7")
    run.table(1).write_text("sample_id,label\n7,cat\n7,dog\n")
    with pytest.raises(OracleError, match=r"query\.csv:3: '7' has another label on line 2"):
        run.ask(1, "007", "7")
    assert run.told() == {}


@pytest.mark.parametrize("where", ["older table", "corrections"])
def test_an_answer_counts_in_whichever_table_it_was_typed(run, where):
    """An image that an older table asked for, too, or that corrections.csv names, before its answer is taken up."""
    with pytest.raises(AwaitingLabels):
        run.ask(1, "c", "12")
    run.table(1).write_text("sample_id,label\nc,cat\n12,\n")
    assert run.ask(1, "c", pool=["c", "a b.jpg"]) == [0], "12 was away for a while"
    with pytest.raises(AwaitingLabels):
        run.ask(2, "12", "a b.jpg")
    if where == "older table":
        run.table(1).write_text("sample_id,label\nc,cat\n12,dog\n")
    else:
        (run.folder / "corrections.csv").write_text("sample_id;label\n12;dog\n")
        run.table(2).write_text(run.table(2).read_text().replace("12,,,", "12,,,cat"))
    with pytest.raises(AwaitingLabels, match="1 of 2"):
        run.ask(2, "12", "a b.jpg")
    run.table(2).write_text(run.table(2).read_text().replace("a b.jpg,,,", "a b.jpg,,,cat"))
    assert run.ask(2, "12", "a b.jpg") == [1, 0]
    assert run.oracle().revise("run") == 0
    assert run.ledger.corrections() == []


def test_what_nobody_asks_for_is_bought_once_and_told_of_before(run):
    with pytest.raises(AwaitingLabels):
        run.ask(1, "c", "12")
    run.table(1).write_text("sample_id,label\nc,cat\n12,skip\n")
    assert run.ask(1, "c") == [0]
    assert run.told() == {"c": 0, "12": -1}
    (run.folder / "corrections.csv").write_text('sample_id,label\n" 7 ",dog\n')
    assert run.oracle().volunteered("run") == 1
    assert run.ask(1, "c") == [0]
    assert run.oracle().volunteered("run") == 0
    assert run.told() == {"c": 0, "12": -1, "7": 1}
    assert run.ask(1, "c") == [0]
    assert run.ledger.labels_paid("run") == 2
    (run.folder / "corrections.csv").write_text("sample_id,label\nwho.jpg,dog\n")
    for act in (lambda: run.ask(2, "007"), lambda: run.oracle().volunteered("run")):
        with pytest.raises(OracleError, match=r"corrections\.csv:2: .*who\.jpg"):
            act()
