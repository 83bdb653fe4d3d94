"""Reading the pool in blocks equals indexing the whole array."""

import numpy as np
import pytest

from psp_ray.core.errors import DatasetError
from psp_ray.core.pool import block_spans, class_embeddings, read_blocks, read_keys, read_rows
from psp_ray.core.records import TextState
from tests.helpers import ArrayPool

FEATURES = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
SOME = np.array([0, 7, 8, 15, 16, 40, 49])


@pytest.mark.parametrize("size", [1, 8, 16, 4096])
def test_blocks_give_the_rows_of_the_array_in_order(size):
    pool = ArrayPool(FEATURES, block_size=size)
    whole = ArrayPool(FEATURES).block(0)
    blocks = list(read_blocks(pool, SOME))
    np.testing.assert_array_equal(np.concatenate([block.positions for block in blocks]), SOME)
    np.testing.assert_array_equal(np.concatenate([block.features for block in blocks]), whole.features[SOME])
    np.testing.assert_array_equal(np.concatenate([block.keys for block in blocks]), whole.keys[SOME])
    np.testing.assert_array_equal(read_keys(pool, SOME), whole.keys[SOME])
    np.testing.assert_array_equal(read_rows(pool, SOME[::-1]), whole.features[SOME[::-1]])
    for index, span in block_spans(SOME, size):
        assert set(SOME[span] // size) == {index}
    assert list(read_blocks(pool, SOME[:0])) == []


def test_what_is_not_a_number_is_named_unless_it_is_not_read():
    broken = FEATURES.copy()
    broken[15, 1] = np.nan
    pool = ArrayPool(broken, block_size=8)
    with pytest.raises(DatasetError, match=r"pool sample 15 .* featurize again"):
        list(read_blocks(pool, SOME))
    with pytest.raises(DatasetError, match="pool sample 15"):
        read_rows(pool, SOME)
    assert len(read_keys(pool, SOME)) == 7
    assert len(read_rows(pool, np.array([14, 16]))) == 2


def test_class_embeddings_must_be_finite_and_of_the_same_model():
    pool = ArrayPool(FEATURES)
    assert class_embeddings(TextState(np.ones((2, 3)), 1.0), pool).dtype == np.float32
    with pytest.raises(DatasetError, match="width 4 and image features of width 3"):
        class_embeddings(TextState(np.ones((2, 4), np.float32), 1.0), pool)
    with pytest.raises(DatasetError, match="learning diverged"):
        class_embeddings(TextState(np.full((2, 3), np.inf, np.float32), 1.0), pool)
