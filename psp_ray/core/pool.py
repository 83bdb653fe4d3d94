"""Reading the pool: block by block, in order, with features that are checked to be numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from psp_ray.core.errors import DatasetError
from psp_ray.core.records import BLOCK_SIZE, Float32Array, Int64Array, PoolReader, TextState, UInt64Array


@dataclass(frozen=True)
class Block:
    """The wanted samples of one block: `positions` (m,), noise `keys` (m,), `features` (m, d) float32."""

    positions: Int64Array
    keys: UInt64Array
    features: Float32Array


def block_spans(positions: Int64Array, block_size: int) -> Iterator[tuple[int, slice]]:
    """(index, span) of every block that holds any of the sorted `positions`: `positions[span]` lie in it."""
    for index in np.unique(positions // block_size).tolist():
        low, high = np.searchsorted(positions, [index * block_size, (index + 1) * block_size])
        yield index, slice(int(low), int(high))


def read_blocks(pool: PoolReader, positions: Int64Array) -> Iterator[Block]:
    """The blocks of the sorted `positions`, in order. Raises DatasetError where a feature is not a finite number."""
    for index, span in block_spans(positions, pool.block_size):
        part = positions[span]
        block = pool.block(index)
        rows = part - block.start
        features = finite(np.asarray(block.features[rows], np.float32), part)
        yield Block(np.asarray(part, np.int64), block.keys[rows], features)


def read_rows(pool: PoolReader, positions: Int64Array) -> Float32Array:
    """Features (k, d) float32 at any positions, in their order. Raises DatasetError where one is not finite."""
    positions = np.asarray(positions, np.int64)
    features = np.empty((len(positions), pool.dim), np.float32)
    for at in range(0, len(positions), BLOCK_SIZE):
        part = positions[at : at + BLOCK_SIZE]
        features[at : at + BLOCK_SIZE] = pool.rows(part)
        finite(features[at : at + BLOCK_SIZE], part)
    return features


def read_keys(pool: PoolReader, positions: Int64Array) -> UInt64Array:
    """Noise keys (n,) of the sorted `positions`; no feature is looked at."""
    held = getattr(pool, "keys", None)
    if held is not None and len(positions) == pool.n:
        return np.asarray(held, np.uint64)
    if held is not None:
        return np.asarray(held[positions], np.uint64)
    keys = np.empty(len(positions), np.uint64)
    for index, span in block_spans(positions, pool.block_size):
        block = pool.block(index)
        keys[span] = block.keys[positions[span] - block.start]
    return keys


def finite(features: Float32Array, positions: Int64Array) -> Float32Array:
    """`features` (k, d) of the samples at `positions` (k,); raises DatasetError naming the first that is not finite."""
    good = np.isfinite(features).all(axis=1)
    if not good.all():
        raise DatasetError(
            f"the feature of pool sample {int(positions[~good][0])} is not a finite number; clear the feature cache "
            "and featurize again"
        )
    return features


def class_embeddings(text: TextState, pool: PoolReader) -> Float32Array:
    """Class embeddings (C, d) float32. Raises DatasetError where they are not finite or of another width."""
    features = np.asarray(text.features, np.float32)
    if not np.isfinite(features).all():
        raise DatasetError("the prompt's class embeddings are not finite: learning diverged; lower --learning-rate")
    if features.shape[1] != pool.dim:
        raise DatasetError(
            f"class embeddings of width {features.shape[1]} and image features of width {pool.dim} come from different "
            "models; featurize with the model of the run"
        )
    return features
