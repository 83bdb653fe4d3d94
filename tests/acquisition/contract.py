"""The contract of strategies, for a class that isn't registered."""

from __future__ import annotations

import inspect
import itertools

from psp_ray.acquisition import STRATEGIES
from tests.acquisition import test_contract


def check_contract(name, strategy):
    """Run every test of the contract that takes a strategy's name; returns how many."""
    promises = [
        function
        for title, function in vars(test_contract).items()
        if title.startswith("test_") and "name" in inspect.signature(function).parameters
    ]
    with STRATEGIES.temporary():
        STRATEGIES.register(name)(strategy)
        for function in promises:
            others = [mark.args for mark in function.pytestmark if mark.args[0] != "name"]
            for values in itertools.product(*(choices for _, choices in others)):
                function(name=name, **dict(zip((key for key, _ in others), values, strict=True)))
    return len(promises)
