"""Sharpness: how far a loss rises within one step of steepest ascent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.landscape.curvature import Loss


def ascent_sharpness(loss: Loss, w: Float[Array, " p"], radius: float) -> Float[Array, ""]:
    """Rise of the loss after one gradient step of length ``radius``.

    Costs one gradient and one evaluation.

    Args:
        loss: of a flat vector.
        w: point.
        radius: length of the step, above 0; Foret et al. train with 0.05.

    Returns:
        In nats; 0 where the gradient is zero, below 0 where the step overshoots.

    Example:
        >>> round(float(ascent_sharpness(lambda w: w @ w, jnp.array([3.0, 4.0]), 1.0)), 4)
        11.0

    Reference:
        Foret, Kleiner, Mobahi and Neyshabur, Sharpness-aware minimization for efficiently
        improving generalization, 2021.
    """
    return _rise(loss, w, radius, jnp.ones_like(w))


def adaptive_sharpness(loss: Loss, w: Float[Array, " p"], radius: float) -> Float[Array, ""]:
    """Rise of the loss after one ascent step whose length is measured relative to the weights.

    Every weight moves in proportion to its own size, biases too, so that rescaling the units of a
    relu network, which leaves its function as it is, leaves the number as it is.

    Args:
        loss: of a flat vector.
        w: point.
        radius: norm of the relative changes, above 0; Kwon et al. train with 0.5.

    Returns:
        In nats; 0 where the gradient is zero, below 0 where the step overshoots.

    Example:
        >>> round(float(adaptive_sharpness(lambda w: w @ w, jnp.array([3.0, 0.0]), 0.5)), 4)
        11.25

    Reference:
        Kwon, Kim, Park and Choi, ASAM: adaptive sharpness-aware minimization for scale-invariant
        learning of deep neural networks, 2021 (element-wise, with η = 0).
    """
    return _rise(loss, w, radius, jnp.abs(w))


def _rise(
    loss: Loss, w: Float[Array, " p"], radius: float, unit: Float[Array, " p"]
) -> Float[Array, ""]:
    """Rise after the best step, to first order, of norm ``radius`` in units of ``unit``."""
    value, gradient = jax.value_and_grad(loss)(w)
    ascent = unit * gradient
    norm = jnp.sqrt(ascent @ ascent)
    direction = ascent / jnp.where(norm == 0, 1, norm)  # NaN stays NaN
    return loss(w + radius * unit * direction) - value
