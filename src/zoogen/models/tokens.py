"""Tokens: the weights of a network as rows of numbers, one or more per unit, and back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from zoogen.errors import ConfigError
from zoogen.params import Parameter, ParamSpec
from zoogen.symmetry.elements import array_module
from zoogen.symmetry.units import Place, by_unit

Numbers = np.ndarray | Array


@dataclass(frozen=True, eq=False)
class Tokens:
    """Where the numbers of a spec's networks stand in their tokens.

    Letters: t tokens, w numbers of a token.

    Attributes:
        index: place of each number in the flat vector, -1 for padding.
        owned: whether this is the number's own place; a copy of an outgoing weight is not.
        layer: number of the token's set of units, in ``sets``.
        unit: number of its unit within the set.
        part: which part of a unit's numbers it holds; 0 unless units are cut.
        sets: names of groups of units and of ``outputs of N``, in the order of the spec.
    """

    index: Int[np.ndarray, "t w"]
    owned: Bool[np.ndarray, "t w"]
    layer: Int[np.ndarray, " t"]
    unit: Int[np.ndarray, " t"]
    part: Int[np.ndarray, " t"]
    sets: tuple[str, ...]


@lru_cache(maxsize=64)
def tokens_of(spec: ParamSpec, width: int | None = None, outgoing: bool = False) -> Tokens:
    """Tokens of a spec: per unit its incoming weights, its bias and scales of norms.

    Inputs own nothing and have no token; outputs do. Units stand in the order of the network:
    tokens by themselves know nothing of its symmetry.

    Args:
        spec: any spec; a parameter belongs to the units along its first axis.
        width: numbers of a token; units with more of them are cut into several tokens. By default
            as many as the largest unit needs.
        outgoing: whether tokens also hold copies of the weights that others read from the unit.

    Raises:
        ConfigError: if the width is not positive, or a parameter has no axis.

    Example:
        >>> from zoogen.params import Axis
        >>> hidden = Axis(3, "hidden")
        >>> spec = ParamSpec.build({"weight": (hidden, Axis(2)), "bias": (hidden,),
        ...                         "output": (Axis(1), hidden)})
        >>> tokens_of(spec).index.tolist()
        [[0, 1, 6], [2, 3, 7], [4, 5, 8], [9, 10, 11]]

    Reference:
        Schürholt, Mahoney and Borth, Towards scalable and versatile weight space learning, 2024.
        We differ in that a token never mixes units, and in exact inversion.
    """
    if width is not None and width < 1:
        raise ConfigError(f"width of tokens: expected at least 1, found {width}")
    rows = _rows(spec, outgoing)
    width = width or max(index.shape[1] for index, _ in rows.values())
    indices, owned, layer, unit, part = [], [], [], [], []
    for number, (index, own) in enumerate(rows.values()):
        units, parts = len(index), -(-index.shape[1] // width)
        room = ((0, 0), (0, parts * width - index.shape[1]))
        indices.append(np.pad(index, room, constant_values=-1).reshape(-1, width))
        owned.append(np.pad(own, room).reshape(-1, width))
        layer.append(np.full(units * parts, number))
        unit.append(np.arange(units).repeat(parts))
        part.append(np.tile(np.arange(parts), units))
    lists = [np.concatenate(arrays) for arrays in (indices, owned, layer, unit, part)]
    return Tokens(lists[0], lists[1], lists[2], lists[3], lists[4], tuple(rows))


def tokenise(tokens: Tokens, values: Float[Numbers, "*m p"]) -> Any:
    """Flat weights as tokens ``[*m t w]``, zero where padded; NumPy or JAX.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(2, "hidden"), Axis(2))})
        >>> tokenise(tokens_of(spec), np.array([1.0, 2.0, 3.0, 4.0])).tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """
    xp = array_module(values)
    return xp.where(tokens.index >= 0, values[..., tokens.index], 0).astype(values.dtype)


def detokenise(tokens: Tokens, rows: Float[Numbers, "*m t w"]) -> Any:
    """Flat weights ``[*m p]`` from tokens; undoes :func:`tokenise` exactly, NumPy or JAX.

    Padding and copies of outgoing weights are not read.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"bias": (Axis(2, "hidden"),)})
        >>> detokenise(tokens_of(spec), np.array([[1.0], [2.0]])).tolist()
        [1.0, 2.0]
    """
    return rows.reshape(*rows.shape[:-2], -1)[..., _own_places(tokens)]


def _own_places(tokens: Tokens) -> Int[np.ndarray, " p"]:
    """Place of every number of the flat vector among those of all tokens."""
    own = np.flatnonzero(tokens.owned.reshape(-1))
    return own[np.argsort(tokens.index.reshape(-1)[own])]


def _rows(
    spec: ParamSpec, outgoing: bool
) -> dict[str, tuple[Int[np.ndarray, "u w"], Bool[np.ndarray, "u w"]]]:
    """Per set of units, a row of places per unit and whether they are the unit's own."""
    found: dict[str, list[tuple[np.ndarray, bool]]] = defaultdict(list)
    for parameter in spec.parameters:
        found[_owner(parameter)].append((_places_by_unit(parameter, 0), True))
    for parameter in spec.parameters if outgoing else ():
        for position, axis in enumerate(parameter.axes[1:], start=1):
            if axis.group is not None:
                found[axis.group].append((_places_by_unit(parameter, position), False))
    return {
        name: (
            np.concatenate([places for places, _ in parts], axis=1),
            np.concatenate([np.full(places.shape, own) for places, own in parts], axis=1),
        )
        for name, parts in found.items()
    }


def _owner(parameter: Parameter) -> str:
    if not parameter.axes:
        raise ConfigError(
            f"parameter {parameter.name!r}: expected an axis, found a single number that belongs "
            "to no unit; give it one axis of size 1"
        )
    return parameter.axes[0].group or f"outputs of {parameter.axes[0].size}"


def _places_by_unit(parameter: Parameter, position: int) -> Int[np.ndarray, "u r"]:
    places = parameter.offset + np.arange(parameter.size)
    return by_unit(Place(parameter, position), places.reshape(1, *parameter.shape))[0]
