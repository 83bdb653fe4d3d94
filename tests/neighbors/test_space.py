"""The image space against scikit-learn's PCA."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from psp_ray.core.errors import DatasetError
from psp_ray.neighbors.space import ImageSpace, fit_blocks, subset
from tests.helpers import ArrayPool
from tests.selftrain.conftest import make_pool


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(encodings, whitening):
    """Unit vectors by scikit-learn: principal components divided by deviation ** whitening."""
    pca = PCA().fit(encodings.astype(np.float64))
    deviation = np.sqrt(pca.explained_variance_)
    return unit(pca.transform(encodings) * np.maximum(deviation / deviation.max(), 1e-3) ** -whitening)


def embedded(pool, **options):
    space = ImageSpace.fit(pool, **options)
    return np.concatenate([space.embed(pool.block(i, views=space.views)) for i in range(pool.n_blocks)])


@pytest.mark.parametrize("whitening", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("views", [True, False])
def test_space_is_whitened_pca(whitening, views):
    pool, _, _ = make_pool(n=230, block_size=64)
    blocks = [pool.block(i, views=True) for i in range(pool.n_blocks)]
    features = np.concatenate([block.features for block in blocks]).astype(np.float64)
    if views:
        features = features + np.concatenate([block.views for block in blocks]).astype(np.float64).sum(1)
    expected = reference(unit(features), whitening)
    got = embedded(pool, whitening=whitening, views=views)
    # The space is defined up to a rotation: inner products are what counts.
    np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=2e-4)


def test_blocks_do_not_matter():
    cut, whole = make_pool(n=230, block_size=64)[0], make_pool(n=230, block_size=4096)[0]
    a, b = embedded(cut), embedded(whole)
    np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-4)


def test_identical_images_are_no_trouble():
    got = embedded(ArrayPool(np.tile(unit(np.ones(8)), (20, 1))))
    np.testing.assert_allclose(got @ got.T, np.ones((20, 20)), atol=1e-3)


def test_features_that_are_not_finite_are_named():
    features = np.tile(unit(np.ones(4)), (9, 1))
    features[7, 1] = np.nan
    with pytest.raises(DatasetError, match="sample 7"):
        ImageSpace.fit(ArrayPool(features, block_size=4))


def test_large_pools_are_fitted_on_evenly_spaced_blocks():
    assert fit_blocks(3) == [0, 1, 2]
    chosen = fit_blocks(1000)
    assert (len(chosen), chosen[0], chosen[-1]) == (16, 0, 999)


def test_subset_is_uniform_sorted_and_independent_of_blocks():
    pool = ArrayPool(np.eye(4)[np.zeros(400, int)], block_size=50)
    whole = ArrayPool(np.eye(4)[np.zeros(400, int)])
    positions = np.arange(0, 400, 2)
    assert subset(pool, positions, 200, "x") is positions
    hits = np.zeros(400, int)
    for number in range(300):
        got = subset(pool, positions, 60, "x", round=number)
        assert len(got) == 60
        assert (np.diff(got) > 0).all()
        np.testing.assert_array_equal(got, subset(whole, positions, 60, "x", round=number))
        hits[got] += 1
    assert hits[1::2].sum() == 0
    assert np.abs(hits[::2] / 300 - 0.3).max() < 0.12
