"""The shell around a component, in this process: what it does beside calling it."""

import threading

import pytest

from psp_ray.actors.shell import ComponentActor, factory_name
from psp_ray.actors.transport import pack, unpack
from psp_ray.core.errors import ConfigError


class Warm:
    """A component that says in which thread it was warmed up."""

    def __init__(self):
        self.warmed = threading.Event()
        self.thread = ""

    def warm_up(self):
        self.thread = threading.current_thread().name
        self.warmed.set()

    def told(self):
        return self.thread if self.warmed.wait(30) else "never"


class Plain:
    """One without."""

    def told(self):
        return threading.current_thread().name


def refusing():
    raise ConfigError("no")


def test_a_component_warms_up_beside_its_calls():
    packed, seconds = ComponentActor(factory_name(Warm), pack([]), 1).call("told", pack([]))
    assert unpack(packed) == "warm-up"
    assert seconds >= 0


def test_one_that_has_nothing_to_warm_is_called_as_it_is():
    packed, _ = ComponentActor(factory_name(Plain), pack([]), 1).call("told", pack([]))
    assert unpack(packed) == threading.current_thread().name


def test_what_can_not_be_built_is_told_at_the_first_call():
    actor = ComponentActor(factory_name(refusing), pack([]), 1)
    with pytest.raises(ConfigError, match="no"):
        actor.call("told", pack([]))
