"""What a cluster that psp-ray starts listens on, by what the system says of every process of it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("ss") is None, reason="wants ss")
def test_a_cluster_started_here_listens_on_loopback_alone(local_ray):
    import psutil  # comes with Ray, which is there by now

    @local_ray.remote(num_cpus=0.01)
    def one():
        return 1

    assert local_ray.get(one.remote()) == 1  # a worker is there too
    family = {process.pid for process in psutil.Process().children(recursive=True)}
    told = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in told.splitlines():
        pids = {int(pid) for pid in re.findall(r"pid=(\d+)", line)}
        if pids & family:
            place = line.split()[3]
            found[place] = line
    assert len(found) >= 4, "GCS, raylet and workers at least"
    strange = [line for place, line in found.items() if not re.match(r"127\.|\[::ffff:127\.|\[::1\]", place)]
    assert not strange, "\n".join(strange)
    token = Path.home() / ".ray" / "auth_token"
    assert not token.exists() or token.stat().st_mode & 0o077 == 0
