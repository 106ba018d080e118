"""Memory: how much this process held at most since a moment."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Begin anew, where the system allows it (Linux); elsewhere peaks are those since the start."""
    with suppress(OSError):
        _RESET.write_text("5")


def peak_bytes() -> int:
    """Largest resident memory of this process since :func:`reset_peak`.

    Example:
        >>> reset_peak()
        >>> peak_bytes() > 10**6
        True
    """
    with suppress(OSError, StopIteration):
        lines = _STATUS.read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return 1024 * int(peak.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
