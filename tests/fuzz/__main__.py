"""`python -m tests.fuzz --cases 10000`: prints what became of mutated inputs; exit code 1 where one is a traceback."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.harness import main

parser = argparse.ArgumentParser()
parser.add_argument("--cases", type=int, default=10_000)
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()
with tempfile.TemporaryDirectory() as folder:
    sys.exit(bool(main(given.cases, given.seed, Path(folder)).holes))
