"""A common frame: members without their continuous symmetries, and aligned with one reference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from zoogen.errors import ConfigError
from zoogen.params import ParamSpec
from zoogen.symmetry import align_members, balanced


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
