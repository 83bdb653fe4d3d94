"""Storage on a folder, on S3 (moto's server) and through fsspec: files, mirrors of runs, one-line errors."""

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from psp_ray.core.errors import OutputError
from psp_ray.core.files import files_under
from psp_ray.core.noise import sample_keys
from psp_ray.features.cache import FeatureStore
from psp_ray.features.pool import CachedPool
from psp_ray.run.answer_desk import AnswerDesk
from psp_ray.run.checkpoint import Checkpoint, load_latest, save_checkpoint
from psp_ray.run.folder import check_out
from psp_ray.run.mirror import RunMirror
from psp_ray.run.pool_source import PoolSource
from psp_ray.run.resolve import resolve
from psp_ray.storage import remote
from psp_ray.storage.generations import Generations, Moved
from psp_ray.storage.remote import Storage


@pytest.fixture(params=["folder", "s3", "memory"])
def storage(request, tmp_path, monkeypatch):
    if request.param == "s3":
        for name, value in request.getfixturevalue("s3_server").items():
            monkeypatch.setenv(name, value)
        return Storage(f"s3://psp/{tmp_path.name}")
    return Storage(str(tmp_path / "storage") if request.param == "folder" else f"memory://{tmp_path.name}")


def test_files(storage, tmp_path):
    assert storage.list("a") == {}
    storage.write("a/b/one", b"123")
    storage.write("a/b/one", b"1234")
    storage.write("a/two", b"")
    assert storage.read("a/b/one") == b"1234"
    assert storage.list("a") == {"b/one": 4, "two": 0}
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 40_000)
    storage.push(big, "a/big")
    storage.pull("a/big", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == big.read_bytes()
    storage.delete("a/two")
    assert set(storage.list("a")) == {"b/one", "big"}
    with pytest.raises(OutputError, match="can't be read"):
        storage.read("a/nothing")
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "copy"], "no temporary file stays"


def test_immutable_folders_are_copied_once(storage, tmp_path):
    here = tmp_path / "cache"
    for name in ("x/1", "x/2"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    assert storage.push_new(here, "cache") == 2
    (here / "x/3").write_text("3")
    assert storage.push_new(here, "cache") == 1
    assert storage.pull_new("cache", tmp_path / "other") == 3
    assert storage.pull_new("cache", tmp_path / "other") == 0
    assert (tmp_path / "other/x/3").read_text() == "3"


def a_run(out, rounds):
    out.mkdir(exist_ok=True)
    (out / "run.json").write_text('{"experiment": "mine-1", "identity": {}}')
    for round in rounds:
        save_checkpoint(out / "checkpoints", Checkpoint(round, {"round": round}))
        (out / "rounds.csv").write_text(f"{round}")


def test_a_run_is_mirrored_and_restored_on_another_machine(storage, tmp_path):
    out = tmp_path / "here" / "mine"
    out.parent.mkdir()
    mirror = RunMirror(storage, out)
    assert not mirror.restore(resume=False)
    a_run(out, [1])
    ledger = sqlite3.connect(out / "ledger.sqlite")
    ledger.execute("PRAGMA journal_mode=WAL")
    ledger.execute("CREATE TABLE t (x)")
    ledger.execute("INSERT INTO t VALUES (7)")
    ledger.commit()  # in the -wal file, and the database is open
    mirror.save()
    a_run(out, [2, 3])
    mirror.save()
    (out / "checkpoints" / "round_004").mkdir()
    (out / "checkpoints" / "round_004" / "state.json").write_text("half")
    mirror.save()
    ledger.close()

    there = tmp_path / "there" / "mine"
    with pytest.raises(OutputError, match="add --resume"):
        RunMirror(storage, there).restore(resume=False)
    assert RunMirror(storage, there).restore(resume=True)
    assert load_latest(there / "checkpoints").state == {"round": 3}
    assert sorted(path.name for path in (there / "checkpoints").iterdir()) == ["round_002", "round_003"]
    assert (there / "rounds.csv").read_text() == "3"
    with sqlite3.connect(there / "ledger.sqlite") as copy:
        assert copy.execute("SELECT x FROM t").fetchall() == [(7,)]
    assert not RunMirror(storage, there).restore(resume=True), "what is here is newer"


def test_nodes_without_a_shared_folder_fetch_features(storage, tmp_path):
    """What one machine encoded is read on another one, which has nothing but the storage, to the same bits."""
    rng = np.random.default_rng(0)
    here = tmp_path / "cache"
    hashes = rng.integers(0, 256, (9, 16), dtype=np.uint8)
    features = FeatureStore(str(here / "model" / "features"), "features", 4)
    views = FeatureStore(str(here / "model" / "views-1"), "views", 8)
    values, seen = (rng.normal(size=(9, width)).astype(np.float16) for width in (4, 8))
    for rows in (np.arange(5), np.arange(5, 9)):
        features.write(hashes[rows], values[rows])
        views.write(hashes[rows], seen[rows])
    pool = CachedPool(features, hashes, sample_keys([str(i) for i in range(9)]), views)
    source = PoolSource.of(pool, str(here), storage.uri)
    assert {name.split("/")[0] for name in storage.list("cache")} == {"model", "pools"}
    shutil.rmtree(here)
    for _ in range(2):
        block = source.open().block(0, views=True)
        assert block.features.tobytes() == values.tobytes()
        assert block.views.tobytes() == seen.tobytes()
        assert block.keys.tobytes() == pool.keys.tobytes()
    alone = PoolSource(**{**vars(source), "storage": None, "manifest": str(here / "typo")})
    with pytest.raises(OutputError, match="every node must see the --cache folder, or give --storage"):
        alone.open()


def test_a_restore_that_is_killed_starts_anew(tmp_path, monkeypatch):
    """Killed before its k-th file, for every k: the output folder is empty or whole, and --resume takes it."""
    place = Storage(str(tmp_path / "store"))
    (tmp_path / "here").mkdir()
    a_run(tmp_path / "here" / "mine", [1, 2])
    RunMirror(place, tmp_path / "here" / "mine").save()
    files = len(Generations(place, "runs/mine/mine-1").newest().files)
    whole = Storage.pull
    config = resolve({"dataset": "digits", "resume": True})
    for killed_at in range(files):
        out = tmp_path / f"there{killed_at}" / "mine"
        pulled = []

        def pull(self, name, local, pulled=pulled, killed_at=killed_at):
            if len(pulled) == killed_at:
                raise KeyboardInterrupt
            pulled.append(name)
            whole(self, name, local)

        monkeypatch.setattr(Storage, "pull", pull)
        with pytest.raises(KeyboardInterrupt):
            RunMirror(place, out).restore(resume=True)
        monkeypatch.setattr(Storage, "pull", whole)
        check_out(config, out)
        assert RunMirror(place, out).restore(resume=True)
        assert load_latest(out / "checkpoints").state == {"round": 2}
        assert [path.name for path in out.parent.iterdir()] == ["mine"], "nothing is left aside"
    taken = tmp_path / "taken" / "mine"
    taken.mkdir(parents=True)
    (taken / ".lock").write_text("")
    assert RunMirror(place, taken).restore(resume=True)
    shutil.rmtree(taken)
    taken.mkdir()
    (taken / ".hidden").write_text("")
    with pytest.raises(OutputError, match=r"can.t be written .*empty the folder or choose another place"):
        RunMirror(place, taken).restore(resume=True)


def test_of_many_writers_of_a_name_one_succeeds(storage):
    """On every kind of storage: exactly one content is there in the end, and its writer knows."""
    for turn in range(3):
        barrier, won = threading.Barrier(4), []

        def write(number, turn=turn, barrier=barrier, won=won):
            barrier.wait()
            if storage.create(f"race/{turn}", str(number).encode()):
                won.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert storage.read(f"race/{turn}") == str(won[0]).encode()
        assert not storage.create(f"race/{turn}", b"late")
    assert [name for name in storage.list("race") if "claims" in name] == []


def killed_while_it_claims(name):
    """A process that dies once its claim on `name` is written; prints the claim."""
    code = f"""
import os, sys
from psp_ray.storage.remote import Storage
whole = Storage.write
def write(self, name, data):
    whole(self, name, data)
    print(name, flush=True)
    os._exit(9)
Storage.write = write
Storage(sys.argv[1]).create({name!r}, b"never")
"""
    return code


def test_claims_of_the_dead_keep_nobody_off_for_long(s3_server, tmp_path, monkeypatch):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    storage = Storage(f"s3://psp/{tmp_path.name}")
    command = [sys.executable, "-c", killed_while_it_claims("one"), storage.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 9
    assert storage.list("one.claims") == {done.stdout.split("/")[-1].strip(): 1}
    assert storage.create("one", b"mine"), "a process of this machine that has ended is known at once"
    assert storage.list("one.claims") == {}
    # Of another machine nothing can be known but the time.
    storage.write("two.claims/abc.elsewhere.1", b"1")
    monkeypatch.setattr(remote, "CLAIM_SECONDS", 1.5)
    assert storage.create("two", b"mine")
    storage.write("three.claims/abc.elsewhere.1", b"1")
    monkeypatch.setattr(remote, "CLAIM_SECONDS", 1e9)
    monkeypatch.setattr(time, "monotonic", iter(range(0, 10**12, 10**10)).__next__)
    with pytest.raises(OutputError, match="other machines write three at this moment"):
        storage.create("three", b"mine")


def test_a_machine_that_was_overtaken_writes_nothing(storage, tmp_path):
    for machine in ("here", "there"):
        (tmp_path / machine).mkdir()
    here, there = (RunMirror(storage, tmp_path / machine / "mine") for machine in ("here", "there"))
    a_run(here.out, [1])
    here.save()
    assert there.restore(resume=True)
    a_run(there.out, [2])
    there.save()
    a_run(here.out, [2])
    before = storage.list("runs/mine")
    with pytest.raises(Moved, match="another machine has written generation 2 of runs/mine/mine-1; run the same"):
        here.save()
    assert storage.list("runs/mine") == before
    here.take_up()
    a_run(here.out, [3])
    here.save()
    there.take_up()
    assert load_latest(there.out / "checkpoints").state == {"round": 3}


def test_a_query_set_that_is_chosen_anew_is_on_storage_with_its_pictures(tmp_path):
    """The table there is people's: lines that came later are a table beside it, and open ones that went are told of."""
    place, told = Storage(str(tmp_path / "storage")), []
    desk = AnswerDesk(place, "answers", tmp_path / "run")
    folder = tmp_path / "run" / "round_01"
    (folder / "images").mkdir(parents=True)
    known = {}
    for samples in ("ab", "bc"):
        lines = [f"{sample},images/{sample}.png,\n" for sample in samples]
        (folder / "query.csv").write_text("sample_id,image,label\n" + "".join(lines))
        (folder / "contact_sheet.png").write_text(samples)
        for sample in samples:
            (folder / "images" / f"{sample}.png").write_text(sample)
        known = desk.publish(files_under(tmp_path / "run"), known, told.append)
    names = {f"round_01/{name}" for name in ("query.csv", "query-2.csv", "contact_sheet.png")}
    assert set(place.list("answers")) == names | {f"round_01/images/{sample}.png" for sample in "abc"}
    assert place.read("answers/round_01/contact_sheet.png") == b"bc"
    assert place.read("answers/round_01/query-2.csv").split() == [b"sample_id,image,label", b"c,images/c.png,"]
    assert known == {"round_01/query.csv": {"a": "", "b": "", "c": ""}}
    assert [text.rsplit(": ", 1)[1] for text in told] == ["1 open line is not asked about any more; leave them empty"]


def test_runs_of_one_name_keep_apart(storage, tmp_path):
    """The experiment is part of the key: neither replaces the other, and the settings tell which one is meant."""
    mirrors = []
    for number in (1, 2):
        out = tmp_path / str(number) / "mine"
        out.mkdir(parents=True)
        (out / "run.json").write_text(json.dumps({"experiment": f"mine-{number}", "identity": {"seed": number}}))
        save_checkpoint(out / "checkpoints", Checkpoint(number, {"round": number}))
        mirrors.append(RunMirror(storage, out))
        mirrors[-1].save()
    for number in (1, 2):
        new = RunMirror(storage, tmp_path / f"new{number}" / "mine")
        assert new.restore(resume=True, identity={"seed": number})
        assert load_latest(new.out / "checkpoints").state == {"round": number}
    with pytest.raises(OutputError, match=r"holds 2 runs runs/mine \(mine-1, mine-2\), and none has the settings"):
        RunMirror(storage, tmp_path / "new3" / "mine").restore(resume=True, identity={"seed": 3})


def test_generations_before_the_newest_go(storage, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    mirror = RunMirror(storage, out)
    for number in range(1, 8):
        a_run(out, [number])
        mirror.save()
    names = storage.list("runs/mine/mine-1")
    assert sorted(name for name in names if name.startswith("generations/")) == [
        f"generations/{number:08d}.json" for number in (5, 6, 7)
    ]
    rounds = {name.split("/")[3] for name in names if "/checkpoints/round_" in name}
    assert rounds == {"round_004", "round_005", "round_006", "round_007"}, "what the kept generations name"


def test_damage_on_storage_is_found(storage, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    a_run(out, [1])
    RunMirror(storage, out).save()
    key = next(name for name in storage.list("runs/mine/mine-1") if name.endswith("state.json"))
    storage.write(f"runs/mine/mine-1/{key}", b'{"round": 7}')
    with pytest.raises(OutputError, match=r"state\.json is damaged; restore it"):
        RunMirror(storage, tmp_path / "new" / "mine").restore(resume=True)
    assert not (tmp_path / "new" / "mine").exists()


def test_what_cannot_work_is_one_line(s3_server, monkeypatch, tmp_path):
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OutputError, match=r"--storage s3://nowhere/x: can't be written"):
        Storage("s3://nowhere/x").write("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match=r"--storage s3://psp/x: can't be"):
        Storage("s3://psp/x").list("a")
    with pytest.raises(OutputError, match=r"--storage typo://x: can't be used"):
        Storage("typo://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        Storage(str(tmp_path / "file")).write("a/b", b"1")
