"""`psp-ray cache`: what is in the feature cache, and making room in it."""

from __future__ import annotations

import click

from psp_ray.core.words import printable


@click.group()
def cache() -> None:
    """Look at the feature cache, and make room in it."""


CACHE_OPTION = click.option("--cache", "folder", type=click.Path(), metavar="DIR", help="cache folder, as in run")


@cache.command("ls")
@CACHE_OPTION
def cache_ls(folder: str | None) -> None:
    """List what is in the cache: one line for each encoder's features and views."""
    from psp_ray.features.quota import entries, show

    for line in show(entries(folder)):
        click.echo(printable(line))


@cache.command("prune")
@CACHE_OPTION
@click.option("--max-gib", type=click.FloatRange(min=0), help="remove the longest unused until the cache is this small")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="remove what was not used for so long")
@click.option("--dry-run", is_flag=True, help="say what would be removed")
def cache_prune(folder: str | None, max_gib: float | None, older_than: float | None, dry_run: bool) -> None:
    """Remove features that were not used for long; they are encoded again when they are needed."""
    from psp_ray.features.quota import prune

    if max_gib is None and older_than is None:
        raise click.UsageError("say what to remove: --max-gib N or --older-than DAYS")
    for line in prune(folder, max_gib=max_gib, older_than_days=older_than, dry_run=dry_run):
        click.echo(printable(line))
