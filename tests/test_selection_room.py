"""The simulator of rounds, and the ranking that says what choosing better could bring."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from benchmarks.selection_room import PENALTY, learned, look
from benchmarks.simulator import made, read_world
from psp_ray.core.records import TextState


@pytest.fixture(scope="module")
def world():
    return made(2)


def test_a_made_world_is_a_function_of_its_seed(world):
    again, other = made(2), made(3)
    np.testing.assert_array_equal(world.pool.features, again.pool.features)
    np.testing.assert_array_equal(world.truth, again.truth)
    assert other.pool.features.shape != world.pool.features.shape or (other.truth != world.truth).any()
    np.testing.assert_allclose(np.linalg.norm(world.pool.features.astype(float), axis=1), 1, atol=2e-3)
    assert isinstance(world.teacher, TextState)


def test_asking_tells_the_share_that_is_right_then(world):
    begin = world.begin()
    chosen = world.plan(begin)
    assert len(set(chosen)) == world.n_classes
    after, worth = world.ask(begin, chosen)
    said = after.probabilities.argmax(axis=1)
    right = sum(i in set(chosen) or said[i] == world.truth[i] for i in range(world.pool.n))
    assert worth == pytest.approx(right / world.pool.n)
    assert (begin.round, after.round) == (1, 2)
    assert not np.isin(world.plan(after), chosen).any()
    assert world.ask(begin, np.arange(world.pool.n))[1] == 1.0


def test_a_file_gives_the_pool_s_part(tmp_path):
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(60, 8)).astype(np.float32), np.arange(60) % 3
    part = np.array(["pool"] * 40 + ["test"] * 20)
    np.savez(tmp_path / "small.npz", features=features, labels=labels, part=part, text=np.eye(3, 8))
    one, same, other = (read_world(tmp_path / "small.npz", seed, share=0.5) for seed in (0, 0, 1))
    assert one.pool.n == 20
    np.testing.assert_array_equal(one.pool.features, same.pool.features)
    assert (one.pool.features != other.pool.features).any()


def test_what_is_known_of_sets_has_neither_scale_nor_shift(world):
    found = look(world, rounds=2, count=3)
    assert [number for number, _, _ in found] == [1, 2]
    for _, told, worth in found:
        assert told.shape[0] == len(worth) == 4
        np.testing.assert_allclose(told.mean(axis=0), 0, atol=1e-6)
        assert set(np.round(told.std(axis=0), 6)) <= {0.0, 1.0}
        assert ((worth > 0) & (worth <= 100)).all()


def test_a_ranking_finds_what_the_other_worlds_teach():
    """Against scikit-learn's ridge; and a worth that is linear in what is known is found, one that isn't, is not."""
    draw = np.random.default_rng(0)
    truth = draw.normal(size=5)
    worlds, noise = [], []
    for _ in range(6):
        told = draw.normal(size=(12, 5))
        told = (told - told.mean(0)) / told.std(0)
        worlds.append([(1, told, told @ truth)])
        noise.append([(1, told, draw.normal(size=12))])
    gains, rho = learned(worlds, (1,))
    assert min(rho) > 0.95
    most = [item[0][2].max() - item[0][2][0] for item in worlds]
    assert sum(gain == pytest.approx(best) for gain, best in zip(gains, most, strict=True)) >= 5
    assert abs(np.mean(learned(noise, (1,))[1])) < 0.5
    x = np.concatenate([item[0][1] for item in worlds[1:]])
    y = np.concatenate([item[0][2] - item[0][2].mean() for item in worlds[1:]])
    ridge = Ridge(alpha=PENALTY * len(x), fit_intercept=False).fit(x, y)
    preferred = ridge.predict(worlds[0][0][1]).argmax()
    assert gains[0] == pytest.approx(worlds[0][0][2][preferred] - worlds[0][0][2][0])
    assert learned(worlds, (2,)) == ([], [])
