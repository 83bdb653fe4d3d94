"""Threads: limits that libraries which come later obey, too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
from psp_ray.core.threads import limit_threads
limit_threads(2)
import sklearn.utils._openmp_helpers
"""


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP tells its settings")
def test_openmp_threads_sleep_while_they_wait_unless_told_otherwise():
    """By OpenMP's own report (OMP_DISPLAY_ENV)."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")):
        environment = plain | given | {"OMP_DISPLAY_ENV": "true"}
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "OMP_NUM_THREADS = '2'" in done.stderr
        assert f"OMP_WAIT_POLICY = '{expected}'" in done.stderr
