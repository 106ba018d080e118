"""Nearest training members of networks, after alignment, without matching all pairs.

Matching units of every network with those of every training member is slow. Candidates are found
by what costs a matrix product: how far units are from the nearest units of the other network, the
distance in a common frame, the distance of functions, and the overlap of wrong predictions. The
nearest few by each are matched: most by units, which tell most, and some by the others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from zoogen.evaluate.generation.behaviour import wrong_overlap
from zoogen.evaluate.generation.frame import Frame
from zoogen.params import ParamSpec
from zoogen.symmetry import apply, weight_matching
from zoogen.symmetry.units import by_unit, places

CANDIDATES = 48
OTHERS = 8  # as many times fewer by each of the other criteria
BLOCK_NUMBERS = 2**23  # products of units held at a time
PAIRS_AT_ONCE = 2048


class Known(NamedTuple):
    """What is known of networks before any two are matched.

    Attributes:
        placed: their weights in the common frame.
        features: of their functions, see
            :func:`~zoogen.evaluate.generation.behaviour.functional_features`.
        wrong: the test images that they get wrong.
        hard: what they get wrong of a view of the test images that tells networks apart, see
            :mod:`~zoogen.evaluate.generation.views`.
    """

    placed: Float[np.ndarray, "m p"]
    features: Float32[np.ndarray, "m f"]
    wrong: Bool[np.ndarray, "m b"]
    hard: Bool[np.ndarray, "m v"]

    def rows(self, rows: slice | Bool[np.ndarray, " m"]) -> Known:
        """Some of the networks."""
        return Known(*(array[rows] for array in self))


class Nearest(NamedTuple):
    """What lies nearest to each of m networks among others.

    Attributes:
        member: the nearest by weights, −1 where there is none.
        distance: its Euclidean distance after alignment.
        functional: the smallest Hellinger distance of predictions, to any member.
        overlap: the largest intersection over union of wrong predictions on the view, with any
            member.
        plain: the same on the test images as they are.
    """

    member: Int[np.ndarray, " m"]
    distance: Float[np.ndarray, " m"]
    functional: Float[np.ndarray, " m"]
    overlap: Float[np.ndarray, " m"]
    plain: Float[np.ndarray, " m"]


def nearest(
    frame: Frame, networks: Known, members: Known, candidates: int | None = CANDIDATES
) -> Nearest:
    """The nearest member to each network.

    Args:
        frame: in which both are placed.
        networks: to which neighbours are sought.
        members: among which they are sought.
        candidates: nearest members by :func:`unit_distances` that are matched, and an eighth as
            many by each other criterion; ``None`` matches all pairs.

    Returns:
        Exact ``functional`` and overlaps. The distance is that of the best candidate after
        matching; it is never above the distance in the common frame of the nearest there.
    """
    count = len(networks.placed)
    whole = Nearest(np.full(count, -1), *(np.full(count, np.nan) for _ in range(4)))
    size = max(1, BLOCK_NUMBERS // len(members.placed))
    for begin in range(0, count, size):
        here = slice(begin, begin + size)
        block = _nearest(frame.spec, networks.rows(here), members, candidates)
        for array, found in zip(whole, block, strict=True):
            array[here] = found
    return whole


def _nearest(spec: ParamSpec, networks: Known, members: Known, candidates: int | None) -> Nearest:
    functional = _distances(networks.features, members.features)
    overlap = wrong_overlap(networks.hard, members.hard)
    chosen = _candidates(spec, networks, members, (functional, -overlap), candidates)
    distances = np.full(overlap.shape, np.inf)
    distances[chosen] = aligned_distances(
        spec, networks.placed, members.placed, np.argwhere(chosen)
    )
    closest = members.features[functional.argmin(axis=1)]
    return Nearest(
        distances.argmin(axis=1),
        distances.min(axis=1),
        np.linalg.norm(networks.features - closest, axis=1),  # exact, where copies make it small
        overlap.max(axis=1),
        wrong_overlap(networks.wrong, members.wrong).max(axis=1),
    )


def _candidates(
    spec: ParamSpec,
    networks: Known,
    members: Known,
    criteria: tuple[Float32[np.ndarray, "m n"], ...],
    count: int | None,
) -> Bool[np.ndarray, "m n"]:
    """Which pairs are matched: all, or the nearest by each criterion and by weights."""
    shape = criteria[0].shape
    if count is None or count >= shape[1]:
        return np.ones(shape, bool)
    placed = networks.placed, members.placed
    chosen = nearest_by(unit_distances(spec, *placed), count)
    for criterion in (*criteria, _distances(*placed)):
        chosen |= nearest_by(criterion, max(1, count // OTHERS))
    return chosen


def nearest_by(criterion: Float32[np.ndarray, "m n"], count: int) -> Bool[np.ndarray, "m n"]:
    """Of each row, the ``count`` columns of the smallest values."""
    chosen = np.zeros(criterion.shape, bool)
    first = np.argpartition(criterion, count - 1, axis=1)[:, :count]
    np.put_along_axis(chosen, first, True, axis=1)
    return chosen


def aligned_distances(
    spec: ParamSpec,
    a: Float[np.ndarray, "m p"],
    b: Float[np.ndarray, "n p"],
    pairs: Int[np.ndarray, "q 2"],
) -> Float[np.ndarray, " q"]:
    """Euclidean distances after matching units, of pairs of a row of ``a`` and a row of ``b``."""
    found = [_aligned(spec, a[block[:, 0]], b[block[:, 1]]) for block in _split(pairs)]
    return np.concatenate([np.zeros(0), *found])


def _aligned(spec: ParamSpec, a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " q"]:
    moved = apply(spec, weight_matching(spec, a, b).elements, b)
    return np.linalg.norm(np.subtract(a, moved, dtype=np.float64), axis=1)


def _split(pairs: Int[np.ndarray, "q 2"]) -> list[Int[np.ndarray, "r 2"]]:
    return [pairs[i : i + PAIRS_AT_ONCE] for i in range(0, len(pairs), PAIRS_AT_ONCE)]


def unit_distances(
    spec: ParamSpec, a: Float[np.ndarray, "m p"], b: Float[np.ndarray, "n p"]
) -> Float32[np.ndarray, "m n"]:
    """How far the units of two networks are from their nearest ones in the other, for all pairs.

    The sum over units of the smallest squared distance to any unit of the other network, both
    ways, by those weights alone whose other end is an input or an output. Half of it is a lower
    bound of the squared distance after matching, and it depends on no order of units.

    Reference:
        Barrow et al., Parametric correspondence and chamfer matching, 1977.
    """
    total = np.zeros((len(a), len(b)), np.float32)
    for group in spec.groups.values():
        first, second = _fixed_weights(spec, group.name, a), _fixed_weights(spec, group.name, b)
        signed, units = group.scaling == "sign", first.shape[1]
        if not first.shape[2]:
            continue
        flat = second.reshape(len(b) * units, -1)
        size = max(1, BLOCK_NUMBERS // max(units * len(flat), 1))
        for begin in range(0, len(a), size):
            block = first[begin : begin + size]
            total[begin : begin + size] += _chamfer(block, flat, units, signed)
    return total


def _fixed_weights(
    spec: ParamSpec, group: str, values: Float[np.ndarray, "m p"]
) -> Float32[np.ndarray, "m units f"]:
    """Of each unit of a group, the weights whose other end no permutation moves."""
    parts = spec.unflatten(values)
    rows = [by_unit(p, parts[p.parameter.name]) for p in places(spec, group) if not p.others]
    empty = np.zeros((len(values), spec.groups[group].size, 0))
    return np.concatenate([empty, *rows], axis=-1).astype(np.float32)


def _chamfer(
    block: Float32[np.ndarray, "m units f"],
    flat: Float32[np.ndarray, "r f"],
    units: int,
    signed: bool,
) -> Float32[np.ndarray, "m n"]:
    """Sums of smallest squared distances of units; of units with a sign, to either sign."""
    own = block.reshape(-1, block.shape[-1])
    product = own @ flat.T
    if signed:
        np.abs(product, out=product)
    product *= -2
    product += np.square(own).sum(axis=1)[:, None]
    product += np.square(flat).sum(axis=1)
    pairs = product.reshape(len(block), units, -1, units)
    return pairs.min(axis=3).sum(axis=1) + pairs.min(axis=1).sum(axis=2)


def _distances(
    a: Float[np.ndarray, "m f"], b: Float[np.ndarray, "n f"]
) -> Float32[np.ndarray, "m n"]:
    """All Euclidean distances, by one matrix product; small ones keep half of float32's digits."""
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * (a @ b.T)
    return np.sqrt(np.maximum(squares, 0))
