"""A cluster that is started here wants a token, whichever Ray starts it; one that is joined decides for itself."""

import os
import sys

import pytest

from psp_ray.actors.tokens import MODE, want_token


@pytest.mark.parametrize(
    ("address", "environment", "imported", "mode"),
    [
        (None, {}, False, "token"),
        ("", {}, False, "token"),
        ("head:6379", {}, False, None),
        (None, {"RAY_ADDRESS": "head:6379"}, False, None),
        (None, {MODE: "disabled"}, False, "disabled"),
        (None, {}, True, None),
    ],
)
def test_who_wants_a_token(address, environment, imported, mode, monkeypatch):
    for name in (MODE, "RAY_ADDRESS"):
        monkeypatch.setenv(name, "x")  # so that it is put back, too
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    if imported:
        monkeypatch.setitem(sys.modules, "ray", pytest)
    want_token(address)
    assert os.environ.get(MODE) == mode


def test_asking_imports_no_ray():
    assert "ray" not in vars(sys.modules[want_token.__module__])
