"""`psp-ray label`: people label in the browser while the run learns."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from psp_ray.cli.options import SettingsCommand, config_option, setting_options
from psp_ray.cli.pages import page_options
from psp_ray.cli.starting import run_options, watchers_of
from psp_ray.core.light import spare_pandas
from psp_ray.run.resolve import resolve


@click.command(cls=SettingsCommand)
@click.argument("target", type=click.Path(), metavar="[IMAGES|RUN]", required=False)
@config_option
@partial(page_options, port="port to listen on; default: the first free one from 8420 on")
@click.option(
    "--suggest-from",
    type=click.FloatRange(0, 1),
    default=0.5,
    help="show suggestions once they are surely right this often; 0: from the start, 1: never [0.5]",
)
@click.option("--ahead", type=click.IntRange(0), help="images to label while it learns; default: 30, or a query set")
@click.option("--no-browser", is_flag=True, help="only say the links")
@run_options
@setting_options
def label(
    target: str | None,
    config_file: str | None,
    crew: str,
    host: str,
    port: int | None,
    second_opinions: float,
    suggest_from: float,
    ahead: int | None,
    no_browser: bool,
    html: bool,
    track: str | None,
    **given: Any,
) -> None:
    """Label in the browser: images (a folder, a manifest) or a run that is there, one command, no file to fill in.

    `psp-ray label photos --classes "cat,dog,sea lion"` starts; the same without the classes, or `psp-ray label RUN`,
    goes on.
    """
    from psp_ray.actors.opening import open_runtime
    from psp_ray.run.continuing import continued
    from psp_ray.run.folder import default_out, has_run
    from psp_ray.web.crew import read_people
    from psp_ray.web.desk import Rules

    spare_pandas()
    people = read_people(crew)
    given = {key: value for key, value in given.items() if value is not None}
    if target is not None and has_run(Path(target)):
        given["out"] = target
    elif target is not None:
        given["dataset"] = target
    given.setdefault("runner", "ray" if "ray_address" in given else "inline")  # somebody waits for the first image
    settings = {"oracle": "people", **given, "resume": True}
    out = Path(given["out"] if "out" in given else default_out(resolve(settings, config_file)))
    config = continued(out, given) if has_run(out) else resolve(settings, config_file)
    from psp_ray.run.session import Session
    from psp_ray.web.serve import Serving, bind, require_people, serve
    from psp_ray.web.worker import WebEvents

    events = WebEvents(config.labels.rounds)
    never, always = suggest_from >= 1, suggest_from <= 0
    rules = Rules(
        second_share=second_opinions,
        suggest_from=2.0 if never else suggest_from,
        suggest_after=0 if always else Rules.suggest_after,
    )
    config = config.changed(out=str(out), resume=True)
    # What can be wrong with the page is said before images are encoded, which takes its time.
    require_people(config.labels.oracle)
    with bind(host, port) as listener:
        session = Session.of(config, events, open_runtime, watchers_of(config, html=html, track=track))
        serve(listener, session, events, Serving(host, people, rules, ahead, not no_browser), click.echo)
