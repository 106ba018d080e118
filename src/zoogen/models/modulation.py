"""Modulation: normalised features, scaled and shifted by a condition of the member.

The factors of a condition start at zero, so that a new model does not see it yet.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NORM_FLOOR = 1e-6  # of a mean square: features that are zero stay zero


def initial_modulation(condition: int, features: int) -> Float[Array, "d f2"]:
    """Zeros: scale and shift of each feature from a condition of so many numbers."""
    return jnp.zeros((condition, 2 * features))


def modulated(
    weights: Float[Array, "d f2"], x: Float[Array, "b *x f"], condition: Float[Array, "b d"]
) -> Float[Array, "b *x f"]:
    """``x · (1 + scale) + shift``, both linear in the condition.

    Reference:
        Perez, Strub, de Vries, Dumoulin and Courville, FiLM: visual reasoning with a general
        conditioning layer, 2018.
    """
    if condition.shape[1] == 0:
        return x
    both = condition @ weights
    scale, shift = jnp.split(both.reshape(len(both), *[1] * (x.ndim - 2), -1), 2, axis=-1)
    return x * (1 + scale) + shift


def normalised(x: Float[Array, "*x f"]) -> Float[Array, "*x f"]:
    """Features over their root mean square."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + NORM_FLOOR)
