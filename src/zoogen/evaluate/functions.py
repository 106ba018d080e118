"""Functions of members: what networks compute at given inputs, weights by weights."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from zoogen.networks import Network
from zoogen.population import on_cpu


def answers(
    network: Network, weights: Float[Array, "b p"], inputs: Float[Array, "k c h w"]
) -> Float[Array, "b i"]:
    """Outputs of each member, input after input; on CPU member after member, to stay in cache."""

    def of_one(one: Float[Array, " p"]) -> Float[Array, " i"]:
        return network.apply(network.spec.unflatten(one), inputs).reshape(-1)

    return jax.lax.map(of_one, weights) if on_cpu() else jax.vmap(of_one)(weights)
