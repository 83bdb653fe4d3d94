"""Paths from another working folder: those of trials, of exports and tasks, and what is none."""

from psp_ray.config.paths import absolute, seen_from


def test_paths_are_made_absolute_and_seen_from_elsewhere(tmp_path, monkeypatch):
    home, other = tmp_path / "home", tmp_path / "other"
    for folder in (home / "photos", other):
        folder.mkdir(parents=True)
    (home / "names.txt").write_text("cat\ndog\n")
    (home / "split.json").write_text("{}")
    monkeypatch.chdir(home)
    given = {
        "dataset": "photos",
        "classes": "names.txt",
        "test": None,
        "split": "split.json",
        "checkpoint": "missing.pt",
        "ledger": "ledger.sqlite",
        "storage": "s3://bucket/x",
        "model": "local-dir:model",
        "rounds": 3,
        "template": "names.txt",
    }
    found = absolute(given)
    assert found == given | {
        "dataset": str(home / "photos"),
        "classes": str(home / "names.txt"),
        "split": str(home / "split.json"),
        "checkpoint": str(home / "missing.pt"),
        "ledger": str(home / "ledger.sqlite"),
        "model": f"local-dir:{home / 'model'}",
    }
    assert absolute({"dataset": "photos:split.json"}) == {"dataset": f"{home / 'photos'}:{home / 'split.json'}"}
    assert absolute({"classes": "cat,dog", "dataset": "digits"}) == {"classes": "cat,dog", "dataset": "digits"}
    assert seen_from(str(other), given) == given, "what is here stays"
    monkeypatch.chdir(other)
    there = seen_from(str(home), given)
    assert there["dataset"] == str(home / "photos")
    assert there["classes"] == str(home / "names.txt")
    assert there["split"] == str(home / "split.json")
    assert there["checkpoint"] == "missing.pt"
    assert seen_from(str(home), {"dataset": "photos:x.json"}) == {"dataset": f"{home / 'photos'}:x.json"}
    assert seen_from("", given) == given
