"""The short form of the drill (`python -m tests.drill`): nothing ends in a traceback or another result."""

import pytest

from tests.drill import drill, plan


def test_a_short_drill(tmp_path):
    world = drill(tmp_path, plan(kills=1, ray_kills=0, writes=1, damage=2, mutations=150, seed=0))
    assert not world.failures, "\n".join(world.failures)
    assert sum(world.table.values()) == 154


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_long_drill(tmp_path):
    cases = plan(kills=200, ray_kills=30, writes=200, damage=300, mutations=10_000, seed=1)
    world = drill(tmp_path, cases, seed=1)
    print(world.show())
    assert not world.failures, "\n".join(world.failures)
