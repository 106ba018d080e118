"""Canonical forms: one representative for all members that differ by a symmetry only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from zoogen.params import ParamSpec
from zoogen.symmetry.elements import Element, apply, compose, identity
from zoogen.symmetry.units import by_unit, places, refuse_nested_groups

Parts = dict[str, np.ndarray]

SWEEPS = 30


class Canonical(NamedTuple):
    """Canonical weights and how they were reached.

    Attributes:
        values: flat weights ``[*m, p]``.
        element: ``apply(spec, element, original)`` gives ``values``.
    """

    values: Float[np.ndarray, "*m p"]
    element: Element


def canonical(spec: ParamSpec, values: Float[np.ndarray, "*m p"]) -> Canonical:
    """The representative of each member's orbit: scale normalised, units sorted, signs fixed.

    1. *Scale* (positive and nonzero groups, in the order of the spec): incoming weights and bias of
       every unit have norm 1; a unit whose incoming weights are all zero keeps its scale.
    2. *Order*: units descend by the norm of all weights that they own, incoming and outgoing,
       which neither a permutation nor a sign changes.
    3. *Sign* (sign and nonzero groups, in the order of the spec): of a unit's incoming weights and
       bias, the entry of largest magnitude is positive.

    The result computes the same function, is its own canonical form, and is the same for all
    equivalent members up to rounding, for networks whose groups are declared before those that
    read them. It says which members are equivalent; it does not make different members similar
    (small changes can reorder units): for that, align them.

    Args:
        spec: of the network.
        values: flat weights; computed in float64, returned in their own precision.

    Raises:
        ConfigError: if the spec has nested groups, or the weights another length than it.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"hidden.bias": (Axis(3, "hidden"),)})
        >>> canonical(spec, np.array([2.0, 3.0, 1.0])).values.tolist()
        [3.0, 2.0, 1.0]
    """
    refuse_nested_groups(spec, "canonical form")
    values = np.asarray(values)
    lead, exact = values.shape[:-1], values.astype(np.float64).reshape(-1, *values.shape[-1:])
    element = identity(spec, exact.shape[:1])
    for step in _steps(spec):
        element = compose(step(spec.unflatten(apply(spec, element, exact))), element)
    result = apply(spec, element, exact).astype(values.dtype).reshape(values.shape)
    return Canonical(result, jax.tree.map(lambda a: a.reshape(*lead, a.shape[-1]), element))


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


def with_fixed_signs(spec: ParamSpec, values: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m p"]:
    """Members of the same functions: what each unit reads adds up to zero or more.

    The sum depends on all incoming weights and the bias, so that small changes rarely turn a unit
    over. (What units send to the outputs of a classifier adds up to nearly nothing.)

    Args:
        spec: of the network; groups whose units have no sign to choose stay as they are.
        values: flat weights.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build(
        ...     {"in": (Axis(1, "hidden"), Axis(1)), "out": (Axis(1), Axis(1, "hidden"))},
        ...     {"hidden": "sign"},
        ... )
        >>> with_fixed_signs(spec, np.array([[-3.0, 2.0]])).tolist()
        [[3.0, -2.0]]
    """
    result = np.asarray(values)
    for group in _with_signs(spec):  # signs of one turn over what the next one reads
        total = _incoming(spec, group, spec.unflatten(result)).astype(np.float64).sum(axis=-1)
        result = apply(spec, Element({}, {group: np.where(total < 0, -1.0, 1.0)}), result)
    return result


def _steps(spec: ParamSpec) -> Iterator[Callable[[Parts], Element]]:
    """What to do one after another, each given the result of the steps before."""
    scaled = [g.name for g in spec.groups.values() if g.scaling in ("positive", "nonzero")]
    yield from (partial(_normalise, spec, group) for group in scaled)
    yield partial(_sort, spec)
    yield from (partial(_fix_sign, spec, group) for group in _with_signs(spec))


def _with_signs(spec: ParamSpec) -> list[str]:
    return [g.name for g in spec.groups.values() if g.scaling in ("sign", "nonzero")]


def _normalise(spec: ParamSpec, group: str, parts: Parts) -> Element:
    norm = np.sqrt(np.square(_incoming(spec, group, parts)).sum(axis=-1))
    return Element({}, {group: 1 / np.where(norm > 0, norm, 1)})


def _sort(spec: ParamSpec, parts: Parts) -> Element:
    def order(group: str) -> Int[np.ndarray, "m units"]:
        owned = [by_unit(place, parts[place.parameter.name]) for place in places(spec, group)]
        energy = np.square(np.concatenate(owned, axis=-1)).sum(axis=-1)
        return np.argsort(-energy, axis=-1, stable=True)

    return Element({group: order(group) for group in spec.groups}, {})


def _fix_sign(spec: ParamSpec, group: str, parts: Parts) -> Element:
    incoming = _incoming(spec, group, parts)
    largest = np.abs(incoming).argmax(axis=-1)[..., None]
    entry = np.take_along_axis(incoming, largest, axis=-1)[..., 0]
    return Element({}, {group: np.where(entry < 0, -1.0, 1.0)})


def _incoming(spec: ParamSpec, group: str, parts: Parts) -> Float[np.ndarray, "m units r"]:
    """Incoming weights and biases of each unit."""
    rows = [by_unit(p, parts[p.parameter.name]) for p in places(spec, group) if p.incoming]
    return np.concatenate(rows, axis=-1)


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
