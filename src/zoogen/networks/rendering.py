"""From members that fit an image back to images: their function at every pixel's place."""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from zoogen.data.pixels import image_of, places
from zoogen.networks import Network
from zoogen.population import MemberFunction, over_members, share


def render(
    network: Network, weights: Float32[Array, "m p"], height: int, width: int
) -> Float32[np.ndarray, "m c h w"]:
    """The images that members show, at any size.

    Args:
        network: of the members, which fit images (``network.config.fits_image``).
        weights: flat weights.
        height: rows of the images; the first and last are at the ends of [−1, 1].
        width: columns.

    Returns:
        Brightness: 0 is black, 1 is white; what a member overshoots is not cut off. NaN for a
        member that diverged.

    Example:
        >>> from zoogen.config import NetworkConfig
        >>> config = NetworkConfig(family="siren", activation="sin", init="siren", width=4)
        >>> from zoogen.networks import build_network
        >>> network = build_network(config, (2, 1, 1), 1)
        >>> render(network, jnp.zeros((3, network.spec.size)), 5, 7).shape
        (3, 1, 5, 7)
    """
    values = _values(network)(jnp.asarray(weights), share(jnp.asarray(places(height, width))))
    return np.asarray(image_of(values, height, width))


@lru_cache(maxsize=16)
def _values(network: Network) -> MemberFunction:
    """Compiled once per network and size: a member's values at places."""
    return over_members(lambda w, at: network.apply(network.spec.unflatten(w), at))
