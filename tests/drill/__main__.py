"""The command line of the drill."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import tests.drill
from tests.drill.cases import drill, plan


def main() -> None:
    parser = argparse.ArgumentParser(
        description=tests.drill.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ray-kills", type=int, default=0)
    parser.add_argument("--writes", type=int, default=50)
    parser.add_argument("--damage", type=int, default=50)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="end after so many")
    parser.add_argument("--log", type=Path, help="append every case to this file, and leave out those in it")
    parser.add_argument("--verbose", action="store_true", help="print what was bad")
    given = parser.parse_args()
    cases = plan(given.kills, given.ray_kills, given.writes, given.damage, given.mutations, given.seed)
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        world = drill(Path(folder), cases, given.seed, given.seconds, given.log)
    if given.verbose:
        print("\n\n".join(world.failures))
    print(world.show())
    sys.exit(bool(world.failures))


if __name__ == "__main__":
    main()
