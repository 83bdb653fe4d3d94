"""Small stand-ins shared by the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from psp_ray.core.noise import sample_keys
from psp_ray.core.records import BLOCK_SIZE, FeatureBlock
from psp_ray.report.round_report import RoundReport, StageSeconds
from psp_ray.run.events import Silent


class ArrayPool:
    """A `PoolReader` over arrays in memory: features (n, d), views (n, L, d) or None; `block_size` for small tests."""

    def __init__(self, features, views=None, ids=None, block_size=BLOCK_SIZE):
        self._features = np.asarray(features, np.float16)
        self._views = None if views is None else np.asarray(views, np.float16)
        self._keys = sample_keys(ids if ids is not None else [f"sample-{i}" for i in range(len(features))])
        self.block_size = block_size

    @property
    def n(self):
        return len(self._features)

    @property
    def dim(self):
        return self._features.shape[1]

    @property
    def n_views(self):
        return 0 if self._views is None else self._views.shape[1]

    @property
    def n_blocks(self):
        return -(-self.n // self.block_size)

    def block(self, index, *, views=False):
        span = slice(index * self.block_size, min(self.n, (index + 1) * self.block_size))
        return FeatureBlock(
            index,
            span.start,
            self._keys[span],
            self._features[span],
            self._views[span] if views and self._views is not None else None,
        )

    def rows(self, positions):
        return self._features[positions]


def report_of(**given):
    """A round's report with some fields given; the others are those of a dull round."""
    usual = {
        "round": 1,
        "labels_new": 10,
        "labels_total": 10,
        "labels_unasked": 0,
        "skipped": 0,
        "ignored": 0,
        "pseudo_labels": 0,
        "pseudo_label_precision": None,
        "test_accuracy": None,
        "test_macro_accuracy": None,
        "pool_accuracy_estimate": None,
        "agreement": 0.9,
        "predictions_changed": 0.1,
        "expected_gain": None,
        "reward": None,
        "ms_indicator": None,
        "next_key": None,
        "train_loss": None,
        "restarts": 0,
        "seconds": StageSeconds(),
        "wall_seconds": 1.0,
    }
    return RoundReport(**{**usual, **given})


_COMMANDS = """
import contextlib, io, json, sys
from psp_ray.main import main
for arguments in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


def psp_ray_commands(path, *commands, cwd=None):
    """`psp-ray` with each of the lists of arguments, in one new process with `path` as its PYTHONPATH.

    A process spends most of its time on imports; commands that leave the process as it was may share one.
    """
    done = subprocess.run(
        [sys.executable, "-c", _COMMANDS],
        input=json.dumps([[str(argument) for argument in arguments] for arguments in commands]),
        env={**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(commands), done.stdout
    return [subprocess.CompletedProcess(arguments, *rest) for arguments, rest in zip(commands, results, strict=True)]


def write_embeddings(folder, names, labels, vectors, text, tested):
    """`rows.parquet` and `classes.parquet` in a folder, and the settings that name them.

    Embeddings (n, d) with `labels` (n,) of `names`, those where `tested` (n,) in the test part; `text` (C, d).
    """
    width = vectors.shape[1]
    columns = {
        "sample_id": [f"s{i:03d}" for i in range(len(vectors))],
        "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32(), width)),
        "label": [names[label] for label in labels],
        "part": ["test" if held else "pool" for held in tested],
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    classes = {"class": names, "embedding": pa.array(text.tolist(), pa.list_(pa.float32(), width))}
    pq.write_table(pa.table(classes), folder / "classes.parquet")
    return {
        "dataset": str(folder / "rows.parquet"),
        "class_embeddings": str(folder / "classes.parquet"),
        "logit_scale": 20.0,
        "pictures": False,
        "cache": str(folder / "cache"),
        "out": str(folder / "run"),
        "runner": "inline",
    }


class Hearing(Silent):
    """Keeps what a run says."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def note(self, text):
        self.heard.append(text)
