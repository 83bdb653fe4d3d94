"""No mutated input is a traceback: hypothesis draws the mutations, so that what it finds is made small."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.harness import Tally, all_readers, main, run_case, spoiled


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def readers(folder):
    return all_readers(folder)


def test_what_is_whole_is_read(folder, readers):
    """Every seed is taken: a harness whose seeds were refused would find nothing."""
    for reader in readers:
        for data in reader.seeds:
            tally = Tally()
            run_case(reader, data, folder, tally)
            assert tally.counts[reader.name, "read"] == 1 or reader.name == "weights", reader.name
            assert not tally.holes, tally.holes[0][1]


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(draw=st.randoms(use_true_random=False), data=st.data())
def test_mutated_inputs_are_read_or_refused_in_one_line(folder, readers, draw, data):
    reader = data.draw(st.sampled_from(readers))
    tally = Tally()
    run_case(reader, spoiled(data.draw(st.sampled_from(reader.seeds)), draw), folder, tally)
    assert not tally.holes, tally.holes[0][1]
    assert tally.counts[reader.name, "hole"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_mutated_inputs(folder, capsys):
    tally = main(10_000, 1, folder)
    print(capsys.readouterr().out)
    assert tally.cases == 10_000
    assert not tally.holes
    assert all(count == 0 for (_, what), count in tally.counts.items() if what == "hole")
