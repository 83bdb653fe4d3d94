"""Members of large pools: cells against plain definitions and scikit-learn, masses against what they estimate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from psp_ray.neighbors import attach as attach_module
from psp_ray.neighbors import cells as cells_module
from psp_ray.neighbors.attach import attach
from psp_ray.neighbors.cells import cells_of, draw_members, is_large, k_means
from tests.helpers import ArrayPool
from tests.selftrain.conftest import unit


@pytest.fixture(scope="module")
def clustered():
    """3,000 images: a crowd in 20 clusters, and a group of 30 far from all of them."""
    draw = np.random.default_rng(0)
    centers = unit(draw.normal(size=(21, 16)))
    group = np.where(np.arange(3000) < 30, 20, draw.integers(0, 20, 3000))
    draw.shuffle(group)
    return ArrayPool(unit(centers[group] + 0.08 * draw.normal(size=(3000, 16))), block_size=256), group


@pytest.fixture
def cells(clustered, monkeypatch):
    monkeypatch.setattr(cells_module, "CELLS", 32)
    return cells_of(clustered[0])


def test_images_stand_in_the_nearest_cell(clustered, cells):
    pool, _ = clustered
    for index in (0, 5, pool.n_blocks - 1):
        block = pool.block(index)
        for row, place in enumerate(cells.space.embed(block)):
            cosines = [float(place @ center) for center in cells.centers]
            assert cells.of[block.start + row] == int(np.argmax(cosines))
            assert cells.distance[block.start + row] == pytest.approx(1 - max(cosines), abs=1e-3)
    assert cells.sizes.sum() == pool.n
    assert cells_of(pool) is cells  # once for each pool that is open


def test_cells_are_about_as_tight_as_those_of_scikit_learn(clustered, cells):
    places = np.concatenate([cells.space.embed(clustered[0].block(i)) for i in range(clustered[0].n_blocks)])
    own = 1 - (places @ k_means(places, 24).T).max(axis=1).mean()
    theirs = KMeans(24, n_init=1, random_state=0).fit(places).cluster_centers_
    assert own < 1.5 * (1 - (places @ unit(theirs).T).max(axis=1).mean())


def test_masses_estimate_sums_over_the_pool(clustered, cells):
    """Horvitz and Thompson: without bias, whatever is summed."""
    values = np.random.default_rng(1).gamma(1.0, size=(3000, 2))
    values[:, 1] = clustered[1] == 20
    drawn = [draw_members(cells, 200, f"draw-{i}") for i in range(150)]
    sums = np.array([members.mass @ values[members.positions] for members in drawn])
    error = sums.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(sums.mean(axis=0) - values.sum(axis=0)) < 4 * error).all()
    share = np.mean([np.mean(clustered[1][members.positions] == 20) for members in drawn])
    assert share > 1.5 * 30 / 3000  # small groups have more of a say than by chance


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 400), among=st.integers(1, 400), seed=st.integers(0, 99), temper=st.sampled_from([0.5, 1.0])
)
def test_members_are_distinct_sorted_and_worth_it(count, among, seed, temper):
    draw = np.random.default_rng(seed)
    pool = ArrayPool(unit(draw.normal(size=(400, 8))), block_size=64)
    positions = np.sort(draw.choice(400, among, replace=False))
    worth = draw.uniform(size=among) * (draw.uniform(size=among) < 0.8)
    found = draw_members(cells_of(pool), count, "any", among=positions, worth=worth, temper=temper)
    again = draw_members(cells_of(pool), count, "any", among=positions, worth=worth, temper=temper)
    assert len(found.positions) == min(count, int((worth > 0).sum()))
    assert (np.diff(found.positions) > 0).all()
    assert np.isin(found.positions, positions[worth > 0]).all()
    assert (found.mass >= 1 - 1e-6).all()
    np.testing.assert_array_equal(again.positions, found.positions)


def test_neighbors_among_members_are_mostly_the_true_ones(clustered, cells, monkeypatch):
    monkeypatch.setattr(attach_module, "_ENTRIES", 3 * 256 * 16)
    pool, _ = clustered
    members = draw_members(cells, 500, "members").positions
    places = np.concatenate([cells.space.embed(pool.block(i)) for i in range(pool.n_blocks)])
    found = attach(pool, cells, members, places[members], power=3.0)
    others = np.setdiff1d(np.arange(pool.n), members)
    near = NearestNeighbors(n_neighbors=3).fit(places[members]).kneighbors(places[others])[1]
    recall = np.mean([len(np.intersect1d(a, b)) / 3 for a, b in zip(found.members[others], near, strict=True)])
    assert recall > 0.95
    np.testing.assert_allclose(found.weights.astype(float).sum(axis=1), 1.0, atol=2e-3)
    rows = found.rows(members, len(members)).toarray()
    np.testing.assert_array_equal(rows, np.eye(len(members)))  # who is one listens to itself


def test_pools_of_today_are_not_large():
    assert not is_large(20_000, 100)
    assert not is_large(4_128, 1_000)
    assert is_large(20_001)
    assert is_large(10_000, 1_000)
