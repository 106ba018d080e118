"""What a matching of pairs of members is, whatever it was found from."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from zoogen.params import ParamSpec
from zoogen.symmetry.elements import Element, identity

Rows = Int[np.ndarray, " r"] | Bool[np.ndarray, " q"]


class Matching(NamedTuple):
    """Elements that align the second member of each pair with the first.

    Pairs that hold numbers that are not finite get the identity and objectives NaN.

    Attributes:
        elements: one per pair, ``[q, units]``: permutations of all groups, ±1 for sign groups.
        before: the objective without them; the larger, the more alike.
        after: the objective with them; never below ``before``.
        sweeps: passes over the groups until nothing changed.
    """

    elements: Element
    before: Float[np.ndarray, " q"]
    after: Float[np.ndarray, " q"]
    sweeps: Int[np.ndarray, " q"]


def paired(
    spec: ParamSpec, a: Float[np.ndarray, "*q p"], b: Float[np.ndarray, "q p"]
) -> tuple[Float[np.ndarray, "q p"], Float[np.ndarray, "q p"]]:
    """Both members of each pair, where one ``a`` may serve all pairs.

    Raises:
        ConfigError: if one of them has another length than the spec.
    """
    a, b = np.asarray(a), np.asarray(b)
    for values in (a, b):
        spec.refuse_other_lengths(values)
    return np.broadcast_to(a, b.shape), b


def unmatched(spec: ParamSpec, pairs: int) -> Matching:
    """The identity for all pairs, in arrays to be written to."""
    nan = np.full(pairs, np.nan)
    element = complete(spec, Element({}, {}), pairs)
    writable = jax.tree.map(np.array, element)
    return Matching(writable, nan, nan.copy(), np.zeros(pairs, int))


def select(rows: Rows, tree: Any) -> Any:
    """The same tree with chosen rows of every array."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def overwrite(target: Any, rows: Rows, source: Any) -> None:
    """Put the arrays of one tree into rows of another's."""
    pairs = zip(jax.tree.leaves(target), jax.tree.leaves(source), strict=True)
    for array, values in pairs:
        array[rows] = values


def complete(spec: ParamSpec, start: Element, pairs: int) -> Element:
    """Arrays for every pair, every group's order, and the signs of sign groups."""
    whole = identity(spec)
    orders = {**whole.permutations, **start.permutations}
    signs = {
        name: start.factors.get(name, whole.factors[name])
        for name in spec.groups
        if is_signed(spec, name)
    }
    return jax.tree.map(
        lambda leaf: np.broadcast_to(leaf, (pairs, leaf.shape[-1])), Element(orders, signs)
    )


def is_signed(spec: ParamSpec, group: str) -> bool:
    return spec.groups[group].scaling in ("sign", "nonzero")


def comparable(a: np.ndarray, b: np.ndarray) -> Bool[np.ndarray, " q"]:
    """Pairs whose inner products cannot overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(np.square(a).sum(axis=-1) + np.square(b).sum(axis=-1))
