"""Asking an annotator: its answers are looked at before they are believed, and its leases live while it thinks."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from psp_ray.core.answers import IGNORE, SKIP, AnswerReader, UnknownLabel
from psp_ray.core.errors import LedgerError, OracleError
from psp_ray.labels.annotators.base import Annotator, Item
from psp_ray.labels.ledger import Ledger
from psp_ray.labels.orders import Order

SHORTEST_BEAT = 0.02
"""Seconds between two prolongations at the least, so that the shortest lease leaves the ledger to others, too."""


class Desk:
    """Asks one annotator about images of one list of classes."""

    def __init__(self, annotator: Annotator, class_names: Sequence[str]) -> None:
        self.annotator, self.class_names = annotator, tuple(class_names)
        self._read = AnswerReader(self.class_names)

    def ask(self, batch: Sequence[Item]) -> list[tuple[str, int | None]]:
        """(content hash, label) of each item, None where there is no answer yet. Raises OracleError."""
        answers = list(self.annotator.answer(batch))
        if len(answers) != len(batch):
            raise OracleError(f"annotator {self.annotator.name!r} gave {len(answers)} labels for {len(batch)} images")
        return [(item.content_hash, self.label(item, answer)) for item, answer in zip(batch, answers, strict=True)]

    def label(self, item: Item, answer: int | str | None) -> int | None:
        """An answer as a class index or code. Raises OracleError where it is neither."""
        if isinstance(answer, str):
            try:
                return self._read(answer)
            except UnknownLabel as error:
                raise OracleError(f"annotator {self.annotator.name!r}: sample {item.sample_id!r}: {error}") from None
        self.check(item.sample_id, answer)
        return None if answer is None else int(answer)

    def check(self, sample: str, label: int | None) -> None:
        """Raise OracleError for a number that is no class and no code."""
        if label is not None and (
            int(label) != label or not (0 <= label < len(self.class_names) or label in (SKIP, IGNORE))
        ):
            raise OracleError(
                f"annotator {self.annotator.name!r} gave label {label!r} for sample {sample!r}; "
                f"labels are 0..{len(self.class_names) - 1}, skip ({SKIP}) or ignore ({IGNORE})"
            )


@contextmanager
def alive(ledger: Ledger, order: Order) -> Iterator[None]:
    """While an annotator thinks, the leases of what it is asked are prolonged; those of the dead end soon."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(max(order.lease_seconds / 3, SHORTEST_BEAT)):
            with suppress(LedgerError):  # a busy ledger: the next beat may pass
                ledger.renew(order)

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
