"""A common frame: members without their continuous symmetries, and aligned with one reference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from zoogen.errors import ConfigError
from zoogen.params import ParamSpec
from zoogen.symmetry import Element, align_members, apply
from zoogen.symmetry.units import by_unit, places

SWEEPS = 30


class Frame(NamedTuple):
    """What brings members of one spec to where they can be compared.

    Attributes:
        spec: of the members.
        reference: flat weights, in balanced scale.
    """

    spec: ParamSpec
    reference: Float[np.ndarray, " p"]

    def place(self, members: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m p"]:
        """Members of the same functions, in balanced scale and aligned with the reference."""
        return align_members(self.spec, self.reference, balanced(self.spec, members)).values


def frame_of(spec: ParamSpec, members: Float[np.ndarray, "m p"]) -> Frame:
    """The frame whose reference is the mean of members aligned with the first of them.

    Raises:
        ConfigError: if there are no members.
    """
    if not len(members):
        raise ConfigError("common frame: found no member, expected at least one")
    values = balanced(spec, members)
    aligned = align_members(spec, values[0], values).values
    return Frame(spec, aligned.mean(axis=0, dtype=np.float64).astype(values.dtype))


def balanced(spec: ParamSpec, values: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m p"]:
    """Members in the scale of least norm: what a unit reads is as long as what reads it.

    Of all members that positive scales of units can reach, this is the one of least Euclidean
    norm, and there is one only: weights that do nothing become small, and the distance of two
    members does not depend on the scale that they came in. Units without incoming or without
    outgoing weights keep theirs.

    Args:
        spec: of the network; groups without positive scale stay as they are.
        values: flat weights.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build(
        ...     {"in": (Axis(1, "hidden"), Axis(1)), "out": (Axis(1), Axis(1, "hidden"))},
        ...     {"hidden": "positive"},
        ... )
        >>> balanced(spec, np.array([[8.0, -2.0]])).tolist()
        [[4.0, -4.0]]

    Reference:
        Stock, Graham, Gribonval and Jégou, Equi-normalization of neural networks, 2019.
    """
    result = np.asarray(values)
    groups = [group.name for group in spec.groups.values() if group.scaling == "positive"]
    for _ in range(SWEEPS if len(groups) > 1 else min(len(groups), 1)):
        furthest = 0.0
        for group in groups:
            factor = _factor(spec, group, result)
            result = apply(spec, Element({}, {group: factor}), result)
            furthest = max(furthest, float(np.abs(factor - 1).max(initial=0)))
        if furthest < 1e-4:
            break
    return result


def _factor(
    spec: ParamSpec, group: str, values: Float[np.ndarray, "m p"]
) -> Float[np.ndarray, "m units"]:
    parts = spec.unflatten(values)
    length = [0.0, 0.0]
    for place in places(spec, group):
        rows = by_unit(place, parts[place.parameter.name]).astype(np.float64)
        length[place.incoming] = length[place.incoming] + np.square(rows).sum(axis=-1)
    outgoing, incoming = (np.asarray(side) for side in length)
    usable = (outgoing > 0) & (incoming > 0)
    ratio = np.where(usable, outgoing, 1) / np.where(usable, incoming, 1)
    return np.asarray(ratio**0.25)
