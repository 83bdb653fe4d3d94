"""Names and hashes in few bytes say what lists and dictionaries of the same texts say."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psp_ray.core import names as module
from psp_ray.core.names import ABSENT, Digests, Looked, Names, halves

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=30)


@given(TEXTS, TEXTS, st.data())
def test_names_are_the_list_they_were_made_of(texts, wanted, data):
    names = Names.of(texts)
    assert names == texts
    assert texts == names
    assert list(names) == texts
    assert len(names) == len(texts)
    assert Names.of(names) is names
    assert names[1:9:2] == texts[1:9:2]
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=9)) if texts else []
    assert names.at(np.array(rows, np.int64)) == [texts[row] for row in rows]
    assert [names[row] for row in rows] == [texts[row] for row in rows]
    sought = [*wanted, *(texts[row] for row in rows)]
    assert names.find(sought).tolist() == [texts.index(text) if text in texts else ABSENT for text in sought]
    assert names.rising == (texts == sorted(set(texts)))
    rising = sorted(set(texts))
    assert [Names.of(rising).position(text) for text in sought] == [
        rising.index(text) if text in rising else ABSENT for text in sought
    ]
    assert [names.position(text) for text in sought] == names.find(sought).tolist()


def test_names_in_several_chunks_are_one_sequence():
    column = pa.chunked_array([["b", "a"], [], ["c", "a"]], pa.string())
    names = Names.of(column)
    assert names == ["b", "a", "c", "a"]
    assert names[2] == "c"
    assert names.find(["a", "x"]).tolist() == [1, ABSENT]
    assert names != ["b", "a", "c"]
    assert names != "baca"
    with pytest.raises(ValueError, match="column 'name' of texts"):
        Names(pa.table({"name": [1, 2]}))


HASHES = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


@given(HASHES, HASHES, st.randoms())
def test_digests_are_the_hex_digits_they_were_made_of(some, others, chance):
    some += chance.choices(some, k=3) if some else []  # contents that are there twice
    texts = [one.hex() for one in some]
    digests = Digests.of(texts)
    assert isinstance(digests, Digests)
    assert digests == texts
    assert list(digests) == texts
    assert digests[2:5] == texts[2:5]
    assert digests.at(np.arange(len(texts))[::-1]) == texts[::-1]
    wanted = list(dict.fromkeys([*(one.hex() for one in others), *texts[::2], "no hash"]))
    places, rows = digests.rows_of(wanted)
    assert list(zip(places.tolist(), rows.tolist(), strict=True)) == [
        (place, wanted.index(text)) for place, text in enumerate(texts) if text in wanted
    ]
    upper, lower = halves(digests.hashes)
    assert sorted(zip(upper.tolist(), lower.tolist(), texts, strict=True)) == sorted(
        zip(upper.tolist(), lower.tolist(), texts, strict=True), key=lambda one: one[2]
    ), "halves stand in the order of the hashes"


def test_hashes_whose_first_halves_are_the_same_are_told_apart():
    same = np.zeros((4, 16), np.uint8)
    same[:, 15] = [3, 1, 2, 1]
    digests = Digests(same)
    wanted = [digests[1], digests[2], "00" * 15 + "07"]
    places, rows = digests.rows_of(wanted)
    assert (places.tolist(), rows.tolist()) == ([1, 2, 3], [0, 1, 0])


def test_texts_that_are_no_hashes_stay_as_they_are():
    assert Digests.of(["hash0", "hash1"]) == ["hash0", "hash1"]
    assert Digests.of(["AB" * 16]) == ["AB" * 16], "upper case is another text"
    with pytest.raises(ValueError, match="16"):
        Digests(np.zeros((3, 8), np.uint8))


@given(TEXTS, st.randoms())
def test_what_is_looked_up_is_what_a_dictionary_has(texts, chance):
    keys = list(dict.fromkeys(texts))
    values = np.array([chance.randint(-1, 5) for _ in keys], np.int32)
    plain = {key: value for key, value in zip(keys, values.tolist(), strict=True) if value >= 0}
    found = Looked(Names.of(keys), values, values >= 0)
    assert dict(found) == plain
    assert len(found) == len(plain)
    assert all(found.get(text) == plain.get(text) for text in [*texts, "absent", "a" * 99])
    every = Looked(Names.of(keys), keys)
    assert dict(every) == dict(zip(keys, keys, strict=True))
    assert None not in every


def test_long_sequences_are_read_in_parts(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    texts = [f"{number:032x}" for number in range(10)]
    assert list(Names.of(texts)) == texts == list(Digests.of(texts))
