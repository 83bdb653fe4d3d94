"""What commands that host a labeling page have in common; imports nothing but click, since `oracle` starts with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def page_options(command: F, *, port: str) -> F:
    """Decorator: the options of whoever hosts a page on which people label; `port` is that option's help."""
    for option in (
        click.option(
            "--second-opinions",
            type=click.FloatRange(0, 1),
            default=0.0,
            help="share of images that two people answer [0]",
        ),
        click.option("--port", type=int, help=port),
        click.option(
            "--host", default="127.0.0.1", show_default=True, help="address to listen on; others than this machine"
        ),
        click.option(
            "--people", "crew", metavar="NAMES", default="", help="who else gets a link: Ann,Bob:review,Eve:lead"
        ),
    ):
        command = option(command)
    return command
