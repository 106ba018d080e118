"""Progress: rates and remaining times are right, and short work prints one line at most."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import rich.console

from zoogen import progress


class Clock:
    """A clock that tests turn."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_lines_tell_count_rate_and_remaining_time(clock: Clock, capsys: Any) -> None:
    with progress.lines("training", 40, "members") as advance:
        clock.now += 9.9
        advance(5)
        assert capsys.readouterr().err == ""  # nothing before ten seconds
        clock.now += 2.6
        advance(5)
        assert capsys.readouterr().err == "training: 10/40 members, 0.80 members/s, ETA 16 s\n"
        clock.now += 9.0
        advance(10)
        assert capsys.readouterr().err == ""  # ten seconds after the line before
        clock.now += 3.5
        advance(15)
        assert capsys.readouterr().err == "training: 35/40 members, 1.40 members/s, ETA 3 s\n"
        clock.now += 3.0
        advance(5)
    found = capsys.readouterr()
    assert found.err == "training: 40/40 members, 1.43 members/s, done in 28.0 s\n"
    assert found.out == ""


def test_compilation_does_not_count_as_work_to_come(clock: Clock, capsys: Any) -> None:
    with progress.lines("fit", 100, "steps") as advance:
        clock.now += 60
        advance(10)
        assert capsys.readouterr().err == "fit: 10/100 steps, 0.17 steps/s, ETA not known yet\n"
        clock.now += 10
        advance(10)
        assert capsys.readouterr().err == "fit: 20/100 steps, 0.29 steps/s, ETA 80 s\n"


def test_work_that_does_nothing_for_long_has_no_remaining_time(clock: Clock, capsys: Any) -> None:
    with progress.lines("measuring", 8, "rows") as advance:
        clock.now += 60
        advance(0)
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "measuring: 0/8 rows, 0.00 rows/s, done in 60.0 s\n"


def test_broken_work_is_not_called_done(capsys: Any) -> None:
    with pytest.raises(KeyError), progress.lines("training", 4, "members"):
        raise KeyError
    assert capsys.readouterr().err == ""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 100 columns is sent, whatever the environment says of this one."""
    written = io.StringIO()
    plain = rich.console.Console

    def console(stderr: bool) -> rich.console.Console:
        assert stderr
        return plain(
            file=written, force_terminal=True, width=100, no_color=True, legacy_windows=False,
            _environ={"TERM": "xterm"},
        )  # fmt: skip

    monkeypatch.setattr(rich.console, "Console", console)
    return written


def last_line(written: str) -> str:
    """What is left on screen."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    return [line for line in re.split(r"[\r\n]", text) if line.strip()][-1]


def test_the_bar_shows_count_and_rate(clock: Clock, terminal: io.StringIO) -> None:
    with progress.bar("training", 40, "members") as advance:
        clock.now += 5
        advance(10)
        advance(20.0)
    line = last_line(terminal.getvalue())
    assert line.startswith("training ")
    assert "30/40 members" in line
    assert "6.00 members/s  ETA" in line


def test_the_bar_of_broken_work_stays_where_it_was(terminal: io.StringIO) -> None:
    with pytest.raises(ValueError, match="odd"), progress.bar("training", 4, "members") as advance:
        advance(1) or float("odd")
    assert "1/4 members" in last_line(terminal.getvalue())
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is back


@pytest.mark.parametrize(("terminal_there", "reporter"), [(True, "bar"), (False, "lines")])
def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, terminal_there: bool, reporter: str
) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal_there)
    assert progress.console_reporter() is getattr(progress, reporter)


def test_silence_is_silent(capfd: Any) -> None:
    with progress.silent("training", 4, "members") as advance:
        advance(4)
    assert capfd.readouterr() == ("", "")
