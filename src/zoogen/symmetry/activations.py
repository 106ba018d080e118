"""Activation matching: units are the same when they respond to inputs in the same way."""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.networks import Network
from zoogen.population import MemberFunction, over_members
from zoogen.symmetry.assignment import best_order, picked
from zoogen.symmetry.elements import Element
from zoogen.symmetry.matching import Matching, is_signed, overwrite, paired, unmatched
from zoogen.symmetry.units import refuse_nested_groups


def activation_matching(
    network: Network,
    a: Float[np.ndarray, "*q p"],
    b: Float[np.ndarray, "q p"],
    images: Float[Array, "n c h w"],
) -> Matching:
    """Match the units of ``b`` to those of ``a`` by their activations, for many pairs at once.

    Maximises, group by group and exactly, the sum of correlations of matched units over images
    (and positions of maps); for sign groups, of absolute correlations. A unit that is constant
    correlates with none.

    Args:
        network: whose members these are.
        a: flat weights to align with; one member, or one per pair.
        b: flat weights that are aligned.
        images: normalised inputs that both see.

    Returns:
        Matchings whose objective is the mean correlation over all units, in [−1, 1].

    Raises:
        ConfigError: if the network has nested groups, or the weights another length than it.

    Reference:
        Li, Yosinski, Clune, Lipson and Hopcroft, Convergent learning: do different neural networks
        learn the same representations?, 2015.
    """
    refuse_nested_groups(network.spec, "activation matching")
    a, b = paired(network.spec, a, b)
    found = _correlations(network)((a, b), images)
    return _matched(network, {group: np.asarray(value) for group, value in found.items()})


def _matched(network: Network, correlations: dict[str, Float[np.ndarray, "q n n"]]) -> Matching:
    spec = network.spec
    pairs = len(next(iter(correlations.values())))
    finite = [np.isfinite(values).all(axis=(1, 2)) for values in correlations.values()]
    rows = np.flatnonzero(np.all(finite, axis=0))
    units = sum(group.size for group in spec.groups.values())
    orders, signs, before, after = {}, {}, np.zeros(rows.size), np.zeros(rows.size)
    for name in spec.groups:
        similarity = correlations[name][rows]
        orders[name], sign = best_order(similarity, is_signed(spec, name))
        matched = picked(similarity, orders[name])
        if sign is not None:
            signs[name], matched = sign, matched * sign
        before += np.trace(similarity, axis1=1, axis2=2) / units
        after += matched.sum(axis=1) / units
    result = unmatched(spec, pairs)
    found = Matching(Element(orders, signs), before, after, np.ones(rows.size, int))
    overwrite(result, rows, found)
    return result


@lru_cache(maxsize=16)
def _correlations(network: Network) -> MemberFunction:
    """Compiled once per network: pairs of members → group → correlations of units."""

    def of_pair(pair: tuple[Array, Array], images: Array) -> dict[str, Float[Array, "n n"]]:
        a, b = (network.forward(network.spec.unflatten(v), images)[1] for v in pair)
        return {group: _correlation(a[group].after, b[group].after) for group in a}

    return over_members(of_pair)


def _correlation(x: Float[Array, "n u *hw"], y: Float[Array, "n u *hw"]) -> Float[Array, "u u"]:
    x, y = _standardised(x), _standardised(y)
    return x @ y.T


def _standardised(x: Float[Array, "n u *hw"]) -> Float[Array, "u e"]:
    """One row per unit, of mean 0 and norm 1; zeros for a constant unit."""
    rows = jnp.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    centred = rows - rows.mean(axis=1, keepdims=True)
    norm = jnp.linalg.norm(centred, axis=1, keepdims=True)
    floor = 1e-6 * jnp.linalg.norm(rows, axis=1, keepdims=True)  # what rounding leaves
    return jnp.where(norm <= floor, 0, centred / jnp.where(norm <= floor, 1, norm))
