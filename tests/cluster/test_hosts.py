"""Several hosts on one machine, for real: network namespaces, an object store, PostgreSQL, kills, and a cut."""

import subprocess

import pytest

from cluster.hosts import RUN, Drill, hosts, packages, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why_not()), reason=f"hosts can't be pretended here: {why_not()}"),
]


def test_hosts_have_addresses_and_files_of_their_own(tmp_path):
    (tmp_path / "shared").mkdir()
    with hosts(["aa", "bb"], {}, {"bb": [str(tmp_path / "shared")]}) as (one, two):
        (tmp_path / "shared" / "file").write_text("below")
        assert one.run("hostname") == (0, "aa\n")
        assert one.run("cat", str(tmp_path / "shared" / "file"))[0] == 0
        assert two.run("cat", str(tmp_path / "shared" / "file"))[0] != 0, "hidden"
        one.run("sh", "-c", "echo mine > /var/tmp/of-one")
        assert two.run("cat", "/var/tmp/of-one")[0] != 0
        ping = ("python3", "-c", f"import socket; socket.create_connection(('{two.address}', 9), 3)")
        assert "refused" in one.run(*ping)[1], "reached, and nobody listens"
        two.cut(True)
        assert "refused" not in one.run(*ping)[1]
        two.cut(False)
        assert "refused" in one.run(*ping)[1]
        two.start("sleep", "600", log=tmp_path / "log")
        assert two.kill() == 1
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    assert not {"aa", "bb"} & set(left)
    assert packages()


def test_a_disturbed_run_chooses_what_an_undisturbed_one_does(tmp_path):
    lines = []
    result = Drill(tmp_path, RUN, lines.append).go()
    log = "\n".join(lines)
    assert result["same"], log
    assert result["labels"] == result["bought"], log
    assert "two: killed" in log
    assert "cut off for 60 s" in log
    assert "ModuleNotFoundError" in log
