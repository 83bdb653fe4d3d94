"""Settings: precedence, presets, and one clear line for every mistake."""

import pytest
import yaml

from psp_ray.config.base import option_name
from psp_ray.config.config import fields
from psp_ray.config.model import parse_views
from psp_ray.config.presets import PRESETS
from psp_ray.core.errors import ConfigError
from psp_ray.run.resolve import resolve


def test_defaults_are_the_psp_preset():
    config = resolve({})
    assert (config.policy.preset, config.policy.strategy, config.selftrain.self_training) == ("psp", "vssp", "ust")
    assert (config.data.dataset, config.model.model, config.labels.rounds) == ("digits", "psp-lite", 8)


def test_options_win_over_file_over_preset(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("strategy: psp-paper\nkappa: 2\nlabels-per-round: 7\n")
    config = resolve({}, file)
    assert (config.policy.preset, config.policy.kappa, config.labels.labels_per_round, config.selftrain.pseudo_cap) == (
        "psp-paper",
        2.0,
        7,
        0,
    )
    assert resolve({"kappa": "3", "pseudo_cap": "9"}, file).policy.kappa == 3.0
    assert resolve({"strategy": "random"}, file).policy.kappa == 2.0


def test_psp_paper_is_the_note_taken_literally():
    config = resolve({"strategy": "psp-paper"})
    assert (
        config.policy.kappa,
        config.policy.audit_fraction,
        config.learn.pseudo_weight,
        config.selftrain.pseudo_floor,
    ) == (1.0, 0.0, 1.0, 1)
    assert (config.selftrain.confidence_min, config.selftrain.uncertainty_max, config.selftrain.uncertainty) == (
        0.7,
        0.05,
        "confidence",
    )
    assert (
        config.policy.beta,
        config.policy.tau,
        config.policy.gamma,
        config.policy.align,
        config.learn.context_length,
    ) == (
        0.7,
        0.1,
        0.9,
        "softdtw",
        16,
    )


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_resolves(name):
    assert resolve({"strategy": name}).policy.preset == name


def test_a_plain_strategy_has_no_self_training_unless_asked():
    assert resolve({"strategy": "random"}).selftrain.self_training == "none"
    assert resolve({"strategy": "random", "self_training": "ust"}).selftrain.self_training == "ust"


def test_resolved_config_resolves_to_itself(tmp_path):
    config = resolve({"strategy": "psp-pad", "seed": "3", "views": "fresh"})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert resolve({}, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rounds": "0"}, "--rounds"),
        ({"kappa": "inf"}, "--kappa"),
        ({"learning_rate": "nan"}, "--learning-rate"),
        ({"labels_per_round": "0"}, "--labels-per-round"),
        ({"beta": "much"}, "--beta"),
        ({"tau": "0"}, "--tau"),
        ({"gamma": "1.5"}, "--gamma"),
        ({"runner": "spark"}, "--runner"),
        ({"views": "0"}, "--views"),
        ({"views": "stale"}, "--views"),
        ({"device": "tpu"}, "--device"),
        ({"strategy": "randon"}, "did you mean 'random'"),
        ({"descriptions": "AS"}, "--description-file"),
        ({"labels_per_rond": "4"}, "did you mean 'labels_per_round'"),
    ],
)
def test_mistakes_are_named_in_one_line(given, said):
    with pytest.raises(ConfigError) as caught:
        resolve(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"), [("kapa: 3", "did you mean 'kappa'"), ("- a", "key: value"), ("a: [", "not valid YAML")]
)
def test_mistakes_in_the_file(tmp_path, text, said):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        resolve({}, tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="can't be read"):
        resolve({}, tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes("out: caf\u00e9".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        resolve({}, tmp_path / "latin.yaml")


def test_views_spellings():
    assert parse_views("3") == ("cached", 3)
    assert parse_views("cached") == ("cached", 5)
    assert parse_views("fresh") == ("fresh", 5)
    assert parse_views("fresh:2") == ("fresh", 2)


def test_every_key_has_a_description_and_survives_yaml():
    for key, info in fields().items():
        assert info.description, f"{option_name(key)} has no description"
    assert set(yaml.safe_load(resolve({}).to_yaml())) == set(fields())
