"""`pip install` that says what takes long: what is downloaded and how large it is, then that it is unpacked.

Run by the Makefile with the virtual environment's Python, before anything is installed in it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import deque

LARGE = 25.0
"""Megabytes from which a package is worth a line."""
_FETCHED = re.compile(
    r"\s*(Downloading|Using cached) (?P<file>\S+?)(?:\.metadata)? \((?P<size>[\d.]+) (?P<unit>MB|GB)\)"
)


def shown(line: str) -> str | None:
    """What a line of pip is worth telling; None where it isn't."""
    if line.startswith("Installing collected packages: "):
        return f"unpacking {line.count(',') + 1} packages …"
    found = _FETCHED.match(line)
    if not found or float(found["size"]) * (1000.0 if found["unit"] == "GB" else 1.0) < LARGE:
        return None
    name = "-".join(found["file"].rpartition("/")[2].split("-")[:2])
    verb = "downloading" if found[1] == "Downloading" else "from pip's cache:"
    return f"{verb} {name} ({found['size']} {found['unit']})"


def main(arguments: list[str]) -> int:
    """Run `pip install` with the arguments; returns its exit code. Where it fails, the end of what it said is shown."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", "--no-color", *arguments]
    started = time.monotonic()
    last: deque[str] = deque(maxlen=40)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            last.append(line)
            told = shown(line)
            if told:
                print(f"  {time.monotonic() - started:4.0f} s  {told}", flush=True)
    if pip.returncode:
        sys.stderr.writelines(line for line in last if not line.startswith("WARNING: "))
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
