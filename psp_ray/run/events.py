"""What a run tells while it goes on, and to whom: anything with these methods may listen.

`psp_ray.report.progress.Reporter` shows it to people; `Silent` shows nothing. A listener that wants to end a run says
so in `after_round`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from psp_ray.core.records import Evaluation
from psp_ray.posterior.accuracy import Estimate
from psp_ray.report.round_report import Next, RoundReport


class Events(Protocol):
    """Callbacks of a run, all called from the thread that runs it."""

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...

    def warn(self, text: str) -> None:
        """Something that may be wrong."""
        ...

    def images(self, what: str, done: int, total: int, seconds: float) -> None:
        """How many of `total` images are done with `what`, in how long."""
        ...

    def featurizing(self, done: int, total: int, rate: float, eta: float) -> None:
        """Encodings done and in all, how many a second, seconds left."""
        ...

    def zero_shot(self, evaluation: Evaluation | None) -> None:
        """Accuracy of the templates, at the beginning of a run; None without images to evaluate on."""
        ...

    def initial(self, count: int, evaluation: Evaluation | None) -> None:
        """Prompts were learned from `count` labels known beforehand."""
        ...

    def restored(self, reports: Sequence[RoundReport], zero_shot: Evaluation | None) -> None:
        """A run goes on after the rounds in its checkpoint."""
        ...

    def stage(self, round: int, name: str) -> None:
        """A stage of a round begins: propose, label, learn, update, judge K/N, checkpoint."""
        ...

    def views(self, round: int, done: int, total: int, seconds: float) -> None:
        """How many images have their views on demand, in how long."""
        ...

    def round(self, report: RoundReport, warning: str = "") -> None:
        """A round is finished, and safe on disk."""
        ...

    def prospect(self, report: RoundReport, judged: Estimate | None, outlook: str) -> None:
        """`judged`: what its draws say of the classifier that a round began with; what the next one should bring."""
        ...

    def after_round(self, report: RoundReport) -> Next:
        """Whether to go on; asked after each round, of a run taken up again also for those in its checkpoint.

        A run that is stopped ends as an interrupted one does: it can be resumed.
        """
        ...

    def finished(self, reports: Sequence[RoundReport], split: str) -> None:
        """All rounds are done and all files written; accuracies are of `split`."""
        ...

    def stop(self) -> None:
        """Nothing is under way any more: a live line may go."""
        ...


class Silent:
    """`Events` for programs: says nothing, and asks `after_round` (if given) whether to go on."""

    def __init__(self, after_round: Callable[[RoundReport], Next] | None = None) -> None:
        self._after_round = after_round

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def images(self, what: str, done: int, total: int, seconds: float) -> None: ...

    def featurizing(self, done: int, total: int, rate: float, eta: float) -> None: ...

    def zero_shot(self, evaluation: Evaluation | None) -> None: ...

    def initial(self, count: int, evaluation: Evaluation | None) -> None: ...

    def restored(self, reports: Sequence[RoundReport], zero_shot: Evaluation | None) -> None: ...

    def stage(self, round: int, name: str) -> None: ...

    def views(self, round: int, done: int, total: int, seconds: float) -> None: ...

    def round(self, report: RoundReport, warning: str = "") -> None: ...

    def prospect(self, report: RoundReport, judged: Estimate | None, outlook: str) -> None: ...

    def after_round(self, report: RoundReport) -> Next:
        return Next.CONTINUE if self._after_round is None else self._after_round(report)

    def finished(self, reports: Sequence[RoundReport], split: str) -> None: ...

    def stop(self) -> None: ...
