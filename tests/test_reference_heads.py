"""References beside a run are fitted to what it bought, and to nothing else."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from benchmarks.reference_heads import OWN, judged, main
from psp_ray.config.learn import LearnSettings
from psp_ray.core.errors import ConfigError
from psp_ray.report.progress import Reporter
from psp_ray.run.command import run
from psp_ray.run.resolve import resolve
from tests.helpers import write_embeddings

NAMES = ["cat", "dog", "owl"]
N, D = 160, 8


@pytest.fixture
def world(tmp_path):
    """Three clouds of unit embeddings, their labels, and a finished run over them."""
    rng = np.random.default_rng(3)
    centers = rng.standard_normal((3, D))
    labels = np.arange(N) % 3
    vectors = centers[labels] + 0.8 * rng.standard_normal((N, D))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    text = (centers + 0.9 * rng.standard_normal((3, D))).astype(np.float32)
    files = write_embeddings(tmp_path, NAMES, labels, vectors, text, np.arange(N) % 2 == 0)
    options = files | {"strategy": "random", "rounds": 2, "labels_per_round": 9}
    summary = run(resolve(options), Reporter(2, Console(quiet=True)))
    return tmp_path / "run", vectors, labels, text / np.linalg.norm(text, axis=1, keepdims=True), summary


def test_rows_are_those_of_zero_shot_scikit_learn_and_the_run(world, capsys):
    folder, vectors, labels, text, summary = world
    rows = {(row["round"], row["classifier"]): row["accuracy"] for row in judged(folder, [1, 2])}
    tested = np.arange(N) % 2 == 0
    truth = labels[tested]
    assert rows[1, "zero-shot"] == pytest.approx(100 * ((vectors[tested] @ text.T).argmax(axis=1) == truth).mean())
    bought = pq.read_table(folder / "labels.parquet").to_pandas()
    known = [int(name[1:]) for name in bought.sample_id]
    probe = LogisticRegression(C=1 / LearnSettings().head_penalty, max_iter=2000).fit(vectors[known], labels[known])
    assert rows[2, "linear probe"] == pytest.approx(100 * probe.score(vectors[tested], truth), abs=1.3)
    assert rows[2, OWN] == pytest.approx(100 * summary["final_accuracy"])
    assert min(rows.values()) > 100 / 3
    main([str(folder), "--rounds", "2"])
    told = capsys.readouterr().out
    assert all(name in told for number, name in rows if number == 2)


def test_a_run_whose_features_are_gone_says_so(world):
    folder = world[0]
    (folder.parent / "rows.parquet").unlink()
    with pytest.raises(ConfigError, match="not at hand"):
        next(judged(folder, [1]))
