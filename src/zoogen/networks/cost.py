"""What a network costs: operations and memory, from its traced program and without running it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from zoogen.networks import Network

_TRAINING_COPIES = 6  # of the weights: themselves, gradient, update, two moments, one in flight


def forward_flops(network: Network, batch_size: int = 1) -> float:
    """Floating-point operations per image of the forward pass of a batch."""
    cost = jax.jit(network.apply).lower(*_shapes(network, batch_size)).cost_analysis() or {}
    return float(cost.get("flops", 0.0)) / batch_size


def working_bytes(network: Network, batch_size: int) -> int:
    """Bytes that one member in training keeps on the device, roughly.

    Every value of the forward pass is counted twice (kept for the backward pass, and its
    gradient), so this is an upper bound wherever XLA fuses.
    """
    program = jax.make_jaxpr(network.apply)(*_shapes(network, batch_size))
    values = sum(v.aval.size for equation in program.jaxpr.eqns for v in equation.outvars)
    return 4 * (2 * values + _TRAINING_COPIES * network.spec.size)


def _shapes(
    network: Network, batch_size: int
) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    params = {p.name: jax.ShapeDtypeStruct(p.shape, jnp.float32) for p in network.spec.parameters}
    return params, jax.ShapeDtypeStruct((batch_size, *network.image_shape), jnp.float32)
