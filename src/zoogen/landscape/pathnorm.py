"""Path norm: total weight of all paths through a network, from one evaluation."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.networks.architecture import Apply
from zoogen.params import Params


def path_norm(linear: Apply, params: Params, image_shape: tuple[int, int, int]) -> Float[Array, ""]:
    """Sum over all paths, from inputs and biases to outputs, of the product of absolute weights.

    For any directed acyclic graph: a pooled mean is a weight, a sum (residual) a weight of 1, a
    maximum a choice among paths that all count. It bounds what a relu network can output and how
    fast it can change, and rescaling units leaves it as it is.

    Args:
        linear: the network with its activation left out and sums in place of maxima; relu may
            stay, as nothing here is negative (:func:`~zoogen.networks.path_twin`).
        params: of one member.
        image_shape: channels, height and width.

    Returns:
        At least 0, without unit; infinite where it exceeds single precision.

    Example:
        >>> linear = lambda params, x: x.reshape(1, -1) @ params["w"].T + params["b"]
        >>> params = {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([-4.0])}
        >>> float(path_norm(linear, params, (1, 1, 2)))
        7.0

    Reference:
        Neyshabur, Tomioka and Srebro, Norm-based capacity control in neural networks, 2015;
        Gonon, Brisebarre, Riccietti and Gribonval, A path-norm toolkit for modern networks, 2023
        (the general graph).
    """
    absolute = {name: jnp.abs(tensor) for name, tensor in params.items()}
    return jnp.sum(linear(absolute, jnp.ones((1, *image_shape))))
