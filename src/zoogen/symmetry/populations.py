"""Alignment of many members: with one reference, or all with one another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from zoogen.errors import ConfigError
from zoogen.params import ParamSpec
from zoogen.symmetry.elements import Element, apply, compose, identity
from zoogen.symmetry.matching import comparable, overwrite, unmatched
from zoogen.symmetry.weights import weight_matching


class Aligned(NamedTuple):
    """Members after alignment; each computes the same function as before.

    Attributes:
        values: flat weights.
        elements: ``apply(spec, elements, members)`` gives ``values``.
        reference: what they are aligned with.
        distance_before: Euclidean distance of each member to ``reference`` before alignment,
            running statistics left out.
        distance: and after.
    """

    values: Float[np.ndarray, "m p"]
    elements: Element
    reference: Float[np.ndarray, " p"]
    distance_before: Float[np.ndarray, " m"]
    distance: Float[np.ndarray, " m"]


def align_members(
    spec: ParamSpec,
    reference: Float[np.ndarray, " p"],
    members: Float[np.ndarray, "m p"],
    restarts: int = 0,
) -> Aligned:
    """Align members with a reference by :func:`~zoogen.symmetry.weight_matching`.

    Args:
        spec: of the network.
        reference: flat weights.
        members: flat weights; those that are not finite stay as they are, at distance NaN.
        restarts: further runs from random elements.
    """
    members, reference = np.asarray(members), np.asarray(reference)
    matching = weight_matching(spec, reference, members, restarts=restarts)
    return _aligned(spec, matching.elements, reference, members)


def align_population(
    spec: ParamSpec, members: Float[np.ndarray, "m p"], first: int = 0, max_rounds: int = 50
) -> Aligned:
    """Align all members with one another, so that their mean is long and they are close to it.

    After all members are aligned with one of them, each is matched with the sum of the others,
    all at once, or in halves where all at once would be no gain, until no round lengthens the
    mean of the members; that is equivalent to shrinking the sum of all pairwise squared distances.

    Args:
        spec: of the network.
        members: flat weights; those that are not finite stay as they are and count nowhere.
        first: the member with which all others are aligned at the start; finite.
        max_rounds: bound on the rounds.

    Returns:
        Aligned members; ``reference`` is their mean.

    Raises:
        ConfigError: if the weights of ``first`` are not finite.

    Reference:
        Ainsworth, Hayase and Srinivasa, Git Re-Basin, 2022 (MergeMany); there, members are matched
        one after another.
    """
    members = np.asarray(members)
    if not comparable(members[first], members[first]):
        raise ConfigError(
            f"align_population: the weights of member {first} are not finite; choose as `first` "
            "one that did not diverge"
        )
    finite = np.flatnonzero(comparable(members, members))
    kept = spec.without_statistics(members[finite])
    elements = weight_matching(spec, members[first], kept).elements
    values = apply(spec, elements, kept)
    if _length(values) < _length(kept):  # they were aligned better as they came
        elements, values = unmatched(spec, len(kept)).elements, kept
    for _ in range(max_rounds):
        step = _round(spec, values, np.arange(len(kept)))
        if step is None:
            break
        elements, values = compose(step, elements), apply(spec, step, values)
    whole = unmatched(spec, len(members)).elements
    overwrite(whole, finite, elements)
    mean = apply(spec, elements, members[finite]).mean(axis=0)
    return _aligned(spec, whole, mean, members)


def _round(
    spec: ParamSpec, values: Float[np.ndarray, "m p"], block: Int[np.ndarray, " r"]
) -> Element | None:
    """Elements that lengthen the sum of all members by moving some; nothing if there are none.

    Moving members at the same time can be a loss, because each is matched with others that move;
    moving one alone never is.
    """
    others = values.sum(axis=0) - values[block]
    found = weight_matching(spec, others, values[block], start=identity(spec))
    if not (found.after > found.before).any():
        return None
    step = unmatched(spec, len(values)).elements
    overwrite(step, block, found.elements)
    moved = apply(spec, step, values)
    if len(block) == 1 or _length(moved) > _length(values):
        return step
    halves = np.array_split(block, 2)
    first = _round(spec, values, halves[0])
    if first is None:
        return _round(spec, values, halves[1])
    second = _round(spec, apply(spec, first, values), halves[1])
    return first if second is None else compose(second, first)


def _length(values: Float[np.ndarray, "m p"]) -> float:
    return float(np.linalg.norm(values.sum(axis=0, dtype=np.float64)))


def _aligned(
    spec: ParamSpec,
    elements: Element,
    reference: Float[np.ndarray, " p"],
    members: Float[np.ndarray, "m p"],
) -> Aligned:
    values = apply(spec, elements, members)
    apart = (_distance(spec, each, reference) for each in (members, values))
    return Aligned(values, elements, reference, *apart)


def _distance(
    spec: ParamSpec, values: Float[np.ndarray, "m p"], reference: Float[np.ndarray, " p"]
) -> Float[np.ndarray, " m"]:
    difference = spec.without_statistics(np.subtract(values, reference, dtype=np.float64))
    return np.linalg.norm(difference, axis=1)
