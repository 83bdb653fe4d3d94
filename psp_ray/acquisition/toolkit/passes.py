"""Passing over blocks of a pool many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

CACHE_BYTES = 1 << 30
"""What a strategy that passes over the pool many times may keep of it; the rest is computed anew in every pass."""

T = TypeVar("T", bound=tuple[NDArray[Any], ...])


class Passes(Generic[T]):
    """Blocks of arrays to go over many times: kept up to `limit` bytes, made anew by `make()` beyond."""

    def __init__(self, make: Callable[[], Iterator[T]], limit: int = CACHE_BYTES) -> None:
        self._make, self._limit = make, limit
        self.kept: list[T] | None = None
        """All blocks, once a pass has shown that they fit."""
        self._too_large = False

    def __iter__(self) -> Iterator[T]:
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[T] = []
        total = 0
        for arrays in self._make():
            total += sum(array.nbytes for array in arrays)
            if total > self._limit:
                self._too_large = True
                kept.clear()
            if not self._too_large:
                kept.append(arrays)
            yield arrays
        if not self._too_large:
            self.kept = kept
