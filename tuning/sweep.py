"""`python -m tuning.sweep`: `psp-ray sweep` under another name."""

from __future__ import annotations

import sys
from functools import partial

from psp_ray.cli.sweep import sweep
from psp_ray.core.exit_codes import exit_code


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exit codes as `psp-ray sweep`."""
    sys.exit(exit_code(partial(sweep.main, args=arguments, prog_name="python -m tuning.sweep", standalone_mode=False)))


if __name__ == "__main__":
    main()
