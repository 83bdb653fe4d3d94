"""What `psp-ray explain` tells of while answers come in, and where files of a round that waits are gone."""

from __future__ import annotations

import csv
import shutil

import pytest
from click.testing import CliRunner

from psp_ray.cli.explain import explain as explain_command
from psp_ray.core.errors import OutputError
from psp_ray.labels.answer_book import AnswerBook, Said
from psp_ray.labels.layout import note_shown
from psp_ray.labels.ledger import Ledger
from psp_ray.run.asked import read_asked
from psp_ray.run.command import run
from psp_ray.run.continuing import continued
from psp_ray.run.events import Silent
from psp_ray.run.explaining import explain
from psp_ray.run.folder import read_run
from psp_ray.run.looked_at import look_at
from psp_ray.run.resolve import resolve
from tests.helpers import Hearing


def fill_in(out, number, count):
    """Answer the first `count` images of a round, each with its folder's name; returns all names in the order asked."""
    table = out / f"round_{number:02d}" / "query.csv"
    rows = list(csv.DictReader(table.open(newline="")))
    with table.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        for i, row in enumerate(rows):
            writer.writerow({**row, "label": row["sample_id"].split("/")[0] if i < count else ""})
    return [row["sample_id"] for row in rows]


@pytest.fixture(scope="module")
def waiting(two_rounds, tmp_path_factory):
    """A run whose third round waits."""
    out = tmp_path_factory.mktemp("told") / "run"
    given = {**two_rounds, "rounds": 4, "labels_per_round": 4, "strategy": "random", "self_training": "none"}
    run(resolve({**given, "oracle": "file", "out": str(out)}), Silent())
    for number in (1, 2):
        fill_in(out, number, 4)
        run(continued(out, {}), Silent(), continuing=True)
    return out


@pytest.fixture
def copied(waiting, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(waiting, out)
    return out


def said(out, *words):
    done = CliRunner().invoke(explain_command, [str(out), *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_answers_are_told_as_they_come_in(copied):
    names = fill_in(copied, 3, 3)
    assert "4 images that are being asked about now" in said(copied, "--round", "3")
    run(continued(copied, {}), Silent(), continuing=True)
    assert "round 3 of 4, 4 images, 1 of which is still being asked about" in said(copied, "--round", "3")
    answers = [name.split("/")[0] for name in names]
    assert [one["answer"] for one in explain(copied, 3).as_json()["picks"]] == [*answers[:3], None]
    one = said(copied, "--sample-id", names[0])
    assert one.startswith(f"{names[0]}: asked in round 3 of 4")
    assert f"it turned out to be {answers[0]}" in one
    assert "nobody has said yet what it is" in said(copied, "--sample-id", names[3])
    digest = next(row["content_hash"] for row in read_asked(copied)[1] if row["sample_id"] == names[3])
    with Ledger(copied / "ledger.sqlite") as ledger:
        AnswerBook(ledger, read_run(copied).experiment).write("ann", [Said(digest, -1)], "1")
    assert f"4 images, all answered; psp-ray continue {copied} learns from them" in said(copied, "--round", "3")
    assert explain(copied, 3).picks[3].pick.answer == "skip"
    (copied / "ledger.sqlite").unlink()
    assert "which images are answered already (ledger" in said(copied, "--round", "3")
    assert not (copied / "ledger.sqlite").exists()


def test_what_the_query_set_did_not_ask_for_is_told_as_what_it_is(copied):
    """An answer in corrections.csv, and one to an image that the round had asked for before it was chosen anew."""
    asked = set(fill_in(copied, 3, 4))
    told = {row["sample_id"] for number in (1, 2) for row in rows_of(copied / f"round_{number:02d}" / "query.csv")}
    left = sorted(set(look_at(copied).data.sample_ids) - asked - told)
    table = copied / "round_03" / "query.csv"
    table.write_text(table.read_text() + f"{left[0]},,,red\n")
    note_shown(table.parent, {left[0]: None})
    (copied / "corrections.csv").write_text(f"sample_id,label\n{left[1]},red\n{left[2]},skip\n")
    events = Hearing()
    run(continued(copied, {}), events, continuing=True)
    assert f"1 answer to an earlier query set of round 3 is taken as known: {left[0]}" in events.heard
    many = f"2 answers that nobody asked for (corrections.csv) are taken as known: {left[1]}, {left[2]}"
    assert many in events.heard
    shown = said(copied, "--round", "3")
    assert shown.startswith(f"{copied}: round 3 of 4, 7 images, 3 of which were not asked about")
    assert "Not said" not in shown.replace("Not said: how sure all evidence together was (this run has no", "")
    by = {one["sample_id"]: one["by"] for one in explain(copied, 3).as_json()["picks"]}
    assert by == dict.fromkeys(asked, "chance") | {left[0]: "earlier", left[1]: "unasked", left[2]: "unasked"}
    one = said(copied, "--sample-id", left[1])
    assert one.startswith(
        f"{left[1]}: known from round 3 of 4 on, which did not ask about it (random)\n  - given unasked"
    )
    assert "Not said" not in one
    rows = [{key: int(row[key]) for key in ADDING_UP} for row in rows_of(copied / "rounds.csv")]
    assert rows == [dict(zip(ADDING_UP, numbers, strict=True)) for numbers in ((4, 0, 4), (4, 0, 8), (4, 2, 14))]


ADDING_UP = ("labels_new", "labels_unasked", "labels_total")


def rows_of(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_an_initial_label_was_known_before(two_rounds, tmp_path):
    (tmp_path / "known.csv").write_text("sample_id,label\nred/03.png,red\n")
    given = {**two_rounds, "rounds": 1, "strategy": "random", "self_training": "none"}
    out = tmp_path / "run"
    run(resolve({**given, "initial_labels": str(tmp_path / "known.csv"), "out": str(out)}), Silent())
    with pytest.raises(OutputError, match=r"red/03\.png: was known before the first round \(red\), so that nobody"):
        explain(out, sample_id="red/03.png")


@pytest.mark.parametrize(("content", "wrong"), [(None, "is missing"), (b"", "is damaged"), (b"PAR1", "is damaged")])
def test_without_the_table_of_a_waiting_round_the_others_are_told(copied, waiting, content, wrong):
    file = copied / "asked.parquet"
    file.unlink() if content is None else file.write_bytes(content)
    table = said(copied)
    assert table.startswith(f"{copied}: round 2 of 4, 4 images (")
    why = f"{file} {wrong}, which says why images of round 3 are asked about; psp-ray continue {copied} writes it anew"
    assert f"Not said: anything of round 3 ({why}).\n" in table
    name = fill_in(copied, 2, 4)[0]
    assert said(copied, "--sample-id", name).startswith(f"{name}: asked in round 2")
    with pytest.raises(OutputError) as raised:
        explain(copied, 3)
    assert str(raised.value) == f"--round 3: it waits for labels, but {why}"
    with pytest.raises(OutputError, match="rounds 1 to 2 are done and round 3 is being asked about in"):
        explain(copied, 4)
    run(continued(copied, {}), Silent(), continuing=True)
    assert file.read_bytes() == (waiting / "asked.parquet").read_bytes()


def test_a_round_whose_checkpoint_is_lost_is_named(copied):
    shutil.rmtree(copied / "checkpoints" / "round_002")
    for number in (2, 3):
        with pytest.raises(
            OutputError, match=rf"^--round {number}: the checkpoint of round 2 is lost; psp-ray continue"
        ):
            explain(copied, number)
    assert "Not said: anything of round 2 (the checkpoint of round 2 is lost" in said(copied)
    shutil.rmtree(copied / "checkpoints" / "round_001")
    with pytest.raises(OutputError, match=r"^the checkpoints of rounds 1 to 2 are lost; .* does them again"):
        explain(copied)


def test_for_another_image_it_says_how_to_list_those_that_were_asked(copied):
    for sample_id, said_of_it in (("nope", "asked about no such image"), (unasked(copied), "never asked about")):
        with pytest.raises(OutputError, match=said_of_it) as raised:
            explain(copied, sample_id=sample_id)
        rounds = "rounds 1 to 2 are done and round 3 is being asked about"
        assert str(raised.value).endswith(f"; psp-ray explain {copied} --round N lists those of a round ({rounds})")


def test_before_the_first_round_is_done_that_is_what_is_asked_now(two_rounds, tmp_path):
    out = tmp_path / "run"
    run(resolve({**two_rounds, "strategy": "random", "self_training": "none", "oracle": "file", "out": str(out)}))
    with pytest.raises(OutputError, match="no such image") as raised:
        explain(out, sample_id="nope")
    assert str(raised.value).endswith("--round N lists those of a round (round 1 is being asked about)")
    (out / "asked.parquet").unlink()
    with pytest.raises(OutputError, match=r"asked.parquet is missing, which says why images of round 1"):
        explain(out)


def unasked(out):
    """An image of the pool that was not asked about."""
    asked = {name for number in (1, 2, 3) for name in fill_in(out, number, 0)}
    folder = min(asked).split("/")[0]
    return next(name for i in range(20) if (name := f"{folder}/{i:02d}.png") not in asked)
