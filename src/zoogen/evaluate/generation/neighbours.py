"""Nearest training members of networks, after alignment, without matching all pairs.

Matching units of every network with those of every training member is exact and slow. Candidates
are found by what costs one matrix product: the distance in a common frame, the distance of
functions, and the overlap of wrong predictions. The nearest few by each are matched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from zoogen.evaluate.generation.behaviour import wrong_overlap
from zoogen.evaluate.generation.frame import Frame
from zoogen.params import ParamSpec
from zoogen.symmetry import apply, weight_matching

CANDIDATES = 8  # by each of three criteria
BLOCK_NUMBERS = 2**24  # distances held at a time


class Known(NamedTuple):
    """What is known of networks before any two are matched.

    Attributes:
        placed: their weights in the common frame.
        features: of their functions, see
            :func:`~zoogen.evaluate.generation.behaviour.functional_features`.
        wrong: the test images that they get wrong.
    """

    placed: Float[np.ndarray, "m p"]
    features: Float32[np.ndarray, "m f"]
    wrong: Bool[np.ndarray, "m b"]

    def rows(self, rows: Int[np.ndarray, " n"] | slice) -> Known:
        """Some of the networks."""
        return Known(*(array[rows] for array in self))


class Nearest(NamedTuple):
    """What lies nearest to each of m networks among others.

    Attributes:
        member: the nearest by weights, −1 where there is none.
        distance: its Euclidean distance after alignment.
        functional: the smallest Hellinger distance of predictions, to any member.
        overlap: the largest intersection over union of wrong predictions, with any member.
    """

    member: Int[np.ndarray, " m"]
    distance: Float[np.ndarray, " m"]
    functional: Float[np.ndarray, " m"]
    overlap: Float[np.ndarray, " m"]


def nearest(
    frame: Frame, networks: Known, members: Known, candidates: int | None = CANDIDATES
) -> Nearest:
    """The nearest member to each network.

    Args:
        frame: in which both are placed.
        networks: to which neighbours are sought.
        members: among which they are sought.
        candidates: nearest members by each criterion that are matched; ``None`` matches all pairs.

    Returns:
        Exact ``functional`` and ``overlap``. The distance is that of the best candidate after
        matching; it is never above the distance in the common frame of the nearest there.
    """
    count = len(networks.placed)
    whole = Nearest(np.full(count, -1), *(np.full(count, np.nan) for _ in range(3)))
    for rows in _blocks(count, len(members.placed)):
        block = _nearest(frame.spec, networks.rows(rows), members, candidates)
        for array, found in zip(whole, block, strict=True):
            array[rows] = found
    return whole


def aligned_distances(
    spec: ParamSpec, a: Float[np.ndarray, "q p"], b: Float[np.ndarray, "q p"]
) -> Float[np.ndarray, " q"]:
    """Euclidean distances of pairs, units matched."""
    moved = apply(spec, weight_matching(spec, a, b).elements, b)
    return np.linalg.norm(np.subtract(a, moved, dtype=np.float64), axis=1)


def _blocks(count: int, members: int) -> Iterator[slice]:
    size = max(1, BLOCK_NUMBERS // max(members, 1)) if members else max(count, 1)
    return (slice(begin, begin + size) for begin in range(0, count if members else 0, size))


def _nearest(spec: ParamSpec, networks: Known, members: Known, candidates: int | None) -> Nearest:
    functional = _distances(networks.features, members.features)
    overlap = wrong_overlap(networks.wrong, members.wrong)
    if candidates is None or 3 * candidates >= len(members.placed):
        chosen = np.ones(overlap.shape, bool)
    else:
        criteria = (_distances(networks.placed, members.placed), functional, -overlap)
        chosen = np.zeros(overlap.shape, bool)
        for criterion in criteria:
            first = np.argpartition(criterion, candidates - 1, axis=1)[:, :candidates]
            np.put_along_axis(chosen, first, True, axis=1)
    network, member = np.nonzero(chosen)
    distances = np.full(overlap.shape, np.inf)
    distances[network, member] = aligned_distances(
        spec, networks.placed[network], members.placed[member]
    )
    closest = members.features[functional.argmin(axis=1)]
    return Nearest(
        distances.argmin(axis=1),
        distances.min(axis=1),
        np.linalg.norm(networks.features - closest, axis=1),  # exact, where copies make it small
        overlap.max(axis=1),
    )


def _distances(
    a: Float[np.ndarray, "m f"], b: Float[np.ndarray, "n f"]
) -> Float32[np.ndarray, "m n"]:
    """All Euclidean distances, by one matrix product; small ones keep half of float32's digits."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * (a @ b.T)
    return np.sqrt(np.maximum(squares, 0))
