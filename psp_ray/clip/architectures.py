"""open_clip's architectures by name, read without importing it where that is enough: torch comes with it, in seconds.

open_clip keeps a JSON file for each architecture in its folder `model_configs`. Once it is imported, it is asked
itself, since it may have been told of others (`open_clip.add_model_config`).
"""

from __future__ import annotations

import json
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BUNDLED = "psp-lite"
BUNDLED_FOLDER = Path(__file__).parent / "psp_lite"
_NEEDED = {"embed_dim", "vision_cfg", "text_cfg"}


def known_models() -> list[str]:
    """All names of architectures, the bundled one among them."""
    if "open_clip" in sys.modules:
        import open_clip

        register_bundled()
        return list(open_clip.list_models())
    return sorted(_files())


def model_config(name: str) -> dict[str, Any] | None:
    """The architecture called `name`, or None where there is none."""
    if "open_clip" in sys.modules:
        import open_clip

        register_bundled()
        return open_clip.get_model_config(name) if name in open_clip.list_models() else None
    path = _files().get(name)
    return None if path is None else dict(json.loads(path.read_text(encoding="utf-8")))


def register_bundled() -> None:
    """Tell open_clip the bundled architecture (once, and only where the asset is installed)."""
    import open_clip

    path = BUNDLED_FOLDER / f"{BUNDLED}.json"
    if BUNDLED not in open_clip.list_models() and path.is_file():
        open_clip.add_model_config(path)


@cache
def _files() -> dict[str, Path]:
    """The file of each architecture."""
    found = find_spec("open_clip")
    folders = [Path(place) / "model_configs" for place in (found.submodule_search_locations or [])] if found else []
    files = [path for folder in folders for path in folder.glob("*.json")]
    return {path.stem: path for path in (*files, BUNDLED_FOLDER / f"{BUNDLED}.json") if _is_architecture(path)}


def _is_architecture(path: Path) -> bool:
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).keys() >= _NEEDED
