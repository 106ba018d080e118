"""Interrupts: SIGINT and SIGTERM stop long work between its steps, not inside of them.

An exception that a signal handler raises lands wherever the interpreter happens to be. In a
callback of a library it is swallowed, and the work goes on; in a serialiser it becomes another
error. So while work reports its progress, the first signal is noted and acted on at the next
report. A second one, or one outside of such work, stops at once; if a library swallows that, the
next work stops as it begins.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from zoogen.progress import Advance, Reporter

_NOTED = b"zoogen: stopping after the present step; once more to stop at once\n"


class Interrupted(BaseException):
    """A signal asks the process to stop."""


class Interrupts:
    """The signals that ask this process to stop.

    Attributes:
        arrived: number of the latest one since :meth:`listening` began; 0 if there was none. It
            tells also of those that a library swallowed.
    """

    def __init__(self) -> None:
        self.arrived = 0
        self._working = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM; afterwards the earlier handlers are back.

        Raises:
            Interrupted: at once, or at the next report of a reporter from :meth:`watched`.
        """
        self.arrived = 0
        earlier = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        tell = sys.unraisablehook
        sys.unraisablehook = partial(_tell_of_others, tell)
        try:
            yield
        finally:
            sys.unraisablehook = tell
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first, self.arrived = not self.arrived, number
        if first and self._working:
            os.write(2, _NOTED)  # print could be at work itself
            return
        raise Interrupted

    def watched(self, reporter: Reporter) -> Reporter:
        """A reporter at whose reports a signal that came in between is acted on."""

        @contextmanager
        def report(name: str, total: float, unit: str) -> Iterator[Advance]:
            self._stop_if_asked()
            with reporter(name, total, unit) as inner:

                def advance(units: float) -> None:
                    inner(units)
                    self._stop_if_asked()

                self._working += 1
                try:
                    yield advance
                finally:
                    self._working -= 1

        return report

    def _stop_if_asked(self) -> None:
        if self.arrived:
            raise Interrupted


def _tell_of_others(
    tell: Callable[[sys.UnraisableHookArgs], object], found: sys.UnraisableHookArgs
) -> None:
    """No traceback of a signal that came in a callback of the garbage collector; it is noted."""
    if not isinstance(found.exc_value, Interrupted):
        tell(found)
