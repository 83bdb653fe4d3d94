"""Keeping small commands small."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec


class _NotNow:
    """Refuses one module to whoever looks for it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "pandas":
            raise ModuleNotFoundError("not now", name=name)
        return None


def spare_pandas() -> None:
    """Keep pyarrow from importing pandas, half a second and 50 MB, to see whether a list is a series of it.

    pyarrow looks for pandas the first time that it is given Python values, and once more where pandas is really wanted
    (`to_pandas`). Let it find none the first time. For processes of ours only: whoever uses this package in their own
    may hand a series to pyarrow.
    """
    if "pandas" in sys.modules:
        return
    finder = _NotNow()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow

        pyarrow.scalar(0)
    finally:
        sys.meta_path.remove(finder)
