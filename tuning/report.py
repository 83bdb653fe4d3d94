"""`python -m tuning.report DIR`: `psp-ray sweep-report` under another name."""

from __future__ import annotations

import sys
from functools import partial

from psp_ray.cli.sweep import sweep_report
from psp_ray.core.exit_codes import exit_code


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exit code 2 where the folder holds no finished trial."""
    command = partial(sweep_report.main, args=arguments, prog_name="python -m tuning.report", standalone_mode=False)
    code = exit_code(command)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
