"""REPAIR: a merged network's hidden units get the means and deviations of its ends'."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.networks import Hidden, Network
from zoogen.population import MemberFunction, over_members
from zoogen.symmetry.units import lay_along, places


class Moments(NamedTuple):
    """Of every unit's pre-activation, over images and positions of maps.

    Attributes:
        mean: ``[m u]``.
        std: ``[m u]``, the standard deviation.
    """

    mean: Any
    std: Any


def repair(
    network: Network,
    merged: Float[np.ndarray, "*m p"],
    ends: Float[np.ndarray, "*m e p"],
    images: Float[Array, "n c h w"],
    shares: Float[np.ndarray, "*m e"] | None = None,
) -> Float[np.ndarray, "*m p"]:
    """Rescale and shift hidden units of merged networks, whose activations have shrunk.

    Layer by layer, each pre-activation gets the mean and the standard deviation that its unit has
    in the ends, averaged by the ends' shares. Both are folded into incoming weights and bias, so
    that the result is an ordinary member. A unit that is constant is shifted only.

    Args:
        network: of all of them.
        merged: flat weights, such as a mean of aligned members.
        ends: the members that were merged, as they were merged: aligned.
        images: normalised images from which means and deviations are taken.
        shares: of the ends in ``merged``; equal if none are given.

    Returns:
        Flat weights, float32.

    Raises:
        ConfigError: if a group of units is not fed by just one weight and one bias, into which its
            statistics could be folded (normalised and residual layers).

    Example:
        >>> from zoogen.config import NetworkConfig
        >>> from zoogen.networks import build_network
        >>> network = build_network(NetworkConfig(width=8), (1, 3, 3), 4)
        >>> ends = np.random.default_rng(0).normal(size=(2, network.spec.size))
        >>> images = np.random.default_rng(1).normal(size=(50, 1, 3, 3))
        >>> same = repair(network, ends[0], ends[:1], images)
        >>> bool(np.allclose(same, ends[0], atol=1e-4))
        True

    Reference:
        Jordan, Sedghi, Saukh, Entezari and Neyshabur, REPAIR: REnormalizing Permuted Activations
        for Interpolation Repair, 2022; there, through BatchNorm layers that are put in for it.
    """
    _refuse_unfoldable(network)
    ends = np.asarray(ends, np.float32)
    *lead, count, size = ends.shape
    shares = np.full(count, 1 / count) if shares is None else np.asarray(shares)
    shares = np.broadcast_to(shares, (*lead, count)).reshape(-1, count)
    of_ends = moments(network, ends.reshape(-1, size), images)
    values = np.broadcast_to(np.asarray(merged, np.float32), (*lead, size)).reshape(-1, size)
    for group in network.spec.groups:  # as signals meet them
        wanted = Moments(*(_averaged(shares, leaf) for leaf in of_ends[group]))
        present = moments(network, values, images)[group]
        values = _folded(network, group, values, present, wanted)
    return values.reshape(*lead, size)


def moments(
    network: Network, values: Float[np.ndarray, "m p"], images: Float[Array, "n c h w"]
) -> dict[str, Moments]:
    """Mean and standard deviation of the pre-activations of members' units, by group.

    Args:
        network: whose members these are.
        values: flat weights.
        images: normalised.
    """
    rows = np.asarray(values, np.float32), jnp.asarray(images, jnp.float32)
    found: dict[str, Moments] = jax.tree.map(np.asarray, _moments(network)(*rows))
    return found


@lru_cache(maxsize=16)
def _moments(network: Network) -> MemberFunction:
    def of_member(values: Array, images: Array) -> dict[str, Moments]:
        hidden = network.forward(network.spec.unflatten(values), images)[1]
        return {group: _moments_of(units) for group, units in hidden.items()}

    return over_members(of_member)


def _moments_of(units: Hidden) -> Moments:
    rows = jnp.moveaxis(units.before, 1, 0).reshape(units.before.shape[1], -1)
    return Moments(rows.mean(axis=1), rows.std(axis=1))


def _averaged(
    shares: Float[np.ndarray, "m e"], values: Float[np.ndarray, "r u"]
) -> Float[np.ndarray, "m u"]:
    """Means over the ends of each member, which follow one another."""
    return np.einsum("me,meu->mu", shares, values.reshape(*shares.shape, -1))


def _folded(
    network: Network,
    group: str,
    values: Float[np.ndarray, "m p"],
    present: Moments,
    wanted: Moments,
) -> Float[np.ndarray, "m p"]:
    """Incoming weights and bias after which the moments are those wanted."""
    floor = 1e-6 * (np.abs(present.mean) + wanted.std)  # what rounding leaves of a constant
    alive = present.std > floor
    factor = np.where(alive, wanted.std / np.where(alive, present.std, 1), 1)
    params = network.spec.unflatten(values)
    for place in places(network.spec, group):
        name, own = place.parameter.name, params[place.parameter.name]
        if place.incoming and len(place.parameter.axes) > 1:
            params[name] = own * lay_along(factor, place.parameter, 0)
        elif place.incoming:
            params[name] = factor * (own - present.mean) + wanted.mean
    changed: np.ndarray = network.spec.flatten(params)
    return changed.astype(np.float32)


def _refuse_unfoldable(network: Network) -> None:
    for group in network.spec.groups:
        feeding = [p.parameter for p in places(network.spec, group) if p.incoming]
        biases = sum(len(parameter.axes) == 1 for parameter in feeding)
        if (biases, len(feeding)) != (1, 2):
            raise ConfigError(
                f"repair: group {group!r}: expected one weight and one bias to fold means and "
                f"deviations into, found {[parameter.name for parameter in feeding]}; networks "
                "with normalised or residual layers can't be repaired in this way"
            )
