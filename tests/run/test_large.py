"""The way of large pools on a small one: mapped files, row groups, names looked up without an index."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from psp_ray.core import names as names_module
from psp_ray.core.records import PseudoLabels, TextState
from psp_ray.features import mapped
from psp_ray.neighbors import cells
from psp_ray.report.progress import Reporter
from psp_ray.report.round_report import Next
from psp_ray.run import output
from psp_ray.run.checkpoint import newest
from psp_ray.run.command import run
from psp_ray.run.moved_pool import GONE, Remembered, places
from psp_ray.run.output import write_pool_predictions
from psp_ray.run.resolve import resolve
from psp_ray.run.state import PoolNames, RunState

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["cat", "dog", "owl"]
N, D = 240, 8
WRITTEN = ("labels.parquet", "picks.parquet", "policy.parquet", "pool_predictions.parquet")


class Impatient(Reporter):
    """Stops a run after its first round."""

    def after_round(self, report):
        return Next.STOP


@pytest.fixture
def tables(tmp_path):
    """Rows whose names don't stand in their order, with a test part among them, and class embeddings."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((3, D))
    kinds = np.arange(N) % 3
    vectors = (centers[kinds] + 0.6 * rng.standard_normal((N, D))).astype(np.float32)
    rows = {
        "sample_id": [f"s{(7 * i) % N:03d}" for i in range(N)],
        "path": [None if i % 2 else f"/elsewhere/{i}.png" for i in range(N)],
        "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32(), D)),
        "label": [CLASSES[kind] for kind in kinds],
        "part": ["test" if i % 4 == 0 else "pool" for i in range(N)],
    }
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    text = (centers + 0.5 * rng.standard_normal((3, D))).astype(np.float32)
    kinds = {"class": CLASSES, "embedding": pa.array(text.tolist(), pa.list_(pa.float32(), D))}
    pq.write_table(pa.table(kinds), tmp_path / "classes.parquet")
    return {"dataset": str(tmp_path / "rows.parquet"), "class_embeddings": str(tmp_path / "classes.parquet")}


def test_a_run_over_mapped_names_is_the_run_over_names_in_memory(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "LARGE_POOL", 100)
    monkeypatch.setattr(cells, "CELLS", 8)

    def go(name, listener):
        options = {"strategy": "psp", "rounds": 2, "labels_per_round": 6, "update_steps": 2, "runner": "inline"}
        given = {**tables, **options, "cache": str(tmp_path / f"cache-{name}"), "pictures": False, "resume": True}
        return run(resolve({**given, "out": str(tmp_path / name)}), listener(2, Console(quiet=True)))

    go("memory", Reporter)
    monkeypatch.setattr(mapped, "LARGE_BYTES", 0)
    monkeypatch.setattr(output, "ROW_GROUP", 50)
    monkeypatch.setattr(names_module, "CHUNK", 7)
    assert go("mapped", Impatient)["status"] == "interrupted"
    assert go("mapped", Reporter)["status"] == "finished"
    here = {entry.name for entry in (tmp_path / "cache-mapped").iterdir()}
    assert here == {entry.name for entry in (tmp_path / "cache-memory").iterdir()}, "what is mapped has no name"
    for name in WRITTEN:
        assert pq.read_table(tmp_path / "mapped" / name).equals(pq.read_table(tmp_path / "memory" / name)), name
    one, other = (newest(tmp_path / name / "checkpoints") for name in ("memory", "mapped"))
    assert one.state["pool"] == other.state["pool"]
    assert one.tables["pseudo"].equals(other.tables["pseudo"])


def test_predictions_are_the_same_in_row_groups_as_image_by_image(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    n = 23
    names = PoolNames([f"s{i:02d}" for i in range(n)], [f"{i:032x}" for i in range(n)], CLASSES)
    state = RunState.before_rounds(
        TextState(np.eye(3, 4, dtype=np.float32), 1.0), None, np.array([4, 9, 1]), np.array([2, 0, 1], np.int32)
    )
    answers = {"asked": np.array([4, 9, 1, 7, 8, 20]), "answers": np.array([2, 0, 1, -1, -2, 1], np.int32)}
    answers["asked_in"] = np.array([0, 0, 0, 1, 1, 1], np.int32)
    pseudo = PseudoLabels(np.array([2, 8, 11]), *(np.zeros(3, kind) for kind in (np.int32, np.float32, np.float32)))
    state = type(state)(**{**vars(state), **answers, "pseudo": pseudo})
    paths = pa.chunked_array([[None if i % 3 else f"/p/{i}" for i in range(10)], [None] * 13], pa.string())
    predicted, chances = rng.integers(0, 3, n).astype(np.int32), rng.random(n).astype(np.float32)
    monkeypatch.setattr(output, "ROW_GROUP", 10)
    write_pool_predictions(tmp_path, state, names, paths, predicted, chances)
    expected = []
    for i in range(n):
        row = {"sample_id": f"s{i:02d}", "path": paths[i].as_py(), "class": CLASSES[predicted[i]]}
        row |= {"probability": float(chances[i]), "source": "pseudo" if i in (2, 11) else "predicted"}
        for at, answer, number in zip(
            *(answers[key].tolist() for key in ("asked", "answers", "asked_in")), strict=True
        ):
            if at == i and answer >= 0:
                source = "bought" if number else "initial"
                row |= {"class": CLASSES[answer], "probability": 1.0, "source": source}
            elif at == i:
                row["source"] = "skipped" if answer == -1 else "ignored"
                row |= {"class": None, "probability": None} if answer == -2 else {}
        expected.append(row)
    file = pq.ParquetFile(tmp_path / "pool_predictions.parquet")
    assert file.num_row_groups == 3
    assert file.read().to_pylist() == expected


def test_a_moved_pool_is_the_same_by_hashes_as_by_texts():
    contents = [f"{i:032x}" for i in (1, 2, 3, 3, 4, 5)]
    names = ["a", "b", "c", "d", "e", "new"]
    # b is as it was; old-e is called e now; c's content is there twice, so nobody knows which one old-c is; x is gone.
    known = Remembered(["b", "old-e", "old-c", "x"], [contents[1], contents[4], contents[2], f"{9:032x}"])
    for hashes, wanted in ((contents, known), ([f"h{c}" for c in contents], None)):
        asked = wanted or Remembered(known.sample_ids, [f"h{c}" for c in known.content_hashes])
        assert places(asked, PoolNames(names, hashes, CLASSES)).tolist() == [1, 4, GONE, GONE]


LOADS = """
import os
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.large_run import own_bytes, write_tables
from psp_ray.features import mapped
from psp_ray.run.finish import pool_names
from psp_ray.run.prepare import prepare, settled
from psp_ray.run.assemble import component_inputs
from psp_ray.run.featurizing import featurize_prepared
from psp_ray.run.resolve import resolve
from psp_ray.run.runtime import inline
from psp_ray.report.progress import Reporter

folder, n = Path(sys.argv[1]), int(sys.argv[2])
mapped.LARGE_BYTES = 1 << 16
table, classes = write_tables(folder, n, 10, 8)
given = {"dataset": str(table), "class_embeddings": str(classes), "runner": "inline", "cache": str(folder / "cache")}
prepared = settled(prepare(resolve(given)))
data = featurize_prepared(prepared, None, Reporter(1, Console(quiet=True)))
names = pool_names(data)
with inline(prepared.config) as runtime:
    components = runtime.components(component_inputs(prepared.config, data, folder, "x"))
    components.learner.cosines(components.learner.zero_shot().result(), np.arange(9)).result()
    assert len(names.fingerprint) == 32 and len(names.keys) == n
    print(own_bytes(os.getpid())[os.getpid()])
"""


@pytest.mark.slow
def test_an_image_takes_less_than_a_hundred_bytes_of_memory(tmp_path):
    """Names, hashes, paths, parts and places of a pool, as a run holds them before its first round."""
    sizes = (100_000, 700_000)
    own = []
    for n in sizes:
        command = [sys.executable, "-c", LOADS, str(tmp_path), str(n)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        own.append(int(done.stdout.splitlines()[-1]))
    assert (own[1] - own[0]) / (sizes[1] - sizes[0]) < 100
