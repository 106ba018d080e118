"""Elements of a network's symmetry group as data: make, compose, invert, apply.

An element says, per group of units, which unit comes where and by which factor it is scaled. It
is a pytree of arrays with any leading axes, one element per entry of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoogen.errors import ConfigError
from zoogen.params import Parameter, ParamSpec, nested_order
from zoogen.symmetry.units import broadcastable, expand, lay_along

Numbers = np.ndarray | Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["permutations", "factors"],
    meta_fields=[],
)
@dataclass(frozen=True)
class Element:
    """One or many elements of the symmetry group of a :class:`~zoogen.params.ParamSpec`.

    Unit ``i`` of the result is unit ``permutations[group][i]`` of the input; its incoming weights
    and bias are multiplied by ``factors[group][i]``, its outgoing weights divided by it.

    Attributes:
        permutations: group → order of its units, ``[*m, units]``; groups left out stay.
        factors: group → factor of each unit, ``[*m, units]``: positive, ±1 or any but zero, as
            the group's ``scaling`` allows; groups left out keep their scale.
    """

    permutations: Mapping[str, Int[Numbers, "*m units"]]
    factors: Mapping[str, Float[Numbers, "*m units"]]


def identity(spec: ParamSpec, lead: Sequence[int] = ()) -> Element:
    """The element that changes nothing, in NumPy.

    Args:
        spec: of the network.
        lead: leading axes of the element's arrays.
    """
    units = {name: np.arange(group.size) for name, group in spec.groups.items()}
    scaled = [name for name, group in spec.groups.items() if group.scaling != "none"]
    return Element(
        {name: np.broadcast_to(order, (*lead, order.size)) for name, order in units.items()},
        {name: np.ones((*lead, units[name].size), np.float32) for name in scaled},
    )


def random_element(
    spec: ParamSpec, source: int | Array, lead: Sequence[int] = (), spread: float = 0.5
) -> Element:
    """Random elements: uniform permutations and signs, log-normal positive factors.

    Args:
        spec: of the network.
        source: a seed, for NumPy arrays; or a JAX key, for JAX arrays (traceable: augmentation
            inside a compiled training step).
        lead: leading axes, one independent element per entry.
        spread: standard deviation of the logarithm of positive factors.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"hidden.bias": (Axis(4, "hidden"),)}, {"hidden": "sign"})
        >>> element = random_element(spec, 0, lead=(3,))
        >>> element.permutations["hidden"].shape, element.factors["hidden"].shape
        ((3, 4), (3, 4))
    """
    orders: dict[str, Any] = {}
    factors = {}
    for index, (name, group) in enumerate(spec.groups.items()):
        families = 1 if group.parent is None else spec.groups[group.parent].size
        shape = (*lead, families, group.size // families)
        if isinstance(source, int):
            rng = np.random.default_rng((source, index))
            shares, normal = _numpy_draws(rng, shape)
        else:
            shares, normal = _jax_draws(jax.random.fold_in(source, index), shape)
        normal = normal.reshape(*lead, group.size)
        orders[name] = (
            shares[..., 0, :]
            if group.parent is None
            else nested_order(orders[group.parent], shares)
        )
        if group.scaling == "sign":
            factors[name] = 1 - 2 * (normal < 0).astype(normal.dtype)
        elif group.scaling == "positive":
            factors[name] = array_module(normal).exp(spread * normal)
        elif group.scaling == "nonzero":
            xp = array_module(normal)
            factors[name] = xp.where(normal < 0, -1, 1) * xp.exp(spread * normal)
    return Element(orders, factors)


def _numpy_draws(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Permutations of the last axis, and normal numbers."""
    units = np.broadcast_to(np.arange(shape[-1]), shape)
    return rng.permuted(units, axis=-1), rng.standard_normal(shape, np.float32)


def _jax_draws(key: Array, shape: tuple[int, ...]) -> tuple[Any, Any]:
    of_order, of_factor = jax.random.split(key)
    order = jnp.argsort(jax.random.bits(of_order, shape), axis=-1)
    return order, jax.random.normal(of_factor, shape)


def compose(second: Element, first: Element) -> Element:
    """The element that acts as ``first`` and then ``second``; leading axes broadcast.

    Example:
        >>> turn = Element({"hidden": np.array([1, 2, 0])}, {})
        >>> compose(turn, turn).permutations["hidden"].tolist()
        [2, 0, 1]
    """
    permutations = {**first.permutations, **second.permutations}
    for group in first.permutations.keys() & second.permutations.keys():
        permutations[group] = _take(first.permutations[group], second.permutations[group])
    factors = dict(second.factors)
    for group, factor in first.factors.items():
        moved = (
            _take(factor, second.permutations[group]) if group in second.permutations else factor
        )
        factors[group] = moved * factors[group] if group in factors else moved
    return Element(permutations, factors)


def invert(element: Element) -> Element:
    """The element that undoes another one.

    Example:
        >>> element = Element({"hidden": np.array([1, 2, 0])}, {})
        >>> invert(element).permutations["hidden"].tolist()
        [2, 0, 1]
    """
    orders = {group: order.argsort(axis=-1) for group, order in element.permutations.items()}
    factors = {
        group: 1 / (_take(factor, orders[group]) if group in orders else factor)
        for group, factor in element.factors.items()
    }
    return Element(orders, factors)


def apply(spec: ParamSpec, element: Element, values: Float[Numbers, "*m p"]) -> Any:
    """Act on flat weights; the network computes the same function before and after.

    Args:
        spec: of the network.
        element: its leading axes broadcast against those of ``values``: one element for all
            members, one per member, or many for one member.
        values: flat weights, NumPy or JAX.

    Returns:
        Flat weights ``[*m, p]`` of the same kind and precision.

    Raises:
        ConfigError: if the element names a group that the spec does not have.
    """
    _refuse_unknown_groups(spec, element)
    xp = array_module(values, element)
    element = jax.tree.map(xp.asarray, element)
    of_element = np.broadcast_shapes(*[leaf.shape[:-1] for leaf in jax.tree.leaves(element)])
    lead = np.broadcast_shapes(values.shape[:-1], of_element)
    element = jax.tree.map(partial(_with_lead, xp, lead if of_element else ()), element)
    parts = spec.unflatten(_with_lead(xp, lead, xp.asarray(values)))
    moved = {p.name: act(p, element, parts[p.name]) for p in spec.parameters}
    return spec.flatten(moved).reshape(*lead, spec.size)


def act(
    parameter: Parameter,
    element: Element,
    values: Float[Numbers, "m ..."],
    skip: int | None = None,
) -> Any:
    """Act on one parameter of m members, ``[m, *shape]``, with an element per member.

    Args:
        parameter: whose axes say what moves.
        element: arrays ``[m, units]`` of the same kind as ``values``; one row serves all members.
        values: the parameter of all members.
        skip: an axis that stays as it is.
    """
    orders: dict[int, Any] = {}
    for position, axis in enumerate(parameter.axes):
        if position == skip or axis.group is None:
            continue
        if axis.group in element.permutations:
            orders[position] = expand(element.permutations[axis.group], axis.block)
    if orders:
        values = values[_index(parameter, orders, array_module(values, element))]
    for position, axis in enumerate(parameter.axes):
        if position != skip and axis.group is not None and axis.group in element.factors:
            factor = element.factors[axis.group].astype(values.dtype)
            along = lay_along(factor, parameter, position)
            values = values * along if position == 0 else values / along
    return values


def array_module(*trees: Any) -> ModuleType:
    """``jax.numpy`` for JAX weights and traced elements, else ``numpy``."""
    values, *others = trees
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(others))
    return jnp if isinstance(values, jax.Array) or traced else np


def _index(parameter: Parameter, orders: dict[int, Any], xp: ModuleType) -> tuple[Any, ...]:
    """Index that reorders all axes of ``[m, *shape]`` at once, without an index per entry."""
    last = max(orders)
    index = []
    for position, axis in enumerate(parameter.axes[: last + 1]):
        order = orders[position] if position in orders else xp.arange(axis.size)[None]
        index.append(broadcastable(order, axis, position, last + 1))
    members = orders[last].shape[0]
    if members == 1:  # one order for all members
        return (slice(None), *[order[0] for order in index])
    return (xp.arange(members).reshape(-1, *[1] * (last + 1)), *index)


def _with_lead(xp: ModuleType, lead: tuple[int, ...], leaf: Any) -> Any:
    """Broadcast leading axes to ``lead`` and merge them into one."""
    length = leaf.shape[-1]
    return xp.broadcast_to(leaf, (*lead, length)).reshape(math.prod(lead), length)


def _take(values: Any, order: Any) -> Any:
    lead = np.broadcast_shapes(values.shape[:-1], order.shape[:-1])
    xp = array_module(values, order)
    values, order = (xp.broadcast_to(leaf, (*lead, leaf.shape[-1])) for leaf in (values, order))
    return xp.take_along_axis(values, order, axis=-1)


def _refuse_unknown_groups(spec: ParamSpec, element: Element) -> None:
    unknown = (element.permutations.keys() | element.factors.keys()) - spec.groups.keys()
    if unknown:
        raise ConfigError(
            f"symmetry element: no group {min(unknown)!r} in this network, which has "
            f"{list(spec.groups)}; build the element from the network's own spec"
        )
