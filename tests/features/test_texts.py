"""Class embeddings in the cache: what comes out is what was put in, to the bit, or nothing."""

import numpy as np
import pytest

from psp_ray.core.records import TextState
from psp_ray.features.texts import KeptTexts, find_texts, keep_texts, surely_on_cpu, texts_key

ABOUT = {"model": "tiny", "image_size": [32, 32], "text_path": "fast"}


def kept(seed=0):
    features = np.random.default_rng(seed).normal(size=(5, 7)).astype(np.float32)
    return KeptTexts(TextState(features, float(np.exp(np.float64(2.3)))), ABOUT)


def test_what_was_kept_is_found_to_the_bit(tmp_path):
    key = texts_key({"classes": ["cat", "sea lion"], "threads": 1})
    assert find_texts(tmp_path, key) is None
    keep_texts(tmp_path, key, kept())
    found = find_texts(tmp_path, key)
    assert found.text.features.tobytes() == kept().text.features.tobytes()
    assert found.text.features.dtype == np.float32
    assert found.text.logit_scale == kept().text.logit_scale
    assert found.text.bias is None
    assert found.backbone == ABOUT


def test_a_key_names_all_that_was_asked():
    asked = {"classes": ["cat", "dog"], "threads": 1}
    others = [asked | {"threads": 2}, asked | {"classes": ["dog", "cat"]}, asked | {"templates": ["{}"]}]
    assert len({texts_key(one) for one in (asked, *others)}) == 4
    assert texts_key(dict(reversed(asked.items()))) == texts_key(asked)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other model", "emptied"])
def test_a_damaged_file_is_as_good_as_none(tmp_path, damage):
    keep_texts(tmp_path, "key", kept())
    (file,) = (tmp_path / "texts").iterdir()
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[:-9]
    elif damage == "flipped":
        data[-20] ^= 1
    elif damage == "other model":
        data = data.replace(b"tiny", b"TINY")
    else:
        data = bytearray()
    file.write_bytes(data)
    assert find_texts(tmp_path, "key") is None
    keep_texts(tmp_path, "key", kept(1))
    assert find_texts(tmp_path, "key").text.features.tobytes() == kept(1).text.features.tobytes()


def test_a_folder_that_takes_nothing_costs_no_run(tmp_path):
    (tmp_path / "texts").write_text("a file where the folder should be")
    keep_texts(tmp_path, "key", kept())
    assert find_texts(tmp_path, "key") is None


def test_a_model_that_may_be_on_a_card_is_asked_itself(monkeypatch):
    monkeypatch.setattr("psp_ray.features.texts.DRIVERS", ("/no/such/device",))
    assert surely_on_cpu("cpu")
    assert surely_on_cpu("auto")
    assert not surely_on_cpu("cuda:0")
    monkeypatch.setattr("psp_ray.features.texts.DRIVERS", ("/dev/null",))
    assert not surely_on_cpu("auto")
