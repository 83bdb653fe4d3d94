"""Whether a cluster that is started here wants a token. To be asked before Ray is imported, so it imports no Ray."""

from __future__ import annotations

import os
import sys

MODE = "RAY_AUTH_MODE"


def want_token(address: str | None) -> None:
    """Let the cluster want a token that is about to be started here, that is without an `address` (or `RAY_ADDRESS`).

    Ray makes one that only this user can read. From 2.60 on it does so by itself, before (2.52) where it is told to
    in the environment, before it is imported; a cluster that is joined decides for itself.
    """
    if not address and not os.environ.get("RAY_ADDRESS") and "ray" not in sys.modules:
        os.environ.setdefault(MODE, "token")
