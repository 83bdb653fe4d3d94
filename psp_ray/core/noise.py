"""Counter-based noise: a random number is a function of what it is for, never of when it was drawn.

Every draw is keyed by (seed, round, purpose, sample key, draw index), so any sample's noise is the same on one shard
or many, before or after a restart, and whichever process computes it. The mixer is the finalizer of SplitMix64
(Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), applied twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import islice

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.typing import NDArray

UInt64Array = NDArray[np.uint64]
Float64Array = NDArray[np.float64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_CHUNK = 1 << 16  # names that are Python's at a time


def _finalize(x: UInt64Array) -> UInt64Array:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def sample_keys(sample_ids: Iterable[str]) -> UInt64Array:
    """64-bit keys of sample names, shape (n,): the first 8 bytes of BLAKE2b of the UTF-8 name."""
    names, parts = iter(sample_ids), []
    while some := list(islice(names, _CHUNK)):
        digests = b"".join([hashlib.blake2b(name.encode(), digest_size=8).digest() for name in some])
        parts.append(np.frombuffer(digests, dtype="<u8").astype(np.uint64))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def stream_key(seed: int, purpose: str, round: int = 0) -> int:
    """An unsigned 63-bit integer for (seed, round, purpose); also good as a seed for torch or numpy generators."""
    digest = hashlib.blake2b(f"{seed}\x1f{round}\x1f{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def bits(seed: int, purpose: str, keys: UInt64Array, *, round: int = 0, draw: int = 0) -> UInt64Array:
    """Raw 64-bit words, one for each of `keys` (shape (n,), uint64). `draw` numbers repeated draws per sample."""
    base = np.uint64(stream_key(seed, f"{purpose}\x1f{draw}", round))
    with np.errstate(over="ignore"):
        return _finalize(_finalize(np.asarray(keys, dtype=np.uint64) + base) * _GOLDEN + base)


def uniform(seed: int, purpose: str, keys: UInt64Array, *, round: int = 0, draw: int = 0) -> Float64Array:
    """Uniform draws in the open interval (0, 1), float64, shape (n,)."""
    words = bits(seed, purpose, keys, round=round, draw=draw) >> np.uint64(12)
    return (words.astype(np.float64) + 0.5) * 2.0**-52  # 52 bits: with 53 the largest would round to 1


def normal(seed: int, purpose: str, keys: UInt64Array, *, round: int = 0, draw: int = 0) -> Float64Array:
    """Standard normal draws by inversion, float64, shape (n,)."""
    draws: Float64Array = scipy.special.ndtri(uniform(seed, purpose, keys, round=round, draw=draw))
    return draws


def gumbel(seed: int, purpose: str, keys: UInt64Array, *, round: int = 0, draw: int = 0) -> Float64Array:
    """Standard Gumbel draws, float64, shape (n,)."""
    return -np.log(-np.log(uniform(seed, purpose, keys, round=round, draw=draw)))
