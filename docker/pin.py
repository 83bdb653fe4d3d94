"""Pins the images that ours build on, and PostgreSQL's, by digest: `python docker/pin.py` rewrites the files here.

The digest is that of the list of all platforms, asked of the registry by `docker buildx imagetools inspect`. One that
is there already is renewed, so that this is also how security fixes of a version come in.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOREIGN = re.compile(
    r"^(\s*(?:ARG BASE=|image: ))([a-z0-9./_-]+:[A-Za-z0-9._-]+)(@sha256:[0-9a-f]{64})?$", re.MULTILINE
)
"""A line that names an image with a tag, and perhaps a digest."""
OURS = "psp-ray:"


def digest_of(image: str) -> str:
    """What the registry says of `image`. Raises OSError or subprocess.CalledProcessError where it can't be asked."""
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{.Manifest.Digest}}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def pinned(text: str) -> str:
    """A Dockerfile or compose file with every foreign image named by its digest, too."""

    def renew(found: re.Match[str]) -> str:
        if found[2].startswith(OURS):
            return found[0]
        digest = digest_of(found[2])
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise ValueError(f"{found[2]}: {digest!r} is no digest")
        return f"{found[1]}{found[2]}@{digest}"

    return FOREIGN.sub(renew, text)


def main() -> None:
    for file in (*sorted(HERE.glob("*.Dockerfile")), HERE / "compose.yaml"):
        try:
            text = pinned(file.read_text())
        except subprocess.CalledProcessError as error:
            sys.exit(f"error: {file}: {error.stderr.strip() or error}")
        except (OSError, ValueError) as error:
            sys.exit(f"error: {file}: {error}")
        file.write_text(text)
        print(f"{file.name}: {', '.join(f'{name}{digest}' for _, name, digest in FOREIGN.findall(text))}")


if __name__ == "__main__":
    main()
