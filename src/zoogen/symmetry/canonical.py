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


def _steps(spec: ParamSpec) -> Iterator[Callable[[Parts], Element]]:
    """What to do one after another, each given the result of the steps before."""
    scaled = [g.name for g in spec.groups.values() if g.scaling in ("positive", "nonzero")]
    signed = [g.name for g in spec.groups.values() if g.scaling in ("sign", "nonzero")]
    yield from (partial(_normalise, spec, group) for group in scaled)
    yield partial(_sort, spec)
    yield from (partial(_fix_sign, spec, group) for group in signed)


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
