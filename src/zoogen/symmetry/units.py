"""What a unit owns: between numbers per unit and the entries of a parameter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from zoogen.errors import ConfigError
from zoogen.params import Axis, Parameter, ParamSpec

Numbers = np.ndarray | Array


class Place(NamedTuple):
    """An axis of a parameter along which a group's units lie.

    The first axis of a parameter is what its units compute (incoming weights, biases); all others
    are what other units read from them (outgoing weights).
    """

    parameter: Parameter
    position: int

    @property
    def incoming(self) -> bool:
        return self.position == 0

    @property
    def others(self) -> set[str]:
        """Groups along the parameter's other axes."""
        axes = enumerate(self.parameter.axes)
        return {axis.group for i, axis in axes if i != self.position and axis.group is not None}


def places(spec: ParamSpec, group: str) -> Iterator[Place]:
    """Where the units of a group own entries."""
    for parameter in spec.parameters:
        for position, axis in enumerate(parameter.axes):
            if axis.group == group:
                yield Place(parameter, position)


def refuse_nested_groups(
    spec: ParamSpec, task: str, instead: str = "bring members together with `sinkhorn_matching`"
) -> None:
    """Refuse specs whose units do not all move freely, where an algorithm assumes that they do.

    Args:
        spec: of the members.
        task: what can't be done.
        instead: what to do, with something that takes such specs.

    Raises:
        ConfigError: naming the group that has a parent.
    """
    for group in spec.groups.values():
        if group.parent is not None:
            raise ConfigError(
                f"{task}: expected groups of freely exchangeable units, found {group.name!r} "
                f"nested in {group.parent!r}; {instead}, which takes such specs"
            )


def by_unit(place: Place, values: Float[np.ndarray, "m ..."]) -> Float[np.ndarray, "m units r"]:
    """The entries of one parameter of m members, ``[m, *shape]``, as one row per unit."""
    axis, shape = place.parameter.axes[place.position], place.parameter.shape
    before, units = math.prod(shape[: place.position]), axis.size // axis.block
    after = math.prod(shape[place.position + 1 :])
    split = values.reshape(len(values), before, units, axis.block * after)
    return split.swapaxes(1, 2).reshape(len(values), units, before * axis.block * after)


def lay_along(values: Numbers, parameter: Parameter, position: int) -> Any:
    """One number per unit, ``[m, units]``, ready to be multiplied with ``[m, *shape]``."""
    axis = parameter.axes[position]
    return broadcastable(values.repeat(axis.block, axis=-1), axis, position, len(parameter.axes))


def expand(order: Int[Numbers, "m units"], block: int) -> Any:
    """Order of entries from orders of units that own ``block`` consecutive entries each."""
    if block == 1:
        return order
    entries = order[..., None] * block + np.arange(block, dtype=order.dtype)
    return entries.reshape(*order.shape[:-1], order.shape[-1] * block)


def broadcastable(values: Any, axis: Axis, position: int, ndim: int) -> Any:
    """``[m, size]`` as ``[m, 1, …, size, …, 1]`` with ``ndim`` axes behind the first."""
    shape = [1] * ndim
    shape[position] = axis.size
    return values.reshape(values.shape[0], *shape)
