"""What only looks is light: a small command imports nothing that takes seconds, so that a mistake is told at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from psp_ray.cli.listing import KINDS
from psp_ray.labels import GroundTruthAnnotator, Oracle
from psp_ray.run.folder import open_out
from psp_ray.run.resolve import resolve
from tests.data.made import save

SECONDS = ("torch", "ray", "open_clip", "sklearn", "numba", "mlflow")
"""Packages that take seconds to import."""
TENTHS = (*SECONDS, "pandas", "matplotlib", "sqlalchemy", "scipy.special", "scipy.optimize", "scipy.stats")
"""And those that take a good part of one."""
CODE = """
import sys
from psp_ray.cli.main import main
for words in sys.argv[2:]:
    try:
        main(words.split())
    except SystemExit as ended:
        assert ended.code in (0, 2), (words, ended.code)
print(*[name for name in sys.argv[1].split(",") if name in sys.modules])
"""


def imported(folder, forbidden, *commands):
    """Which of the `forbidden` modules a process has imported that ran the commands; and what they said on stderr."""
    environment = os.environ | {"PSP_RAY_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", CODE, ",".join(forbidden), *commands]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split(), done.stderr


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        save(folder / f"{number}.png", number)
    return folder


@pytest.mark.parametrize(
    ("forbidden", "commands"),
    [
        (
            (*TENTHS, "pyarrow"),
            ["--help", "run --help", "check-data --help", "continue --help", "predict --help", "explain --help"],
        ),
        (TENTHS, ["run --dry-run", "run --model psp-light --dry-run", "run --strategy entropi"]),
        (SECONDS, ["run --rounds 1000", "run --model psp-light"]),
        (TENTHS, ["cache ls", "check-data --dataset photos --classes cat,dog"]),
        (SECONDS, [f"list {kind}" for kind in KINDS]),
        (SECONDS, ["compare --datasets digits --strategies random --dry-run"]),
        (SECONDS, ["sweep --datasets digits --out x --vary kappa=-1,1"]),
    ],
    ids=lambda given: given[0],
)
def test_looking_is_light(forbidden, commands, photos, tmp_path):
    assert imported(tmp_path, forbidden, *commands)[0] == []


def test_a_typo_is_told_at_once(photos, tmp_path):
    settings = {"dataset": str(photos), "classes": "cat,dog", "oracle": "file", "out": "run", "runner": "inline"}
    open_out(resolve(settings), tmp_path / "run")
    (tmp_path / "run" / "round_01").mkdir()
    (tmp_path / "run" / "round_01" / "query.csv").write_text("sample_id,label\n0.png,cat\n1.png,dgo\n")
    again = "run --resume " + " ".join(f"--{key} {value}" for key, value in settings.items())
    found, said = imported(tmp_path, TENTHS, "continue run", again)
    assert found == []
    assert said.count("run/round_01/query.csv:3: 'dgo' is no class (did you mean 'dog'?)") == 2


def test_the_state_of_a_ledger_takes_a_database_alone(tmp_path):
    Oracle(tmp_path / "ledger.sqlite", GroundTruthAnnotator({}), ["cat", "dog"]).close()
    without = [name for name in TENTHS if name != "sqlalchemy"]
    assert imported(tmp_path, without, "oracle status --ledger ledger.sqlite")[0] == []


def test_pandas_is_there_when_it_is_wanted(tmp_path):
    code = """
import sys
from psp_ray.core.light import spare_pandas
spare_pandas()
import pyarrow as pa
assert pa.array(["a", None]).null_count == 1 and "pandas" not in sys.modules
assert pa.table({"a": [1, 2]}).to_pandas()["a"].sum() == 3
import pandas
assert pa.array(pandas.Series([1.0, float("nan")])).null_count == 1
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ, check=True, timeout=240)
