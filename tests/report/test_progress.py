"""What a run says of long stages, and that it is silent about short ones."""

from __future__ import annotations

import io

from rich.console import Console

from psp_ray.report.progress import Reporter, counting
from psp_ray.report.round_report import StageSeconds
from tests.helpers import report_of


def reporter(**options):
    return Reporter(8, Console(file=io.StringIO(), width=200, highlight=False, soft_wrap=True, **options))


def text_of(told):
    return told.console.file.getvalue()


def test_counts_of_images_have_rate_and_time_left_once_they_take_seconds(monkeypatch):
    told, now = reporter(), [100.0]
    monkeypatch.setattr("psp_ray.report.progress.time.perf_counter", lambda: now[0])
    tell = counting(told, "looking at the images")
    now[0] = 104.0
    tell(400, 5000)
    assert text_of(told) == "", "four seconds are nothing to talk about"
    now[0] = 110.0
    tell(1000, 5000)
    assert text_of(told) == "looking at the images: 1,000/5,000 images, 100 a second, 40 s left\n"
    now[0] = 111.0
    tell(1100, 5000)
    assert text_of(told).count("\n") == 1, "a log gets a line now and then"
    now[0] = 150.0
    tell(5000, 5000)
    assert text_of(told).endswith("looking at the images: 5,000/5,000 images, 100 a second\n")


def test_views_on_demand_say_how_far_they_are():
    told = reporter()
    told.views(2, 2048, 8192, 20.48)
    assert text_of(told) == "round 2/8: views on demand: 2,048/8,192 images, 100 a second, 1 min 1 s left\n"


def test_a_stage_says_how_long_it_took_the_round_before(monkeypatch):
    shown = []

    class Live:
        """Stands in for rich's live line."""

        def __init__(self, text):
            shown.append(text)

        def start(self): ...

        def stop(self): ...

        update = __init__

    told = reporter(force_terminal=True)
    monkeypatch.setattr(told.console, "status", Live)
    told.stage(1, "learn")
    told.restored([report_of(seconds=StageSeconds(learn=75.0, propose=0.3))], None)
    told.stage(2, "learn")
    told.stage(2, "propose")
    told.stage(8, "judge 1/4")
    assert shown == [
        "round 1/8: learn …",
        "round 2/8: learn (about 1 min 15 s) …",
        "round 2/8: propose …",
        "round 8/8: judge 1/4 (about 1 min 15 s) …",
    ]
