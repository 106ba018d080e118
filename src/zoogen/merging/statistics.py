"""Statistics of batch norms after merging: a mean of members has none until it is run."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from zoogen.networks import Network
from zoogen.population import MemberFunction, over_members


def recompute_statistics(
    network: Network, values: Float[np.ndarray, "*m p"], images: Float[Array, "n c h w"]
) -> Float32[np.ndarray, "*m p"]:
    """Replace running statistics by the exact ones over given images.

    One pass over all images at once: each norm takes mean and variance of its input, which the
    norms before it have standardised by theirs, so that afterwards evaluation on these images sees
    units of just these moments. Networks without running statistics are returned as they are.

    Args:
        network: of all of them.
        values: flat weights, such as means of aligned members, or points between them.
        images: normalised; training images, in earnest. All are in memory at once.

    Returns:
        Flat weights.

    Example:
        >>> from zoogen.config import NetworkConfig
        >>> from zoogen.networks import build_network
        >>> config = NetworkConfig(family="resnet", norm="batch", width=2, depth=1)
        >>> network = build_network(config, (1, 4, 4), 3)
        >>> images = np.random.default_rng(0).normal(size=(20, 1, 4, 4))
        >>> found = recompute_statistics(network, np.zeros((1, network.spec.size)), images)
        >>> network.spec.unflatten(found)["norm.running_var"].tolist()
        [[0.0, 0.0]]

    Reference:
        Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018,
        for averages; Jordan et al., REPAIR: REnormalizing Permuted Activations for Interpolation
        Repair, 2022, for what it does to barriers.
    """
    values = np.asarray(values, np.float32)
    if not network.spec.statistics:
        return values
    rows = values.reshape(-1, network.spec.size)
    found = _program(network)(rows, jnp.asarray(images, jnp.float32))
    return np.asarray(found).reshape(values.shape)


@lru_cache(maxsize=16)
def _program(network: Network) -> MemberFunction:
    def of_member(values: Array, images: Array) -> Any:
        return network.spec.flatten(network.recomputed(network.spec.unflatten(values), images))

    return over_members(of_member)
