"""Distinct networks: how many differ from each other, of all and of those that pass the gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from zoogen.evaluate.generation.neighbours import aligned_distances, nearest_by, unit_distances
from zoogen.params import ParamSpec

BLOCK = 32  # networks that are compared with each other at a time
CLOSEST = 16  # of those that count already, the nearest by units are matched


@dataclass(frozen=True)
class Distinct:
    """Shares of networks that are no repetition of one another.

    Attributes:
        share: of the generated that are good and new, too.
        nominal: the same of the held-out members: what a perfect generator gets.
        apart: of all finite generated networks, good or not; NaN where there is none.
        real_apart: of all held-out members.
    """

    share: float
    nominal: float
    apart: float
    real_apart: float


def distinct(
    spec: ParamSpec, placed: Float[np.ndarray, "n p"], least: float
) -> Bool[np.ndarray, " n"]:
    """Which networks are at least so far from each one before them that counts.

    One after another: a network counts unless one that counts already is nearer than ``least``.
    Of those only the nearest ``CLOSEST`` by :func:`unit_distances` are matched; repetitions are
    the nearest there.

    Args:
        spec: of the networks.
        placed: weights in the common frame, in the order in which they are to count.
        least: distance after matching units.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(2, "hidden"), Axis(1))})
        >>> distinct(spec, np.array([[1.0, 5.0], [5.0, 1.1], [5.0, 3.0], [4.0, 3.0]]), 1.5).tolist()
        [True, False, True, False]
    """
    counts = np.zeros(len(placed), bool)
    for begin in range(0, len(placed), BLOCK):
        rows = np.arange(begin, min(begin + BLOCK, len(placed)))
        rows = rows[_far_from(spec, placed, rows, np.flatnonzero(counts), least)]
        near = _near_pairs(spec, placed[rows], least)
        for place, row in enumerate(rows):
            counts[row] = not (near[place, :place] & counts[rows[:place]]).any()
    return counts


def _far_from(
    spec: ParamSpec,
    placed: Float[np.ndarray, "n p"],
    rows: Int[np.ndarray, " r"],
    others: Int[np.ndarray, " o"],
    least: float,
) -> Bool[np.ndarray, " r"]:
    """Which rows are far from all others."""
    if not len(others):
        return np.ones(len(rows), bool)
    kept = min(CLOSEST, len(others))
    apart = unit_distances(spec, placed[rows], placed[others])
    one, other = np.nonzero(nearest_by(apart, kept))  # row by row, so many of each
    pairs = np.stack([rows[one], others[other]], axis=1)
    distances = aligned_distances(spec, placed, placed, pairs)
    return np.asarray(distances.reshape(-1, kept).min(axis=1) >= least)


def _near_pairs(
    spec: ParamSpec, placed: Float[np.ndarray, "r p"], least: float
) -> Bool[np.ndarray, "r r"]:
    """Which pairs of a later network and an earlier one are near each other."""
    near = np.zeros((len(placed), len(placed)), bool)
    pairs = np.argwhere(np.tri(len(placed), k=-1, dtype=bool))
    near[pairs[:, 0], pairs[:, 1]] = aligned_distances(spec, placed, placed, pairs) < least
    return near
