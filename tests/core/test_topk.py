"""Streaming top-k against sorting everything."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from psp_ray.core.topk import StreamingTopK, rank_in_group


@settings(max_examples=150, deadline=None)
@given(
    groups=st.integers(1, 4),
    k=st.integers(0, 5),
    blocks=st.lists(st.integers(0, 9), max_size=5),
    levels=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_streaming_equals_sorting(groups, k, blocks, levels, seed):
    draw = np.random.default_rng(seed)
    n = sum(blocks)
    values = draw.integers(0, levels, (groups, n)).astype(float)
    values[draw.random((groups, n)) < 0.15] = -np.inf
    values[draw.random((groups, n)) < 0.05] = np.nan
    positions = np.sort(draw.choice(10 * n + 1, n, replace=False))
    top = StreamingTopK(groups, k)
    at = 0
    for m in blocks:
        top.offer(values[:, at : at + m], positions[at : at + m])
        at += m
    group, value, position = top.result()
    for g in range(groups):
        expected = sorted((-v, p) for v, p in zip(values[g], positions, strict=True) if v > -np.inf)[:k]
        assert [(-v, p) for v, p in zip(value[group == g], position[group == g], strict=True)] == expected
    assert top.truncated == (n > k)


@settings(max_examples=100, deadline=None)
@given(k=st.integers(0, 6), blocks=st.lists(st.integers(0, 9), max_size=5), seed=st.integers(0, 2**16))
def test_keys_order_equal_values(k, blocks, seed):
    draw = np.random.default_rng(seed)
    n = sum(blocks)
    values, keys = draw.integers(0, 3, n).astype(float), draw.permutation(n).astype(np.uint64) + np.uint64(2**63)
    top = StreamingTopK(1, k)
    at = 0
    for m in blocks:
        top.offer(values[None, at : at + m], np.arange(at, at + m), keys[at : at + m])
        at += m
    assert top.result()[2].tolist() == sorted(range(n), key=lambda i: (-values[i], keys[i]))[:k]


@given(st.lists(st.integers(0, 3), max_size=20))
def test_rank_in_group(values):
    values = sorted(values)
    assert rank_in_group(np.array(values, np.int64)).tolist() == [i - values.index(v) for i, v in enumerate(values)]
