"""Only Arrow and typed records cross, and they arrive as they left."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from psp_ray.actors.transport import pack, unpack
from psp_ray.core.errors import ConfigError
from psp_ray.core.names import Digests, Names
from psp_ray.core.records import Evaluation, PoolState, TextState
from psp_ray.run.inputs import OracleInput
from psp_ray.run.resolve import resolve


def over_the_wire(value):
    return unpack(pickle.loads(pickle.dumps(pack(value), protocol=5)))


def test_nested_record():
    state = PoolState(
        round=2,
        seed=0,
        n_query=3,
        n_classes=4,
        text=TextState(np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32), 42.5),
        unlabeled=np.arange(10),
        labeled=np.zeros(0, np.int64),
        labels=np.zeros(0, np.int32),
    )
    back = over_the_wire(state)
    assert isinstance(back, PoolState)
    assert np.array_equal(back.text.features, state.text.features)
    assert back.text.logit_scale == 42.5
    assert np.array_equal(back.unlabeled, state.unlabeled)
    assert back.labels.dtype == np.int32


@given(
    hnp.arrays(
        dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.uint64, np.bool_]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    )
)
def test_arrays_keep_type_shape_and_bits(array):
    back = over_the_wire({"a": array, "b": [array, 1.5, None, "text"]})
    assert back["a"].dtype == array.dtype
    assert back["a"].shape == array.shape
    assert back["a"].tobytes() == array.tobytes()
    assert back["b"][1:] == [1.5, None, "text"]


def test_arrays_start_on_cache_lines():
    back = over_the_wire([np.ones(3), np.ones(5, np.float32), np.ones(7)])
    starts = [array.__array_interface__["data"][0] for array in back]
    assert len({start % 64 for start in starts}) == 1


def test_arrow_tables_pass_through():
    table = pa.table({"x": [1, 2]})
    assert over_the_wire([table])[0].equals(table)


def test_names_and_hashes_cross_as_columns():
    settings = resolve({}).labels
    names, hashes = [f"s{i}" for i in range(5)], [f"{i:032x}" for i in range(5)]
    given = OracleInput(settings, ["a", "b"], "", Names.of(names), np.zeros(5, np.int32), "", None, Digests.of(hashes))
    packet = pickle.loads(pickle.dumps(pack(given)))
    found = unpack(packet)
    assert isinstance(found.sample_ids, Names)
    assert found.sample_ids == names
    assert isinstance(found.content_hashes, Digests)
    assert found.content_hashes == hashes
    bad = pack(Digests.of(hashes))
    bad.tree[2]["hashes"] = ("array", 0)
    wrong = pack([np.zeros((5, 3), np.uint8)])
    with pytest.raises(ValueError, match="hashes are"):
        unpack(type(bad)(bad.tree, wrong.arrays))


def test_a_section_of_the_settings_arrives_checked():
    config = resolve({"rounds": 3, "views": "fresh:2", "strategy": "psp-paper"})
    for section in (config.model, config.learn, config.selftrain, config.policy, config.labels):
        assert over_the_wire([section])[0] == section
    packet = pack(config.labels)
    forged = type(packet)((*packet.tree[:2], {**packet.tree[2], "rounds": -1}), packet.arrays)
    with pytest.raises(ConfigError, match="rounds"):
        unpack(forged)


def test_other_objects_are_refused():
    for value in (object(), {1, 2}, np.array([object()]), lambda: 1):
        with pytest.raises(TypeError):
            pack(value)


def test_foreign_records_are_refused_on_arrival():
    packet = pack(Evaluation(0.5, 0.5, 2))
    forged = type(packet)(("record", "subprocess:Popen", {}), packet.arrays)
    with pytest.raises(TypeError, match="foreign"):
        unpack(forged)
