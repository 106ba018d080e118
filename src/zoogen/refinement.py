"""Refinement: where a zoo needs further cells, from the labels of those that it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from zoogen.config import Scalar
from zoogen.errors import ConfigError
from zoogen.phases import PHASES

CERTAIN = 0.9
"""Cells below this confidence are worth a neighbour, whatever the labels around them say."""

_FINEST = 1 / 16  # of a step of the grid: gaps of less than twice that are not halved
_SAME = 0.9 * _FINEST  # half of the least gap that is halved, less what rounding takes
_DIGITS = 4
_OPEN = ("failed", "unlabelled")  # a boundary with these is none between phases


@dataclass(frozen=True)
class Proposal:
    """A cell to add half-way between two neighbours.

    Attributes:
        values: along all axes of the grid, by dotted key.
        score: how far the votes of both neighbours are apart (0 to 1) plus how uncertain they are
            on average (0 to 1), times their distance where that is less than a step of the grid.
        reason: in words.
    """

    values: dict[str, Scalar]
    score: float
    reason: str


def propose(
    cells: pd.DataFrame,
    axes: Mapping[str, Sequence[Scalar]],
    budget: int,
    along: Sequence[str] | None = None,
) -> list[Proposal]:
    """The cells that tell most about where phases meet, best first.

    Two cells are neighbours if they differ along one axis and no cell lies between them. Half-way
    between neighbours a cell is proposed if their labels differ or one of them is uncertain.
    Half-way is the geometric mean on an axis of positive numbers, else the arithmetic one. Of
    about equally good cells those that lie far from each other come first, so that a small
    budget covers all boundaries and a repeated refinement halves the widest gaps. Boundaries with
    failed cells do not count.

    Args:
        cells: one row a cell, with a column per axis, ``phase``, ``confidence`` and
            ``share PHASE`` for each phase, as :attr:`zoogen.zoo.Zoo.cells` has them.
        axes: of the grid → its values.
        budget: most cells to propose; at least 1.
        along: the axes to look along, such as load and temperature; all by default. Axes without
            numbers are left out.

    Returns:
        At most ``budget`` proposals; none of them is a cell already.

    Raises:
        ConfigError: for a budget below 1, or if none of the axes has two numbers.

    Example:
        >>> cells = pd.DataFrame({"network.width": [4, 16], "phase": ["III", "IV-B"],
        ...                       "confidence": [1.0, 1.0]})
        >>> [found] = propose(cells, {"network.width": (4, 16)}, budget=3)
        >>> found.values, found.reason
        ({'network.width': 8}, 'network.width 4 to 16: III to IV-B')
    """
    if budget < 1:
        raise ConfigError(f"budget: found {budget}, expected at least 1 cell to add")
    looked = list(axes if along is None else along)
    scales = {key: _Scale.of(axes[key]) for key in looked if _numbers(axes[key])}
    if not scales:
        raise ConfigError(
            f"refine: no axis of the grid has two numbers (looked along "
            f"{', '.join(looked) or 'none'}); there is nothing between its cells"
        )
    found: dict[tuple[Scalar, ...], Proposal] = {}
    for key, scale in scales.items():
        for one, other in _neighbours(cells, list(axes), key):
            proposal = _between(one, other, key, scale, axes)
            place = tuple(proposal.values.values()) if proposal else ()
            if proposal and proposal.score > _score(found.get(place)):
                found[place] = proposal
    there = _Places.of([dict(row) for _, row in cells[list(axes)].iterrows()], scales)
    return _spread(list(found.values()), scales, budget, there)


class _Scale(NamedTuple):
    """How an axis is measured.

    Attributes:
        logarithmic: whether distances are ratios.
        step: median distance of two values of the grid.
        integer: whether values are whole.
    """

    logarithmic: bool
    step: float
    integer: bool

    @classmethod
    def of(cls, values: Sequence[Scalar]) -> _Scale:
        numbers = np.array(sorted(values), float)
        logarithmic = bool((numbers > 0).all())
        steps = np.diff(np.log(numbers) if logarithmic else numbers)
        return cls(logarithmic, float(np.median(steps)), all(type(v) is int for v in values))

    def position(self, value: float) -> float:
        """In steps of the grid."""
        return float((np.log(value) if self.logarithmic else value) / self.step)

    def halfway(self, low: float, high: float) -> int | float | None:
        """The value between two; ``None`` where there is none that differs enough."""
        if self.position(high) - self.position(low) < 2 * _FINEST:
            return None
        middle = float(np.sqrt(low * high)) if self.logarithmic else (low + high) / 2
        if not self.integer:
            return float(f"{middle:.{_DIGITS}g}")
        whole = round(middle)
        return whole if low < whole < high else None


def _numbers(values: Sequence[Scalar]) -> bool:
    return len(values) > 1 and all(type(value) in (int, float) for value in values)


def _neighbours(
    cells: pd.DataFrame, axes: list[str], key: str
) -> Iterator[tuple[pd.Series, pd.Series]]:
    """Cells that are next to each other along one axis, the lower value first."""
    others = [axis for axis in axes if axis != key]
    rows = cells.groupby(others, sort=False) if others else [((), cells)]
    for _, row in rows:
        ordered = [cell for _, cell in row.sort_values(key).iterrows()]
        yield from pairwise(ordered)


def _between(
    one: pd.Series, other: pd.Series, key: str, scale: _Scale, axes: Mapping[str, Sequence[Scalar]]
) -> Proposal | None:
    """The cell half-way between two neighbours, if it is worth it."""
    phases, confidence = (one["phase"], other["phase"]), (one["confidence"], other["confidence"])
    certain = [1.0 if np.isnan(c) else float(c) for c in confidence]
    middle = scale.halfway(one[key], other[key])
    settled = phases[0] == phases[1] and min(certain) >= CERTAIN
    if middle is None or settled or any(phase in _OPEN for phase in phases):
        return None
    distance = min(1.0, scale.position(other[key]) - scale.position(one[key]))
    apart = np.abs(_votes(one) - _votes(other)).sum() / 2
    low, high = (f"{cell[key]:.4g}" for cell in (one, other))
    reason = f"{key} {low} to {high}: {phases[0]} to {phases[1]}"
    if min(certain) < CERTAIN:
        reason += f", confidence {certain[0]:.2f} and {certain[1]:.2f}"
    values = {axis: middle if axis == key else _plain(one[axis]) for axis in axes}
    return Proposal(values, distance * (apart + 1 - sum(certain) / 2), reason)


def _votes(cell: pd.Series) -> Float[np.ndarray, " phase"]:
    """Shares of the vote; all of it for the phase of a cell where nothing was voted on."""
    shares = np.array([cell.get(f"share {name}", np.nan) for name in PHASES], float)
    whole = np.array([cell["phase"] == name for name in PHASES], float)
    return shares if np.isfinite(shares).all() else whole


def _plain(value: Scalar | np.generic) -> Scalar:
    plain: Scalar = value.item() if isinstance(value, np.generic) else value
    return plain


def _score(proposal: Proposal | None) -> float:
    return proposal.score if proposal else 0.0


class _Places(NamedTuple):
    """Where cells lie: in steps of the grid along the scaled axes, and in what else they differ."""

    positions: Float[np.ndarray, "cell axis"]
    kinds: list[tuple[Scalar, ...]]

    @classmethod
    def of(cls, cells: Sequence[Mapping[str, Scalar]], scales: Mapping[str, _Scale]) -> _Places:
        steps = [[s.position(float(cell[key])) for key, s in scales.items()] for cell in cells]
        kinds = [tuple(v for k, v in cell.items() if k not in scales) for cell in cells]
        return cls(np.array(steps, float).reshape(len(cells), len(scales)), kinds)

    def distance(self, others: _Places, i: int) -> Float[np.ndarray, " cell"]:
        """To one of other cells; endless to what differs in more than the scaled axes."""
        apart = np.linalg.norm(self.positions - others.positions[i], axis=1)
        return np.where([kind == others.kinds[i] for kind in self.kinds], apart, np.inf)


def _spread(
    proposals: list[Proposal], scales: Mapping[str, _Scale], budget: int, there: _Places
) -> list[Proposal]:
    """The best ones, each chosen with less regard the nearer it lies to those already chosen.

    None is nearer to another, or to a cell that is there, than the axes can tell apart.
    """
    places = _Places.of([proposal.values for proposal in proposals], scales)
    score = np.array([proposal.score for proposal in proposals])
    taken = [bool((there.distance(places, i) < _SAME).any()) for i in range(len(proposals))]
    score = np.where(taken, -1.0, score)
    nearest = np.full(len(proposals), np.inf)
    chosen: list[Proposal] = []
    while len(chosen) < budget:
        regard = np.where(nearest >= _SAME, score / (1 + 1 / np.maximum(nearest, _SAME)), -1)
        best = int(np.argmax(regard)) if len(regard) else -1
        if best < 0 or regard[best] < 0:
            break
        chosen.append(proposals[best])
        nearest = np.minimum(nearest, places.distance(places, best))
    return chosen
