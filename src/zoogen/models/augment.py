"""Augmentation of weights: random equivalent members, and MixUp of aligned ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.params import ParamSpec
from zoogen.symmetry import Element, apply, random_element, weight_matching


def random_equivalents(
    spec: ParamSpec, key: Array, weights: Float[Array, "b p"], spread: float = 0.0
) -> Float[Array, "b p"]:
    """Each member under its own random element of the symmetry group; its function stays.

    Permutations and signs are uniform. To be called inside a compiled training step: a new key
    gives new elements without a new compilation.

    Args:
        spec: of the members.
        key: may be traced.
        weights: flat.
        spread: standard deviation of the logarithm of positive factors; 0 leaves scales alone.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"hidden.bias": (Axis(4, "hidden"),)})
        >>> twins = random_equivalents(spec, jax.random.key(0), jnp.arange(8.0).reshape(2, 4))
        >>> jnp.sort(twins, axis=1).tolist()
        [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
    """
    element = random_element(spec, key, weights.shape[:1], spread)
    factors = {
        group: factor
        for group, factor in element.factors.items()
        if spread > 0 or spec.groups[group].scaling == "sign"
    }
    return jnp.asarray(apply(spec, Element(element.permutations, factors), weights))


class Partners(NamedTuple):
    """What members are mixed with, in their order.

    Attributes:
        weights: flat.
        targets: pytree of arrays ``[b …]``.
    """

    weights: Float[Any, "b p"]
    targets: Any


def matched_partners(
    spec: ParamSpec, weights: Float[np.ndarray, "m p"], targets: Any, seed: int
) -> Partners:
    """For each member another one, its units matched to the member's by their weights.

    Runs on the host, at about the cost of :func:`~zoogen.symmetry.weight_matching`: once an epoch,
    not once a step. Partners are neighbours in a random ring, so that each member is a partner
    once, and of itself only if it is alone.

    Args:
        spec: of the members.
        weights: flat, of all members.
        targets: pytree of arrays ``[m …]``.
        seed: of the ring.

    Raises:
        ConfigError: if the spec has nested groups.
    """
    weights = np.asarray(weights)
    ring = np.random.default_rng(seed).permutation(len(weights))
    other = np.empty_like(ring)
    other[ring] = np.roll(ring, 1)
    found = weight_matching(spec, weights, weights[other])
    aligned = apply(spec, found.elements, weights[other])
    return Partners(aligned, jax.tree.map(lambda leaf: np.asarray(leaf)[other], targets))


def mixup(
    key: Array,
    weights: Float[Array, "b p"],
    targets: Any,
    partners: Partners | None = None,
    concentration: float = 1.0,
) -> tuple[Float[Array, "b p"], Any]:
    """Convex combinations of members and of their targets, with an own random share each.

    A mean of members means something only if their units correspond. Either give partners from
    :func:`matched_partners`; or give none, and weights that were aligned once, all with one another
    (:func:`~zoogen.symmetry.align_population`): then members of the batch are mixed. In both cases
    :func:`random_equivalents` afterwards scatters what is mixed over its orbit again.

    Args:
        key: may be traced.
        weights: flat.
        targets: pytree of float arrays ``[b …]``: numbers, or shares of classes.
        partners: of the members, in their order.
        concentration: of the symmetric Beta distribution of shares; 1 is uniform, below 1 most
            mixtures are near a member.

    Reference:
        Shamsian et al., Improved generalization of weight space networks via augmentations, 2024;
        there, one share a batch.
    """
    of_share, of_partner = jax.random.split(key)
    if partners is None:
        other = jax.random.permutation(of_partner, weights.shape[0])
        partners = Partners(weights[other], jax.tree.map(lambda leaf: leaf[other], targets))
    share = jax.random.beta(of_share, concentration, concentration, weights.shape[:1])
    return mix(share, Partners(weights, targets), partners)


def mix(
    share: Float[Array, " b"], first: Partners, second: Partners
) -> tuple[Float[Array, "b p"], Any]:
    """Members and targets: a share of the first and the rest of the second.

    Example:
        >>> ones = Partners(jnp.ones((1, 2)), jnp.ones((1,)))
        >>> zeros = Partners(jnp.zeros((1, 2)), jnp.zeros((1,)))
        >>> [part.tolist() for part in mix(jnp.array([0.25]), ones, zeros)]
        [[[0.25, 0.25]], [0.25]]
    """

    def mixed(one: Any, other: Any) -> Array:
        one, other = jnp.asarray(one), jnp.asarray(other)
        along = share.reshape(-1, *[1] * (one.ndim - 1)).astype(one.dtype)
        return along * one + (1 - along) * other

    result: tuple[Array, Any] = tuple(jax.tree.map(mixed, tuple(first), tuple(second)))
    return result
