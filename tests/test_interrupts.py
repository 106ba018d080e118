"""Interrupts: noted during steps, acted on between them, never lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest

from zoogen import cli
from zoogen.interrupts import Interrupted, Interrupts
from zoogen.progress import silent

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@BOTH
def test_a_signal_is_acted_on_at_the_next_report(number: int) -> None:
    interrupts, steps = Interrupts(), []

    def work() -> None:
        with interrupts.listening(), interrupts.watched(silent)("work", 3, "steps") as advance:
            for step in range(3):
                if step == 1:
                    send(number)
                steps.append(step)
                advance(1)

    with pytest.raises(Interrupted):
        work()
    assert steps == [0, 1], "the step at work is ended, the next one not begun"
    assert interrupts.arrived == number


@BOTH
def test_a_second_signal_and_one_outside_of_work_act_at_once(number: int) -> None:
    interrupts = Interrupts()
    with interrupts.listening(), interrupts.watched(silent)("work", 1, "step"):
        send(number)
        with pytest.raises(Interrupted):
            send(number)
    with interrupts.listening():
        assert interrupts.arrived == 0
        with pytest.raises(Interrupted):
            send(number)


@BOTH
def test_a_signal_that_a_library_swallowed_stops_the_next_work(number: int) -> None:
    interrupts, begun = Interrupts(), []
    with interrupts.listening():
        with suppress(Interrupted):
            send(number)
        with pytest.raises(Interrupted), interrupts.watched(silent)("work", 1, "step"):
            begun.append(number)
    assert not begun


class Collected:
    """Does something when the garbage collector takes it."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act

    def __del__(self) -> None:
        self.act()


def test_a_signal_in_the_garbage_collector_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_type))
    interrupts = Interrupts()
    with interrupts.listening():
        Collected(lambda: send(signal.SIGINT))
        assert interrupts.arrived == signal.SIGINT
        assert told == []
        Collected(lambda: 1 // 0)
    assert told == [ZeroDivisionError]


def test_earlier_handlers_come_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts().listening():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def swallowed() -> None:
    with suppress(Interrupted):
        send(signal.SIGINT)


def turned_into_another_error() -> None:
    try:
        send(signal.SIGTERM)
    except Interrupted:
        raise ValueError("can't be serialised") from None


@pytest.mark.parametrize(("library", "code"), [(swallowed, 130), (turned_into_another_error, 143)])
def test_what_a_library_makes_of_a_signal_is_still_an_interruption(
    library, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", lambda arguments: library())
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == code
    assert "the same command resumes" in capsys.readouterr().err


def test_an_error_without_a_signal_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main([])
