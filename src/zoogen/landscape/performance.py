"""Loss and error of one member on a fixed set of examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """Mean cross-entropy in nats.

    Args:
        logits: unnormalised log-probabilities.
        labels: classes.

    Example:
        >>> round(float(cross_entropy(jnp.zeros((3, 2)), jnp.array([0, 1, 1]))), 4)
        0.6931
    """
    # A mask and not a gather, whose derivative would be a scatter.
    chosen = labels[:, None] == jnp.arange(logits.shape[1])
    return jnp.mean(
        jax.nn.logsumexp(logits, axis=1) - jnp.sum(jnp.where(chosen, logits, 0), axis=1)
    )


def error_percent(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """Misclassified share in percent; NaN where a logit is not finite.

    Example:
        >>> float(error_percent(jnp.eye(4), jnp.array([0, 1, 2, 0])))
        25.0
    """
    wrong = jnp.argmax(logits, axis=1) != labels
    share = jnp.sum(wrong, dtype=jnp.float32) * (100 / labels.shape[0])
    # argmax of NaN is a class like any other.
    return jnp.where(jnp.all(jnp.isfinite(logits)), share, jnp.nan)
