"""A Ray that is started for one run: which processes it has."""

import pytest

from psp_ray.actors.bare_agent import DASHBOARD, NotInstalled


def test_a_cluster_started_here_has_no_idle_processes(local_ray):
    import psutil  # comes with Ray, which is there by now

    @local_ray.remote(num_cpus=0.01)
    def one():
        return 1

    assert local_ray.get(one.remote()) == 1  # it works without them
    family = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    assert any("raylet" in words for words in family)
    idle = ("monitor.py", "dashboard/dashboard.py")  # log_monitor.py, too
    assert [words for words in family if any(name in words for name in idle)] == []


@pytest.mark.parametrize("name", DASHBOARD)
def test_the_agent_misses_what_the_dashboard_needs(name):
    with pytest.raises(ModuleNotFoundError) as missing:  # the kind that Ray takes for a package that isn't installed
        NotInstalled().find_spec(name)
    assert missing.value.name == name


def test_the_agent_finds_the_rest():
    for name in ("ray", "ray.dashboard.agent", "grpc", "aiohttp.web"):
        assert NotInstalled().find_spec(name) is None  # left to the other finders
