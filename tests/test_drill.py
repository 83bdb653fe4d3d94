"""The short form of the drill (`python -m tests.drill`): nothing ends in a traceback or another result."""

from collections import Counter

import pytest

from tests.drill import FAULTS, drill, plan


def test_a_short_drill(tmp_path):
    world = drill(tmp_path, plan(kills=1, ray_kills=0, writes=1, damage=2, mutations=150, seed=0))
    assert not world.failures, "\n".join(world.failures)
    faults = Counter(fault for fault, _, _ in world.table.elements())
    assert faults["mutated"] == 150
    assert faults["kill"] >= 1
    assert sum(faults[name] for name in FAULTS) >= 1
    assert faults.total() >= 150 + 1 + 1 + 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_long_drill(tmp_path):
    cases = plan(kills=200, ray_kills=30, writes=200, damage=300, mutations=10_000, seed=1)
    world = drill(tmp_path, cases, seed=1)
    print(world.show())
    assert not world.failures, "\n".join(world.failures)
