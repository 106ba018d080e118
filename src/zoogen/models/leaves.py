"""Leaves: the parameters of a spec as arrays over permutable slots, all else folded into features.

A slot is one permutable factor of an axis. An ordinary axis has one slot; an axis behind a
flattened map has one slot and its block of positions; an axis of a nested group has two slots, the
parent's and its own. Fixed axes and blocks carry no symmetry: their entries become features, beside
the channels. A group of one unit carries none either and has no slot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.params import Axis, Parameter, ParamSpec

Features = dict[str, Float[Array, "b *slots f"]]


class Slot(NamedTuple):
    """A permutable factor of a leaf's axis.

    Attributes:
        group: that permutes it.
        size: units, of a nested group those of one parent's unit.
        parent: place among the leaf's slots of the slot that it is nested in.
    """

    group: str
    size: int
    parent: int | None = None


class _Factor(NamedTuple):
    """What an axis consists of: a slot, or fixed entries (of inputs and outputs, of positions)."""

    size: int
    slot: Slot | None = None
    position: bool = False


@dataclass(frozen=True)
class Leaf:
    """A parameter for equivariant layers.

    Attributes:
        name: of the parameter.
        slots: its permutable factors in the order of its axes.
        factors: sizes into which its axes are split.
        order: of the factors, slots first.
        terminals: entries of fixed inputs and outputs per combination of units.
        positions: entries of kernels and flattened maps per combination of units.
    """

    name: str
    slots: tuple[Slot, ...]
    factors: tuple[int, ...]
    order: tuple[int, ...]
    terminals: int
    positions: int

    @property
    def fixed(self) -> int:
        """Entries per combination of units."""
        return self.terminals * self.positions

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each slot."""
        return tuple(slot.size for slot in self.slots)


def leaves_of(spec: ParamSpec) -> tuple[Leaf, ...]:
    """The spec's parameters as leaves, in its order.

    Example:
        >>> conv = (Axis(8, "conv1"), Axis(6, "conv0"), Axis(3), Axis(3))
        >>> leaf, = leaves_of(ParamSpec.build({"conv1.weight": conv}))
        >>> leaf.sizes, leaf.fixed
        ((8, 6), 9)
    """
    return tuple(_leaf(spec, parameter) for parameter in spec.parameters)


def permutable_terminals(spec: ParamSpec) -> ParamSpec:
    """The spec of a model that does not tell a network's inputs and outputs apart.

    Fixed axes at the first place of a parameter (outputs) that are equally long become one group,
    as do fixed axes at the second place (inputs). Equivariance to that larger group saves most
    weights of a layer where inputs are many, and asks more than the networks' symmetry.

    Example:
        >>> spec = ParamSpec.build({"output.weight": (Axis(10), Axis(8, "hidden"))})
        >>> list(permutable_terminals(spec).groups)
        ['outputs of 10', 'hidden']
    """
    axes = {
        parameter.name: tuple(_permutable(*item) for item in enumerate(parameter.axes))
        for parameter in spec.parameters
    }
    parents = {group: (parent, units) for group, parent, units in spec.parents}
    return ParamSpec.build(axes, dict(spec.scalings), parents)


def _permutable(place: int, axis: Axis) -> Axis:
    if axis.group is not None or place > 1:
        return axis
    return replace(axis, group=f"{('outputs', 'inputs')[place]} of {axis.size}")


def fold(spec: ParamSpec, leaves: tuple[Leaf, ...], weights: Float[Array, "b p c"]) -> Features:
    """Flat weights with channels as features of leaves: fixed entries × channels."""
    batch, _, channels = weights.shape
    features = {}
    for leaf, parameter in zip(leaves, spec.parameters, strict=True):
        entries = weights[:, parameter.offset : parameter.offset + parameter.size]
        split = entries.reshape(batch, *leaf.factors, channels)
        last = len(leaf.factors) + 1
        ordered = split.transpose(0, *(1 + place for place in leaf.order), last)
        features[leaf.name] = ordered.reshape(batch, *leaf.sizes, leaf.fixed * channels)
    return features


def unfold(leaves: tuple[Leaf, ...], features: Mapping[str, Any]) -> Any:
    """Flat weights with channels ``[b p c]`` from features of leaves; undoes :func:`fold`.

    NumPy or JAX, as the features are.
    """
    entries = []
    for leaf in leaves:
        of_leaf = features[leaf.name]
        batch, channels = of_leaf.shape[0], of_leaf.shape[-1] // leaf.fixed
        split = of_leaf.reshape(batch, *(leaf.factors[place] for place in leaf.order), channels)
        back = sorted(range(len(leaf.order)), key=leaf.order.__getitem__)
        ordered = split.transpose(0, *(1 + place for place in back), len(back) + 1)
        entries.append(ordered.reshape(batch, math.prod(leaf.factors), channels))
    concatenate = np.concatenate if isinstance(entries[0], np.ndarray) else jnp.concatenate
    return concatenate(entries, axis=1)


def _leaf(spec: ParamSpec, parameter: Parameter) -> Leaf:
    slots: list[Slot] = []
    factors: list[_Factor] = []
    for place, axis in enumerate(parameter.axes):
        of_axis = _factors(spec, axis, place, len(slots))
        factors += of_axis
        slots += [factor.slot for factor in of_axis if factor.slot is not None]
    moving = [i for i, factor in enumerate(factors) if factor.slot is not None]
    fixed = [i for i, factor in enumerate(factors) if factor.slot is None]
    return Leaf(
        parameter.name,
        tuple(slots),
        tuple(factor.size for factor in factors),
        (*moving, *fixed),
        math.prod(factors[i].size for i in fixed if not factors[i].position),
        math.prod(factors[i].size for i in fixed if factors[i].position),
    )


def _factors(spec: ParamSpec, axis: Axis, place: int, slots: int) -> list[_Factor]:
    """Factors of one axis of a parameter whose axes before it have so many slots."""
    if axis.group is None:
        return [_Factor(axis.size, position=place > 1)]  # PyTorch: outputs, inputs, kernel
    group, factors, parent = spec.groups[axis.group], [], None
    families = 1 if group.parent is None else spec.groups[group.parent].size
    if group.parent is not None and families > 1:
        factors.append(_Factor(families, Slot(group.parent, families)))
        parent = slots
    share = group.size // families
    if share > 1:
        factors.append(_Factor(share, Slot(group.name, share, parent)))
    return [*factors, _Factor(axis.block, position=True)]
