"""The program: `python -m psp_ray.main COMMAND`, also installed as `psp-ray`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ends the process with the exit code. Ctrl-C counts from the first import on."""
    try:
        from psp_ray.cli.main import main as command_line
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    command_line(arguments)


if __name__ == "__main__":
    main()
