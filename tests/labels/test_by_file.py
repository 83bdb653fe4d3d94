"""Labels by file: whose changes count, and in which order rounds are taken."""

import csv
from contextlib import suppress
from random import Random

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
from psp_ray.labels.desk_files import take_up
from psp_ray.labels.imports import correct_labels
from psp_ray.labels.label_studio import take_in
from psp_ray.labels.query import query_files
from psp_ray.labels.service import LabelRequest

NAMES = ["cat", "dog"]


def pictures(folder, count):
    """The manifest of a pool of small images."""
    rows = []
    for i in range(count):
        path = folder / f"{i}.png"
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(path)
        rows.append({"sample_id": path.name, "path": str(path), "image": None})
    schema = pa.schema([("sample_id", pa.string()), ("path", pa.string()), ("image", pa.binary())])
    return pa.Table.from_pylist(rows, schema)


@pytest.fixture
def manifest(tmp_path):
    return pictures(tmp_path, 4)


class Run:
    """A by-file run in `folder`; every call is a new process's, as far as the oracle can tell."""

    def __init__(self, folder, ledger, manifest):
        self.folder, self.ledger, self.manifest, self.hashes = folder, ledger, manifest, {}
        folder.mkdir()

    def given(self):
        return AnnotatorInput(NAMES, pool=self.manifest, folder=self.folder, content_hashes=self.hashes)

    def oracle(self):
        annotator = make_annotator("file", self.given())
        return Oracle(self.ledger, annotator, NAMES)

    def ask(self, number, *ids):
        name = self.folder.name
        hashes = [f"h{sample}" for sample in ids]
        request = LabelRequest(f"{name}/round-{number:03d}", name, number, ids, hashes, replaces=True)
        return self.oracle().label(request).labels.tolist()

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


@pytest.mark.parametrize("seed", range(4))
def test_what_is_asked_now_is_what_is_open_and_shown_and_no_answer_is_lost(tmp_path, seed):
    """Query sets of two rounds that are chosen anew, with some answers typed into each."""
    random = Random(seed)
    folder = tmp_path
    pool = pictures(folder, 9)
    hashes = {name: f"h{name}" for name in pool["sample_id"].to_pylist()}
    typed, last = {}, 0
    with Ledger(folder / "ledger.sqlite") as ledger:
        for _ in range(5):
            number, asked = random.randint(1, 2), random.sample(range(9), random.randint(1, 6))
            answers = {i: random.choice(["cat", "dog", "skip"]) for i in random.sample(range(9), 3)}
            last = max(last, number)
            given = AnnotatorInput(NAMES, pool=pool, folder=folder, content_hashes=hashes)
            ids = [f"{i}.png" for i in asked]
            request = LabelRequest(f"r/round-{number}", "r", number, ids, [hashes[i] for i in ids], replaces=True)
            waits = True
            with suppress(AwaitingLabels):
                Oracle(ledger, make_annotator("file", given), NAMES).label(request)
                waits = False
            assert typed == {use.sample_id: use.label for use in ledger.history("r")} | {
                name: typed[name] for name in ids if name in typed
            }
            for later in range(number, last + 1 if waits else number + 1):
                if (folder / f"round_{later:02d}" / "query.csv").exists():
                    shows_what_it_asks(folder / f"round_{later:02d}", ids if later == number else [], typed)
            file = folder / f"round_{number:02d}" / "query.csv"
            rows = rows_of(file) if file.exists() else []
            for row in rows:
                said = answers.get(int(row["sample_id"][0]))
                if said is not None and not row["label"]:
                    row["label"] = said
                    typed[row["sample_id"]] = {"cat": 0, "dog": 1, "skip": -1}[said]
            save(file, rows)


def shows_what_it_asks(folder, asked, typed):
    """Open lines, their pictures and the contact sheet of a round that asks for the samples `asked` now."""
    rows = rows_of(folder / "query.csv")
    there = {row["sample_id"] for row in rows if not row["label"]}
    assert set(asked) - typed.keys() <= there <= set(asked)
    assert {row["sample_id"] for row in rows if row["label"]} <= typed.keys()
    assert len({row["image"] for row in rows}) == len(rows)
    for row in rows:
        assert (folder / row["image"]).resolve().name == row["sample_id"]
    assert {f"images/{path.name}" for path in (folder / "images").glob("*")} == {row["image"] for row in rows}
    shown = {row["sample_id"] for row in rows} & set(asked)
    assert (folder / "contact_sheet.png").exists() or not shown


def test_a_query_set_that_is_chosen_anew_is_laid_out_anew(tmp_path, ledger):
    """Two images stay, one of them answered; two go, one of them answered; two come."""
    pool = pictures(tmp_path, 6)
    run = Run(tmp_path / "run", ledger, pool)
    run.hashes = {name: f"h{name}" for name in pool["sample_id"].to_pylist()}
    with pytest.raises(AwaitingLabels):
        run.ask(1, "0.png", "1.png", "2.png", "3.png")
    run.fill_in(1, i0="cat", i2="dog")
    with pytest.raises(AwaitingLabels, match="3 of 4"):
        run.ask(1, "0.png", "1.png", "4.png", "5.png")
    folder = run.folder / "round_01"
    rows = {row["sample_id"]: row for row in rows_of(folder / "query.csv")}
    assert {name: row["label"] for name, row in rows.items()} == {
        "0.png": "cat",
        "1.png": "",
        "2.png": "dog",
        "4.png": "",
        "5.png": "",
    }
    assert [rows[name]["image"] for name in ("4.png", "5.png")] == ["images/005_4.png", "images/006_5.png"]
    assert not (folder / "images" / "004_3.png").is_symlink()
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.width == 4 * 168 + 8, "what is asked, with the numbers that the files have"
    (folder / "images" / "005_4.png").unlink()
    with pytest.raises(AwaitingLabels, match="3 of 4"):
        run.ask(1, "0.png", "1.png", "4.png", "5.png")
    rows = {row["sample_id"]: row for row in rows_of(folder / "query.csv")}
    assert (folder / rows["4.png"]["image"]).resolve() == tmp_path / "4.png", "a picture that was lost is back"
    # Somebody's spreadsheet still had the old table: what is typed there counts, and its empty lines go again.
    save(folder / "query.csv", [{"sample_id": f"{i}.png", "label": "cat" if i == 3 else ""} for i in range(4)])
    with pytest.raises(AwaitingLabels, match="3 of 4"):
        run.ask(1, "0.png", "1.png", "4.png", "5.png")
    rows = {row["sample_id"]: row["label"] for row in rows_of(folder / "query.csv")}
    assert rows == {"0.png": "", "1.png": "", "3.png": "cat", "4.png": "", "5.png": ""}
    assert said(ledger) == {"h0.png": "cat", "h2.png": "dog", "h3.png": "cat"}


def test_an_answer_from_elsewhere_to_what_is_not_asked_any_more_counts(tmp_path, ledger):
    """From Label Studio, and from the table's copy on storage, where the line still is."""
    run = Run(tmp_path / "run", ledger, pictures(tmp_path, 4))
    run.hashes = {f"{i}.png": f"h{i}.png" for i in range(4)}
    for asked in (["0.png", "1.png", "2.png"], ["0.png", "3.png"]):
        with pytest.raises(AwaitingLabels):
            run.ask(1, *asked)
    tasks = [
        {"id": 1, "data": {"sample_id": "1.png"}, "annotations": [{"completed_by": 1, "result": [chosen("dog")]}]},
    ]
    assert "1 annotation" in take_in(run.folder, NAMES, tasks, "export.json")[0]
    before = {"0.png": "", "1.png": "", "2.png": ""}
    assert take_up(run.folder, "round_01/query.csv", {"2.png": "cat"}, [before], "desk") == 1
    with pytest.raises(OracleError, match="doesn't ask for"):
        take_up(run.folder, "round_01/query.csv", {"9.png": "cat"}, [before], "desk")
    with pytest.raises(AwaitingLabels, match="2 of 2"):
        run.ask(1, "0.png", "3.png")
    assert said(ledger) == {"h1.png": "dog", "h2.png": "cat"}


def chosen(name):
    return {"from_name": "class", "to_name": "image", "type": "choices", "value": {"choices": [name]}}


def rows_of(file):
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


def save(file, rows):
    if rows:
        with open(file, "w", newline="") as text:
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


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
