"""The short forms of what a comparison is asked for."""

import pytest

from psp_ray.core.errors import ConfigError
from psp_ray.studies.settings import parse_strategy


@pytest.mark.parametrize(
    ("text", "name", "training", "settings"),
    [
        ("badge+pcb", "badge+pcb", None, ()),
        ("psp:kappa=1", "psp", None, (("kappa", "1"),)),
        ("typiclust:ust:linear", "typiclust", "ust", (("head", "linear"),)),
        ("random:none:zero-shot:views=2", "random", "none", (("head", "zero-shot"), ("views", "2"))),
        ("badge+pcb:none:pcb=released", "badge+pcb", "none", (("pcb", "released"),)),
    ],
)
def test_strategies(text, name, training, settings):
    entry = parse_strategy(text)
    assert (entry.name, entry.self_training, entry.settings) == (name, training, settings)


@pytest.mark.parametrize(
    "text", ["random:linear", "random:ust:lineer", "random:ust:linear:gda", ":ust", "random:seed=1"]
)
def test_mistakes(text):
    with pytest.raises(ConfigError, match="--strategies"):
        parse_strategy(text)
