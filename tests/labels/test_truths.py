"""True classes by content, against a dictionary."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from psp_ray.core.names import Digests
from psp_ray.labels.truths import TrueClasses

CONTENTS = st.sampled_from([*(f"{number:032x}" for number in range(6)), *(f"hash{number}" for number in range(4))])
GIVEN = st.lists(st.lists(st.tuples(CONTENTS, st.integers(0, 3)), max_size=8), max_size=5)


@given(GIVEN)
def test_they_are_those_of_a_dictionary_and_contradictions_are_told(batches):
    plain, known = {}, TrueClasses()
    for batch in batches:
        new = dict(batch)  # of a content that is there twice the last
        differing = {name for name, label in new.items() if plain.get(name, label) != label}
        hashes, labels = [name for name, _ in batch], np.array([label for _, label in batch], np.int32)
        found = known.add(hashes, labels)
        if differing:
            row, before = found
            assert hashes[row] in differing
            assert plain[hashes[row]] == before
        else:
            assert found is None
            plain |= new
        assert len(known) == len(plain)
        for name in [*(f"{number:032x}" for number in range(7)), *(f"hash{number}" for number in range(5))]:
            assert known.get(name) == plain.get(name)
            assert (name in known) == (name in plain)


def test_hashes_come_as_bytes_or_as_texts():
    texts = [f"{number:032x}" for number in (9, 3, 7)]
    known = TrueClasses()
    assert known.add(Digests.of(texts), np.array([0, 1, 2], np.int32)) is None
    assert known.add(texts, np.array([0, 1, 2], np.int32)) is None
    assert sorted(known) == sorted(texts)
    assert known.add(texts[:1], np.array([1], np.int32)) == (0, 0)
    assert known[texts[0]] == 0, "nothing was learned"
