"""Soft permutations: doubly stochastic matrices, as smooth functions of logits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.params import Parameter, ParamSpec, nested_order
from zoogen.symmetry.assignment import best_order
from zoogen.symmetry.elements import Element

Matrices = Mapping[str, Float[Array, "families n n"]]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def sinkhorn(logits: Float[Array, "*q n n"], iterations: int) -> Float[Array, "*q n n"]:
    """The doubly stochastic matrix that is closest to ``exp(logits)`` in relative entropy.

    Rows and columns are brought to sum 1 in turn. The gradient is that of the fixed point, not of
    the iterations: a change of the logits moves the matrix and the two sets of factors together,
    so that all sums stay 1, and the factors' part is found by the same alternation.

    Args:
        logits: any finite numbers.
        iterations: passes over rows and columns.

    Example:
        >>> sinkhorn(jnp.log(jnp.array([[1.0, 2.0], [3.0, 6.0]])), 5).tolist()
        [[0.5, 0.5], [0.5, 0.5]]

    Reference:
        Sinkhorn and Knopp, 1967; the gradient after Eisenberger et al., A unified framework for
        implicit Sinkhorn differentiation, 2022, solved by alternation instead of a factorisation.
    """

    def normalise(_: int, potential: Array) -> Array:
        rows = -jax.nn.logsumexp(logits + potential, axis=-1, keepdims=True)
        return -jax.nn.logsumexp(logits + rows, axis=-2, keepdims=True)

    columns = jax.lax.fori_loop(0, iterations, normalise, jnp.zeros_like(logits[..., :1, :]))
    return jax.nn.softmax(logits + columns, axis=-1)


def _forward(logits: Array, iterations: int) -> tuple[Array, Array]:
    matrix = sinkhorn(logits, iterations)
    return matrix, matrix


def _backward(iterations: int, matrix: Array, gradient: Array) -> tuple[Array]:
    weighted = matrix * gradient
    of_rows = weighted.sum(axis=-1, keepdims=True)
    of_columns = weighted.sum(axis=-2, keepdims=True)

    def solve(_: int, columns: Array) -> Array:
        rows = of_rows - (matrix * columns).sum(axis=-1, keepdims=True)
        return of_columns - (matrix * rows).sum(axis=-2, keepdims=True)

    columns = jax.lax.fori_loop(0, iterations, solve, jnp.zeros_like(of_columns))
    rows = of_rows - (matrix * columns).sum(axis=-1, keepdims=True)
    return (weighted - matrix * (rows + columns),)


sinkhorn.defvjp(_forward, _backward)


def flat_logits(spec: ParamSpec) -> dict[str, dict[str, Float[Array, "families n n"]]]:
    """Logits of matrices that prefer nothing: ``order`` of all groups, ``sign`` of sign groups.

    A nested group has one matrix per unit of its parent, for the order within that share.
    """
    zeros = {}
    for name, group in spec.groups.items():
        families = 1 if group.parent is None else spec.groups[group.parent].size
        units = group.size // families
        zeros[name] = jnp.zeros((families, units, units))
    signed = {name: z for name, z in zeros.items() if spec.groups[name].scaling == "sign"}
    return {"order": zeros, "sign": signed}


def soft_matrices(
    logits: Mapping[str, Matrices], temperature: Float[Array, ""], iterations: int
) -> dict[str, Float[Array, "families n n"]]:
    """Doubly stochastic matrices; of sign groups, signed ones whose magnitudes sum to at most 1."""
    orders = {name: sinkhorn(x / temperature, iterations) for name, x in logits["order"].items()}
    signs = {name: jnp.tanh(x / temperature) for name, x in logits["sign"].items()}
    return {name: x * signs[name] if name in signs else x for name, x in orders.items()}


def apply_softly(
    spec: ParamSpec, matrices: Matrices, values: Float[Array, " p"]
) -> Float[Array, " p"]:
    """Act on flat weights of one member: each unit becomes a mean of units.

    At permutation matrices that is what :func:`~zoogen.symmetry.apply` does.
    """
    whole = {name: _whole(spec, matrices, name) for name in spec.groups}
    parts = spec.unflatten(values)
    moved: Any = spec.flatten({p.name: _moved(p, whole, parts[p.name]) for p in spec.parameters})
    return moved


def _whole(spec: ParamSpec, matrices: Matrices, name: str) -> Float[Array, "n n"]:
    """The matrix of all units of a group; of a nested one, its parent's times those of shares."""
    parent, own = spec.groups[name].parent, matrices[name]
    if parent is None:
        return own[0]
    product = jnp.einsum("fg,fij->figj", matrices[parent][0], own)
    return product.reshape(spec.groups[name].size, -1)


def _moved(parameter: Parameter, whole: Mapping[str, Array], values: Array) -> Array:
    for position, axis in enumerate(parameter.axes):
        if axis.group is not None:
            first = jnp.moveaxis(values, position, 0)
            rows = first.reshape(axis.size // axis.block, -1)
            mixed = (whole[axis.group] @ rows).reshape(first.shape)
            values = jnp.moveaxis(mixed, 0, position)
    return values


def nearest_element(spec: ParamSpec, matrices: Mapping[str, np.ndarray]) -> Element:
    """The elements whose matrices have the largest inner product with soft ones.

    Args:
        spec: of the network.
        matrices: group → ``[q, families, n, n]``.
    """
    orders: dict[str, np.ndarray] = {}
    signs = {}
    for name, group in spec.groups.items():
        soft = matrices[name]
        pairs, families, units, _ = soft.shape
        order, sign = best_order(soft.reshape(-1, units, units), group.scaling == "sign")
        shares = order.reshape(pairs, families, units)
        orders[name] = (
            shares[:, 0] if group.parent is None else nested_order(orders[group.parent], shares)
        )
        if sign is not None:
            signs[name] = sign.reshape(pairs, group.size)
    return Element(orders, signs)
