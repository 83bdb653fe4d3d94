"""`psp-ray doctor`: what to look at first when something doesn't work, and what to put into a bug report."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable

import click

from psp_ray.core.errors import UserError


@click.command()
@click.option("--ray/--no-ray", "with_ray", default=True, help="also start Ray and an actor")
def doctor(with_ray: bool) -> None:
    """Check this machine: versions, bundled model, cache folder, devices, Ray. For bug reports."""
    if not examine(with_ray):
        raise SystemExit(2)


def examine(with_ray: bool) -> bool:
    """Print one line per check; true if all passed."""
    from psp_ray.run.output import versions

    for name, value in versions().items():
        click.echo(f"{name:16} {value or 'not found'}")
    click.echo(f"{'machine':16} {platform.platform()}, {os.cpu_count()} CPUs, {_memory()}")
    checks: list[tuple[str, Callable[[], str]]] = [
        ("devices", _devices),
        ("bundled model", _model),
        ("feature cache", _cache),
    ]
    if with_ray:
        checks.append(("ray", _ray))
    results = [_check(name, check) for name, check in checks]  # all of them, also after a failure
    return all(results)


def _check(name: str, check: Callable[[], str]) -> bool:
    start = time.perf_counter()
    try:
        click.echo(f"{name:16} ok: {check()} ({time.perf_counter() - start:.1f} s)")
    except UserError as error:
        click.echo(f"{name:16} FAILED: {error}")
        return False
    except Exception as error:  # the doctor reports whatever is broken, and goes on
        click.echo(f"{name:16} FAILED: {type(error).__name__}: {error}")
        return False
    return True


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "memory unknown"


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))
    return "cpu only"


def _model() -> str:
    import numpy as np

    from psp_ray.clip import BackboneSpec, load_backbone, zero_shot_text

    backbone = load_backbone(BackboneSpec(image_size=96, device="cpu"))
    assert backbone.image is not None
    assert backbone.text is not None
    features = backbone.image.encode(np.zeros((1, 3, 96, 96), np.uint8))
    text = zero_shot_text(backbone.text, ["cat", "dog"], ["a photo of a {}."])
    return f"{backbone.name}, width {features.shape[1]}, {len(text.features)} classes encoded"


def _cache() -> str:
    from psp_ray.features.cache import FeatureCache

    folder = FeatureCache.open().folder
    return f"{folder}, {shutil.disk_usage(folder).free / 2**30:.0f} GiB free"


def _ray() -> str:
    from psp_ray.actors.tokens import want_token

    want_token(None)
    import ray

    from psp_ray.actors.cluster import start_ray

    started = start_ray(None)
    try:

        @ray.remote(num_cpus=0.1)
        def answer() -> int:
            return os.getpid()

        ray.get(answer.remote(), timeout=120)
        resources = ray.cluster_resources()
        return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
    finally:
        if started:
            ray.shutdown()
