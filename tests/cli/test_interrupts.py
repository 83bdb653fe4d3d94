"""Signals that compiled code makes an error of its own of, as pydantic does while a model is built."""

from __future__ import annotations

import signal

import pytest

from psp_ray.cli import main as program
from psp_ray.core import interrupts


@pytest.fixture(autouse=True)
def signals():
    kept = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    interrupts.listen()  # forgets what was heard
    for number, handler in kept:
        signal.signal(number, handler)


def ends_with(monkeypatch, command):
    monkeypatch.setattr(program.cli, "main", lambda **_: command())
    with pytest.raises(SystemExit) as ended:
        program.main(["doctor"])
    return ended.value.code


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "terminated\n")]
)
@pytest.mark.parametrize("made_of_it", [None, ValueError, ImportError, RuntimeError])
def test_a_signal_ends_the_program_in_one_line_whatever_is_made_of_it(
    monkeypatch, capsys, number, code, said, made_of_it
):
    def command():
        try:
            signal.raise_signal(number)
        except BaseException as error:
            if made_of_it is None:
                raise
            raise made_of_it("building a serializer") from error

    assert ends_with(monkeypatch, command) == code
    assert capsys.readouterr().err == said


def test_a_signal_that_was_swallowed_is_raised_again_where_a_loop_asks(monkeypatch, capsys):
    passed = []

    def command():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            passed.append("swallowed")
        interrupts.check()
        passed.append("went on")

    interrupts.check()  # nothing was heard
    assert ends_with(monkeypatch, command) == 130
    assert passed == ["swallowed"]
    assert capsys.readouterr().err == "interrupted\n"


def test_an_error_without_a_signal_stays_an_error(monkeypatch):
    def command():
        raise ValueError("a fault of ours")

    monkeypatch.setattr(program.cli, "main", lambda **_: command())
    with pytest.raises(ValueError, match="a fault of ours"):
        program.main(["doctor"])


def test_an_ignored_interrupt_stays_ignored(monkeypatch):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert ends_with(monkeypatch, lambda: signal.raise_signal(signal.SIGINT)) == 0
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
