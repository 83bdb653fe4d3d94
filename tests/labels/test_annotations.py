"""Label Studio's exports in every shape it documents, and tables that come back with addresses of their own."""

import csv
import json

import pyarrow as pa
import pytest
from PIL import Image

from psp_ray.core.errors import OracleError
from psp_ray.data.dataset import MANIFEST_SCHEMA
from psp_ray.labels import Item
from psp_ray.labels.annotations import CANCELLED, Unreadable, read_export
from psp_ray.labels.label_studio import export_tasks, import_annotations, interface
from psp_ray.labels.layout import Layout

CLASSES = ["cat", "dog"]


def choice(*names, control="class", kind="choices"):
    return {"from_name": control, "to_name": "image", "type": kind, "value": {kind: list(names)}}


def task(*results, sample="a", **more):
    annotation = {"id": 7, "result": list(results), "was_cancelled": False, **more}
    return {"id": 3, "annotations": [annotation], "predictions": [], "data": {"image": "x", "sample_id": sample}}


def low(**values):
    """A record of JSON-MIN."""
    return {"id": 3, "image": "x", "sample_id": "a", "annotator": 1, "annotation_id": 7, "lead_time": 1.0, **values}


BOX = {"from_name": "box", "type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["dog"]}}
CHOSEN = {
    "JSON": [task(choice("cat"))],
    "a task alone": task(choice("cat")),
    "the API's list": {"tasks": [task(choice("cat"))], "total": 1},
    "completions, as it once was": [
        {"id": 1, "completions": [{"result": [choice("cat")]}], "data": {"sample_id": "a"}}
    ],
    "the same choice twice": [task(choice("cat"), choice("cat"))],
    "a box besides": [task(BOX, choice("cat"))],
    "another control besides": [task(choice("blurred", control="quality"), choice("cat"))],
    "the only control, called otherwise": [task(choice("cat", control="animal"))],
    "a taxonomy": [task(choice(["animal", "cat"], kind="taxonomy"))],
    "null in lists": [task(None, choice("cat")), {"data": None, "annotations": [None]}, {"annotations": None}],
    "an empty annotation besides": [task(choice("cat")), task(sample="b")],
    "JSON-MIN": [low(**{"class": "cat"})],
    "JSON-MIN with a list": [low(**{"class": ["cat"]})],
    "JSON-MIN as several choices": [low(**{"class": {"choices": ["cat"]}})],
    "JSON-MIN as text": [low(**{"class": '{"choices": ["cat"]}'})],
    "JSON-MIN taxonomy": [low(**{"class": [["animal", "cat"]]})],
    "JSON-MIN with an only control": [low(animal={"choices": ["cat"]})],
    "JSON-MIN with data of others": [low(**{"class": "cat", "caption": "a dog"})],
    "predictions don't count": [task(choice("cat")) | {"predictions": [{"result": [choice("dog")]}]}],
    "drafts don't count": [task(choice("cat")) | {"drafts": [{"result": [choice("dog")]}]}],
    "the newest of several": [
        {
            "data": {"sample_id": "a"},
            "annotations": [
                {"result": [choice("cat")], "updated_at": "2026-01-01T12:00:00.5+02:00", "completed_by": 1},
                {"result": [choice("dog")], "updated_at": "2026-01-01T09:59:00Z", "completed_by": 1},
                {"result": [choice("dog")], "created_at": "2025-12-31T00:00:00Z", "completed_by": 1},
            ],
        }
    ],
    "what most people say": [
        task(choice("dog"), completed_by={"id": 1, "email": "ann@example.org"}, updated_at="2026-01-03T00:00:00Z"),
        task(choice("cat"), completed_by={"id": 2, "email": "bob@example.org"}),
        task(choice("cat"), completed_by=3),
    ],
    "the newest record of several": [
        low(**{"class": "cat", "updated_at": "2026-01-02T00:00:00Z"}),
        low(**{"class": "dog", "updated_at": "2026-01-01T00:00:00Z"}),
    ],
    "a time that is none": [task(choice("cat"), updated_at=None, created_at="yesterday")],
}


@pytest.mark.parametrize("content", CHOSEN.values(), ids=CHOSEN)
def test_every_shape_is_read(content):
    assert {sample: one.value for sample, one in read_export(content).decided().items()} == {"a": "cat"}


NOTHING = [
    [],
    [task()],
    [task(None)],
    [low()],
    [low(**{"class": None})],
    [low(**{"class": ""})],
    [low(**{"class": []})],
]
NOTHING += [[task(choice())], [task({"type": "choices"})], [task({"type": "choices", "value": None})]]
NOTHING += [[{"id": 1, "annotations": [], "data": {"sample_id": "a"}}], [task(BOX)], [task(choice(None))]]


@pytest.mark.parametrize("content", NOTHING, ids=str)
def test_what_chose_nothing_is_nothing(content):
    assert not read_export(content).choices


def test_cancelled_and_disputed():
    """One person's newest word counts; of two people who differ neither's."""
    found = read_export([task(choice("cat")), task(was_cancelled=True, sample="b"), task(choice("dog"))])
    assert {sample: one.value for sample, one in found.decided().items()} == {"a": "dog", "b": CANCELLED}
    assert (found.empty, found.tasks) == (0, 3)
    found = read_export([task(choice("cat"), completed_by=1), task(choice("dog"), completed_by=2)])
    assert found.decided() == {}
    assert [len(said) for said in found.opinions().values()] == [2]


def test_agreement_is_told(tmp_path):
    """Krippendorff's alpha by hand: two people on four images, once differently."""
    query = tmp_path / "round_01"
    query.mkdir()
    rows = [["sample_id", "path", "image", "label"], *[[name, "", "", ""] for name in "abcde"]]
    with (query / "query.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    ann = {"a": "cat", "b": "cat", "c": "dog", "d": "dog", "e": "dog"}
    bob = {"a": "cat", "b": "dog", "c": "dog", "d": "dog"}
    content = [task(choice(name), sample=key, completed_by=1) for key, name in ann.items()]
    content += [task(choice(name), sample=key, completed_by=2) for key, name in bob.items()]
    (tmp_path / "export.json").write_text(json.dumps(content))
    told = import_annotations(tmp_path, CLASSES, tmp_path / "export.json")
    # 8 values, 3 cat and 5 dog: observed 2 / 8 of the pairs differ, expected 2 * 3 * 5 / (8 * 7).
    alpha = 1 - (2 / 8) / (2 * 3 * 5 / 56)
    assert f"4 images were annotated by several of 2 people, Krippendorff's alpha {alpha:.2f}" in told[1]
    assert "1 of them with nothing said by most (b): left open" in told[2]
    answers = {row["sample_id"]: row["label"] for row in csv.DictReader((query / "query.csv").open(newline=""))}
    assert answers == ann | {"b": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text", "not a list of tasks"),
        ([1], "not a list of tasks"),
        (None, "not a list of tasks"),
        ([task(choice("cat", "dog"))], "task 3: several classes"),
        ([task(choice("cat"), choice("dog"))], "task 3: several classes"),
        ([task(choice(["x", "cat"], ["x", "dog"], kind="taxonomy"))], "several classes"),
        ([low(**{"class": {"choices": ["cat", "dog"]}})], "several classes"),
        ([task(choice("a", control="x"), choice("b", control="y"))], "several controls ('x', 'y') and none called"),
        ([task({"from_name": "class", "type": "textarea", "value": {"text": ["cat"]}})], "holds text, not choices"),
        ([{"annotations": [{"result": [choice("cat")]}], "data": {"image": "x"}}], "no sample_id"),
        ([low(**{"class": "cat", "sample_id": ""})], "no sample_id"),
    ],
    ids=str,
)
def test_what_is_no_single_class_is_refused(content, message):
    with pytest.raises(Unreadable) as caught:
        read_export(content)
    assert message in str(caught.value)


# ---- into and out of the query files ---------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path):
    """A run's folder with a query set of three images."""
    names = ["a.png", "=b.png", "u\u0308ber.png"]
    paths = []
    for name in names:
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
        paths.append(str(tmp_path / name))
    rows = {"sample_id": names, "path": paths, "image": [None] * 3, "split": ["pool"] * 3}
    items = [Item(name, f"{number:032x}", 1) for number, name in enumerate(names)]
    run = tmp_path / "run"
    Layout(pa.table(rows, schema=MANIFEST_SCHEMA)).write(run / "round_01", items)
    return run


def labels(run):
    with open(run / "round_01" / "query.csv", newline="") as file:
        return {row["sample_id"]: row["label"] for row in csv.DictReader(file)}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_addresses_are_ours_whatever_came_back(asked, tmp_path):
    """A table that comes back may say anything: what it names is not read."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    query = asked / "round_01" / "query.csv"
    honest = query.read_text()
    forged = ["sample_id,path,image,label", "a.png,../../secret.png,../../secret.png,", f"x,{tmp_path}/secret.png,,"]
    query.write_text("\n".join(forged[:2]))
    export_tasks(asked, CLASSES)
    (told,) = json.loads((asked / "round_01" / "label_studio_tasks.json").read_text())
    assert told["data"]["sample_id"] == "a.png"
    assert "c2VjcmV0" not in told["data"]["image"]  # "secret" in base 64
    assert told["data"]["image"].startswith("data:image/png;base64,iVBOR")
    query.write_text("\n".join(forged))
    with pytest.raises(OracleError, match="'x' has no image to show"):
        export_tasks(asked, CLASSES)
    query.write_text(honest)
    (asked / "round_01" / "shown.json").write_text(json.dumps({"a.png": "../../secret.png", "=b.png": "/etc/passwd"}))
    with pytest.raises(OracleError, match="no image to show"):
        export_tasks(asked, CLASSES)


def test_names_and_formulas_come_back(asked, tmp_path):
    export_tasks(asked, CLASSES, url="http://x/y")
    tasks = json.loads((asked / "round_01" / "label_studio_tasks.json").read_text())
    assert [item["data"]["sample_id"] for item in tasks] == ["a.png", "=b.png", "u\u0308ber.png"]
    assert tasks[1]["data"]["image"] == "http://x/y/round_01/images/002__b.png"
    assert list(labels(asked)) == ["a.png", "'=b.png", "u\u0308ber.png"], "no spreadsheet runs a name"
    content = [task(choice("cat"), sample="=b.png"), task(choice("dog"), sample="\u00fcber.png"), task(sample="a.png")]
    told = import_annotations(asked, CLASSES, write(tmp_path / "e.json", content))
    assert told == [
        f"2 annotations, 2 labels written; go on with: psp-ray continue {asked}",
        "1 annotation passed over, where nothing was chosen",
    ]
    assert list(labels(asked).values()) == ["", "cat", "dog"]


def test_classes_called_skip_and_ignore(asked, tmp_path):
    classes = ["Skip", "ignore"]
    assert interface(classes).count("<Choice ") == 2
    content = [task(choice("Skip"), sample="a.png"), task(was_cancelled=True, sample="=b.png")]
    told = import_annotations(asked, classes, write(tmp_path / "e.json", content))
    assert "1 task was skipped, but a class is called skip: it stays open" in told
    assert list(labels(asked).values()) == ["Skip", "", ""]
    assert interface(CLASSES).count("<Choice ") == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([task(sample="a.png"), task(BOX, sample="a.png")], "2 annotations, but none chose a class"),
        ([task(choice("cow"), sample="a.png")], "task 3: 'cow' is no class"),
        ([task(choice("cat"), sample="z\x1b[2J.png")], "never asked"),
        ({"a": 1}, "1 annotation, but none chose a class"),
    ],
    ids=str,
)
def test_what_is_refused_changes_nothing(asked, tmp_path, content, message):
    with pytest.raises(OracleError) as caught:
        import_annotations(asked, CLASSES, write(tmp_path / "e.json", content))
    assert message in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert list(labels(asked).values()) == ["", "", ""]


def test_files_that_are_no_json(asked, tmp_path):
    for data in (b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"id,class\n1,cat\n"):
        (tmp_path / "e.json").write_bytes(data)
        with pytest.raises(OracleError, match=r"can't be read as JSON"):
            import_annotations(asked, CLASSES, tmp_path / "e.json")
    with pytest.raises(OracleError, match="No such file"):
        import_annotations(asked, CLASSES, tmp_path / "none.json")
