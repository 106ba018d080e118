"""Coverage: how many cells and members each phase holds, which are empty, and what to extend."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoogen.errors import ConfigError
from zoogen.phases.knobs import Knob, grows
from zoogen.phases.labels import Labels
from zoogen.phases.rules import CLASSES, PHASES


@dataclass(frozen=True)
class Coverage:
    """How many cells and members each class holds.

    Attributes:
        cells: class → cells, all of :data:`CLASSES` in order.
        members: class → members.
        entropy: of the cells over the five phases, in bits (at most log2 5 ≈ 2.32; 0 when one
            phase holds all of them).
        empty: phases without a cell.
    """

    cells: Mapping[str, int]
    members: Mapping[str, int]
    entropy: float
    empty: tuple[str, ...]

    def rows(self) -> list[tuple[str, int, float, int, float]]:
        """Class, cells, their share, members, their share; classes other than phases if held."""
        total, people = sum(self.cells.values()) or 1, sum(self.members.values()) or 1
        return [
            (
                name,
                self.cells[name],
                self.cells[name] / total,
                self.members[name],
                self.members[name] / people,
            )
            for name in CLASSES
            if name in PHASES or self.cells[name] or self.members[name]
        ]

    def __str__(self) -> str:
        lines = [f"{'phase':<12}{'cells':>7}{'share':>8}{'members':>9}{'share':>8}"]
        lines += [f"{n:<12}{c:>7}{s:>8.1%}{m:>9}{t:>8.1%}" for n, c, s, m, t in self.rows()]
        lines.append(f"entropy {self.entropy:.2f} of {math.log2(len(PHASES)):.2f} bits")
        if self.empty:
            lines.append(f"no cell in phase {', '.join(self.empty)}")
        return "\n".join(lines)


def coverage(labels: Labels) -> Coverage:
    """Count cells and members per class."""
    return tally(labels.phase, labels.members[labels.members != ""])


def tally(cells: Iterable[str], members: Iterable[str]) -> Coverage:
    """Count stored labels of cells and members.

    Example:
        >>> tally(["I", "II", "II"], ["I", "II", "II"]).empty
        ('III', 'IV-A', 'IV-B')
    """
    in_cells, in_members = (Counter(map(str, names)) for names in (cells, members))
    held = np.array([in_cells[name] for name in PHASES if in_cells[name]], dtype=float)
    share = held / held.sum() if held.size else held
    return Coverage(
        cells={name: in_cells[name] for name in CLASSES},
        members={name: in_members[name] for name in CLASSES},
        entropy=abs(float(-(share * np.log2(share)).sum())),
        empty=tuple(name for name in PHASES if not in_cells[name]),
    )


# ------------------------------------------------------------------------------ required phases
def phase_names(text: str) -> tuple[str, ...]:
    """Phases from a comma-separated list, in the order of :data:`PHASES`.

    Raises:
        ConfigError: if one is no phase, or none is given.

    Example:
        >>> phase_names("IV-B, I")
        ('I', 'IV-B')
    """
    found = [name.strip() for name in text.split(",")]
    for name in found:
        if name not in PHASES:
            raise ConfigError(
                f"phases: found {name!r}, expected some of {','.join(PHASES)}, comma-separated"
            )
    return tuple(name for name in PHASES if name in found)


# Where a phase lies beyond the others: which knob to extend, which way, and what else helps.
_REMEDIES: dict[str, tuple[Knob, str, str]] = {
    "I": ("load", "higher", "until networks are too small to fit"),
    "II": ("temperature", "higher", "or shorter training"),
    "III": ("load", "higher", "in small steps, trained long enough to fit"),
    "IV-A": ("temperature", "lower", "or noisier labels, at low load"),
    "IV-B": ("load", "lower", "trained long enough to fit"),
}


def remedy(phase: str, axes: Mapping[Knob, tuple[str, Sequence[Any]]]) -> str:
    """What to extend so that an empty phase may get cells.

    Args:
        phase: an empty one.
        axes: hyper-parameter that spans the load or the temperature, and its values.

    Example:
        >>> remedy("II", {"temperature": ("train.batch_size", [8, 64])})
        'II: higher temperature (train.batch_size below 8), or shorter training'
    """
    knob, way, further = _REMEDIES[phase]
    if knob not in axes:
        return f"{phase}: {way} {knob} (name an axis as grid.{knob}), {further}"
    key, values = axes[knob]
    sign = grows(knob, key) * (1 if way == "higher" else -1)
    side = {1: f" above {max(values)}", -1: f" below {min(values)}", 0: ""}[sign]
    return f"{phase}: {way} {knob} ({key}{side}), {further}"
