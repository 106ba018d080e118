"""Distributions of initial weights, for weights in PyTorch layout ``[out, in, ...]``."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.params import Params, ParamSpec

_initializers = jax.nn.initializers

INITIALIZERS: dict[str, Callable[..., Array]] = {
    "he_normal": _initializers.he_normal(in_axis=1, out_axis=0),
    "he_uniform": _initializers.he_uniform(in_axis=1, out_axis=0),
    "glorot_normal": _initializers.glorot_normal(in_axis=1, out_axis=0),
    "glorot_uniform": _initializers.glorot_uniform(in_axis=1, out_axis=0),
    "lecun_normal": _initializers.lecun_normal(in_axis=1, out_axis=0),
    "lecun_uniform": _initializers.lecun_uniform(in_axis=1, out_axis=0),
    "normal": _initializers.normal(0.05),
    "truncated_normal": _initializers.truncated_normal(0.05),
    "orthogonal": _initializers.orthogonal(column_axis=0),
}


def initial_params(spec: ParamSpec, name: str, key: Array, scale: Float[Array, ""]) -> Params:
    """Draw the initial parameters of one member.

    Args:
        spec: of the network; a parameter with one axis is a bias, or the scale of a norm where
            its name ends in ``weight``, or a statistic where the spec says so.
        name: of the distribution, a key of :data:`INITIALIZERS`.
        key: JAX key of the member.
        scale: factor on the weights (may be traced).

    Returns:
        Weights of the distribution times ``scale``; biases and means are zero, scales of norms
        and variances one.
    """
    draw = INITIALIZERS[name]
    factor, statistics = jnp.asarray(scale, jnp.float32), dict(spec.statistics)
    return {
        p.name: jnp.full(p.shape, float(_is_scale(p.name, statistics)), jnp.float32)
        if len(p.axes) == 1
        else factor * draw(jax.random.fold_in(key, index), p.shape, jnp.float32)
        for index, p in enumerate(spec.parameters)
    }


def _is_scale(name: str, statistics: dict[str, str]) -> bool:
    return name.endswith("weight") or statistics.get(name) == "variance"
