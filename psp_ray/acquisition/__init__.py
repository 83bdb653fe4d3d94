"""Acquisition functions: one file per strategy behind one small protocol (`psp_ray.acquisition.base`)."""

from __future__ import annotations

from psp_ray.acquisition.base import (
    STRATEGIES,
    WRAPPERS,
    AcquisitionFunction,
    create,
    strategy_names,
    unread,
    validate_proposal,
    validate_state,
    wrapper_names,
)
from psp_ray.acquisition.strategy import Strategy, Wrapper
from psp_ray.core.pool import Block

__all__ = [
    "STRATEGIES",
    "WRAPPERS",
    "AcquisitionFunction",
    "Block",
    "Strategy",
    "Wrapper",
    "create",
    "strategy_names",
    "unread",
    "validate_proposal",
    "validate_state",
    "wrapper_names",
]
