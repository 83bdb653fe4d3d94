"""`report.html`: what stands in it is what the run's files say, and no name becomes anything but text."""

from __future__ import annotations

import csv
import html.parser
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console
from sklearn.metrics import confusion_matrix

from psp_ray.cli.explain import explain as explain_command
from psp_ray.core.errors import OutputError
from psp_ray.core.files import read_json
from psp_ray.core.sealed import DamagedFile
from psp_ray.neighbors.graph import knn_graph
from psp_ray.report.progress import Reporter
from psp_ray.run.command import run
from psp_ray.run.events import Silent
from psp_ray.run.explaining import explain
from psp_ray.run.finish import pool_names
from psp_ray.run.looked_at import look_at
from psp_ray.run.page import KeptPage, make_page, write_page
from psp_ray.run.page_parts import Pictures
from psp_ray.run.picks import write_picks
from psp_ray.run.references import run_zero_shot
from psp_ray.run.resolve import resolve
from psp_ray.run.watching import Watched
from tests.conftest import COLORS, paint

NASTY = '<b onclick=alert(1)>&"$x^2$'


class Parsed(html.parser.HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_settings):
    """A run of three rounds on class folders one of which has a name that would like to be HTML."""
    home = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(1)
    for name, color in zip((NASTY, "green", "blue"), COLORS.values(), strict=True):
        for number in range(20):
            paint(home / "pictures" / name / f"{number:02d}.png", color, rng)
    given = {
        **tiny_settings,
        "dataset": str(home / "pictures"),
        "rounds": 3,
        "labels_per_round": 4,
        "update_steps": 2,
        "out": str(home / "run"),
    }
    run(resolve(given), Silent(), watchers=[KeptPage()])
    return home / "run"


def test_nothing_in_a_name_becomes_html(finished):
    page = Parsed((finished / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert sum(NASTY in words for words in page.words) > 3
    loads = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert loads
    assert all(value.startswith(("data:image/", "#")) for value in loads)


def test_the_page_says_what_the_files_say(finished):
    summary = read_json(finished / "summary.json")
    page = make_page(look_at(finished), Pictures())
    assert f"{100 * summary['final_accuracy']:.1f} % of the test images" in page.answer
    assert "12 labels" in page.answer
    assert [point.labels for point in page.curve] == [0, 4, 8, 12]
    assert page.curve[0].tested[0] == summary["zero_shot_accuracy"]
    assert all(low <= value <= high for value, low, high in (point.tested for point in page.curve))
    counts = np.array(page.confusion.counts)
    assert counts.sum() == 12  # a fifth of 60 images is the test set
    assert counts.trace() / 12 == pytest.approx(summary["final_accuracy"])
    assert [row.tested.right for row in page.classes] == counts.diagonal().tolist()
    assert sum(row.labels for row in page.classes) == 12
    assert page.change.looked == 42
    assert page.change.changed == pytest.approx(42 * summary["rounds"][-1]["predictions_changed"])
    assert sum(count for *_, count in page.change.moves) == page.change.changed


def test_picks_are_the_labels_with_what_was_thought_of_them(finished):
    picks, labels = (pq.read_table(finished / f"{name}.parquet").to_pandas() for name in ("picks", "labels"))
    assert picks[["sample_id", "label", "round"]].equals(labels[["sample_id", "label", "round"]])
    assert picks.unlabeled.tolist() == [42] * 4 + [38] * 4 + [34] * 4
    assert (picks.probability >= picks.second_probability).all()
    assert picks.pseudo_label[:4].isna().all()  # before the first round nothing had a pseudo-label
    cards = [card for item in make_page(look_at(finished), Pictures()).picked for card in item.picks]
    assert sorted(card.name for card in cards) == sorted(labels.sample_id)
    assert all(card.picture.startswith("data:image/jpeg;base64,") for card in cards)
    judged = picks[picks.pseudo_label.notna()]
    told = make_page(look_at(finished), Pictures()).pseudo
    assert sum(share.n for _, share in told) == len(judged)
    assert sum(share.right for _, share in told) == (judged.pseudo_label == judged.label).sum()


def test_pseudo_labels_of_all_rounds_survive_a_resumed_run(finished, tmp_path, tiny_model):
    """The same picks where the run was stopped in between, though a checkpoint knows the last rounds alone."""
    from psp_ray.report.round_report import Next

    class Stop(Reporter):
        def after_round(self, report):
            return Next.STOP if report.round == 1 else Next.CONTINUE

    import yaml

    given = yaml.safe_load((finished / "config.yaml").read_text()) | {"out": str(tmp_path / "run"), "resume": True}
    run(resolve(given), Stop(3, Console(quiet=True)))
    run(resolve(given), Silent())
    one, other = (pq.read_table(folder / "picks.parquet") for folder in (finished, tmp_path / "run"))
    assert one.equals(other)


@pytest.mark.parametrize("how", ["gone", "emptied", "cut", "flipped"])
def test_whoever_looks_does_without_the_file_of_picks(finished, tmp_path, how):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    file = folder / "picks.parquet"
    data = bytearray(file.read_bytes())
    data[40] ^= 4
    file.write_bytes({"emptied": b"", "cut": data[: len(data) // 2]}.get(how, data))
    if how == "gone":
        file.unlink()
    assert look_at(folder).picks.equals(pq.read_table(finished / "picks.parquet"))


@pytest.mark.parametrize("how", ["whole", "cut", "another table"])
def test_what_older_checkpoints_do_not_say_is_taken_over_from_the_file(finished, tmp_path, how):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    found, file = look_at(folder), folder / "picks.parquet"
    older = np.full(len(found.state.asked), np.nan)
    grounds = replace(found.state.grounds, pseudo_class=older, pseudo_confidence=older)
    picks = pq.read_table(file)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif how == "another table":
        pq.write_table(picks.drop_columns(["round"]), file)
    said: list[str] = []
    write_picks(folder, replace(found.state, grounds=grounds), pool_names(found.data), said.append)
    again = pq.read_table(file)
    if how == "whole":
        assert (said, again.equals(picks)) == ([], True)
        return
    assert len(said) == 1
    assert str(file) in said[0]
    kept = [name for name in picks.column_names if not name.startswith("pseudo_")]
    assert again.select(kept).equals(picks.select(kept))
    assert again["pseudo_label"].null_count == again.num_rows


def test_a_damaged_summary_is_a_line(finished, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder)
    (folder / "summary.json").write_text("{")
    with pytest.raises(DamagedFile, match="psp-ray continue"):
        look_at(folder)


def test_without_images_the_page_says_what_is_missing(finished, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(finished, folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("/pictures", "/gone"))
    page = make_page(look_at(folder), Pictures())
    assert page.pool_map is None
    assert "gone" in page.notes[0]
    rows = pq.read_table(folder / "picks.parquet").to_pandas()
    names = page.class_names
    expected = confusion_matrix(rows.label, rows.guess, labels=names)
    assert np.array(page.confusion.counts).sum() == expected.sum() == 12
    assert write_page(folder).read_text(encoding="utf-8").count("no picture") == 12


def test_before_anything_was_learned(tmp_path, tiny_model, tiny_folder, cache_folder):
    given = {"dataset": str(tiny_folder), "model": tiny_model, "cache": str(cache_folder), "runner": "inline"}
    waiting = {**given, "oracle": "file", "labels_per_round": 3, "out": str(tmp_path / "waiting")}
    run(resolve(waiting), Silent(), watchers=[KeptPage()])
    page = Parsed((tmp_path / "waiting" / "report.html").read_text(encoding="utf-8"))
    assert "Nothing has been learned yet: 3 labels of round 1 are waited for." in page.words
    summary = run_zero_shot(resolve({**given, "strategy": "zero-shot", "out": str(tmp_path / "zero")}))
    told = make_page(look_at(tmp_path / "zero"), Pictures()).answer
    assert (
        told
        == f"Zero-shot gets {100 * summary['zero_shot_accuracy']:.1f} % of the test images right; no label was bought."
    )


def test_a_folder_without_a_run_is_one_line(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"status": "finished"}))
    with pytest.raises(OutputError, match="no run of psp-ray there"):
        look_at(tmp_path)


def test_a_page_is_written_after_a_round_only_where_it_is_cheap(finished):
    found = look_at(finished)
    run_, page = Watched(finished, found.config, found.data, Silent()), finished / "report.html"
    ticks = iter(np.arange(0.0, 100.0, 0.5).tolist())
    kept = KeptPage(clock=lambda: next(ticks))

    def after(seconds):
        page.unlink(missing_ok=True)
        kept.after_round(run_, found.state.with_last_report(replace(found.state.reports[-1], wall_seconds=seconds)))
        return page.exists()

    assert not after(5.0), "the first page may take 2 s: more than a tenth of the round"
    kept.at_end(run_, found.state, finished=False)
    assert page.exists()
    assert after(6.0), "half a second by that clock is less than a tenth of six"
    assert not after(4.0)


def test_why_an_image_was_asked_about_is_what_a_plain_loop_finds(finished):
    """Distances and counts against loops over the features, spreading against a dense solve."""
    looked = look_at(finished)
    pool, names = looked.data.pool, looked.data.sample_ids
    rows = pool.rows(np.arange(pool.n)).astype(np.float64)
    picks = pq.read_table(finished / "picks.parquet").to_pandas()
    place = {name: names.index(name) for name in picks.sample_id}
    for number in (1, 2, 3):
        found = explain(finished, number)
        mine, before = picks[picks["round"] == number], picks[picks["round"] < number]
        assert [one.pick.name for one in found.picks] == mine.sample_id.tolist()
        by_then = [place[name] for name in picks[picks["round"] <= number].sample_id]
        nearest = [by_then[int(np.argmax(rows[by_then] @ row))] for row in rows]
        similarity = (
            knn_graph(pool, whitening=looked.config.selftrain.graph_whitening)
            .with_labeled(np.array(by_then))[0]
            .similarity.todense()
        )
        spread = np.linalg.inv(np.eye(pool.n) - looked.config.selftrain.graph_alpha * np.asarray(similarity))[
            :, by_then
        ]
        heard = [by_then[int(np.argmax(row))] for row in spread if row.max() > 1e-9]
        for one in found.picks:
            position, around = place[one.pick.name], one.around
            assert around.nearest_to == nearest.count(position)
            assert around.reaches == heard.count(position)
            if number == 1:
                assert around.cosine is None
                continue
            close = {name: float(rows[place[name]] @ rows[position]) for name in before.sample_id}
            left = [row for row in range(pool.n) if names[row] not in set(before.sample_id)]
            labeled = [place[name] for name in before.sample_id]
            nearer = sum(
                max(float(rows[at] @ rows[row]) for at in labeled) > max(close.values()) + 1e-6 for row in left
            )
            assert one.pick.farther == pytest.approx(nearer / len(left), abs=1.5 / len(left))
            assert around.cosine == pytest.approx(max(close.values()), abs=1e-3)
            assert close[around.nearest] == pytest.approx(around.cosine, abs=1e-3)
            assert around.nearest_answer == before[before.sample_id == around.nearest].label.item()


def test_explain_says_who_picked(finished):
    picks = pq.read_table(finished / "picks.parquet").to_pandas()
    told = json.loads(CliRunner().invoke(explain_command, ["--run", str(finished), "--round", "2", "--json"]).stdout)
    assert (told["strategy"], told["round"], told["rounds"], told["missing"]) == ("psp", 2, 3, [])
    for row, one in zip(picks[picks["round"] == 2].itertuples(), told["picks"], strict=True):
        assert (one["sample_id"], one["answer"], one["guess"]) == (row.sample_id, row.label, row.guess)
        assert one["by"] == ("chance" if row.by_chance else {"first": "plan", "none": "policy"}.get(row.plan, row.plan))
        assert (one["policy_weight"] is None) == row.by_chance
        assert one["doubt"] == pytest.approx(row.doubt)
        assert one["why"][-1].startswith(f"it turned out to be {row.label}, ")
    assert set(picks.plan.dropna()) <= {"first", "reserve", "none"}
    assert (picks.plan == "first").sum() >= 6
    name = picks.sample_id[5]
    said = CliRunner().invoke(explain_command, ["--run", str(finished), "--sample-id", name]).stdout
    assert said.startswith(f"{name}: asked in round 2 of 3 (psp)\n")
    assert "nearest image labeled before: " in said
    table = CliRunner().invoke(explain_command, ["--run", str(finished)]).stdout
    assert all(name in table for name in picks[picks["round"] == 3].sample_id)


def test_why_an_image_is_asked_about_is_told_before_it_is_answered(tmp_path, two_rounds):
    """What is said then is what the picks say later, and what lies around is what it would be if they were labeled."""
    out = tmp_path / "run"
    given = {**two_rounds, "oracle": "file", "out": str(out)}
    told = []
    for number in (1, 2):
        run(resolve({**given, "resume": number > 1}), Silent())
        told.append(explain(out, number))
        found = explain(out)
        assert (found.round, found.open, found.next) == (1, number == 1, None if number == 1 else 2)
        table = out / f"round_{number:02d}" / "query.csv"
        rows = list(csv.DictReader(table.open(newline="")))
        assert {one.pick.name for one in told[-1].picks} == {row["sample_id"] for row in rows}
        with table.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "label": row["sample_id"].split("/")[0]} for row in rows)
    single = CliRunner().invoke(explain_command, [str(out), "--sample-id", rows[0]["sample_id"]]).stdout
    assert single.startswith(f"{rows[0]['sample_id']}: is being asked about, in round 2 of 2 (psp)\n")
    assert single.endswith("nobody has said yet what it is\n")
    (out / "asked.parquet").unlink()
    with pytest.raises(OutputError, match=r"asked\.parquet is missing, .*psp-ray continue"):
        explain(out, sample_id=rows[0]["sample_id"])
    run(resolve({**given, "resume": True}), Silent())
    assert not (out / "asked.parquet").exists()
    for number, before in enumerate(told, 1):
        after = explain(out, number)
        assert not after.open
        assert before.open
        assert [replace(one.pick, answer="") for one in after.picks] == [one.pick for one in before.picks]
        assert [one.around for one in after.picks] == [one.around for one in before.picks]


def _as_an_older_version_wrote_it(folder):
    """Without the grounds of its picks in the newest checkpoint, and no digests, which older markers lack."""
    newest = folder / "checkpoints" / "round_003"
    labels = pq.read_table(newest / "labels.parquet")
    pq.write_table(labels.drop_columns(["behind_plan", "policy_weight", "doubt"]), newest / "labels.parquet")
    (newest / "COMPLETE").write_bytes(b"")


def test_explain_names_what_it_does_not_know(finished, tmp_path):
    with pytest.raises(OutputError, match="--round 4: rounds 1 to 3 are done"):
        explain(finished, 4)
    with pytest.raises(OutputError, match="no such image"):
        explain(finished, sample_id="nobody")
    picks = pq.read_table(finished / "picks.parquet")
    with pytest.raises(OutputError, match="in round 1, not in round 2"):
        explain(finished, 2, picks["sample_id"][0].as_py())
    folder = tmp_path / "old"
    shutil.copytree(finished, folder)
    _as_an_older_version_wrote_it(folder)
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("/pictures", "/gone"))
    found = explain(folder, 1)
    assert {one.pick.by for one in found.picks} <= {"", "chance"}
    missing = " ".join(found.missing)
    assert "which an older psp-ray did not write down" in missing
    assert "gone" in missing
    assert found.as_json()["picks"][0]["nearest_to"] is None
