"""Progress of long work: a bar on a terminal, plain lines elsewhere, silence by default.

A *reporter* is a function ``(name, total, unit)`` that opens a context, which yields
``advance(units)``. Work takes one as an argument and knows nothing about terminals.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

Advance = Callable[[float], None]
Reporter = Callable[[str, float, str], AbstractContextManager[Advance]]

LINE_SECONDS = 10.0


def console_reporter() -> Reporter:
    """A bar where standard error is a terminal, otherwise a line every ten seconds."""
    return bar if sys.stderr.isatty() else lines


def scaled(advance: Advance, factor: float) -> Advance:
    """Progress of a part of the work: ``factor`` of every unit counts."""
    return lambda units: advance(factor * units)


@contextmanager
def silent(name: str, total: float, unit: str) -> Iterator[Advance]:
    """Say nothing."""
    yield lambda units: None


@contextmanager
def lines(name: str, total: float, unit: str) -> Iterator[Advance]:
    """Plain lines on standard error: one now and then, and one at the end."""
    begin = shown = time.monotonic()
    done = 0.0
    first: tuple[float, float] | None = None  # when the first units were done, and how many

    def advance(units: float) -> None:
        nonlocal done, shown, first
        done += units
        now = time.monotonic()
        if first is None and done > 0:
            first = now, done  # what came before was compilation, too
        if first is not None and now - shown >= LINE_SECONDS:
            shown = now
            show(_left(total - done, now - first[0], done - first[1]))

    def show(ending: str) -> None:
        rate = done / max(time.monotonic() - begin, 1e-9)
        line = f"{name}: {done:.0f}/{total:.0f} {unit}, {rate:.2f} {unit}/s, {ending}"
        with suppress(BrokenPipeError):  # nobody reads any more: no reason to stop the work
            print(line, file=sys.stderr, flush=True)

    yield advance
    show(f"done in {time.monotonic() - begin:.1f} s")


def _left(missing: float, seconds: float, done: float) -> str:
    return f"ETA {missing * seconds / done:.0f} s" if done > 0 else "ETA not known yet"


@contextmanager
def bar(name: str, total: float, unit: str) -> Iterator[Advance]:
    """A progress bar with rate and ETA on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(f"{name:<10}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
        TextColumn("{task.fields[rate]:.2f} " + f"{unit}/s  ETA"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    begin = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, rate=0.0)

        def advance(units: float) -> None:
            done = progress.tasks[0].completed + units
            rate = done / max(time.monotonic() - begin, 1e-9)
            progress.update(task, completed=done, rate=rate)

        yield advance
