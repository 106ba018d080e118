"""Loss and error of one member on a fixed set of examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def example_losses(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """Cross-entropy of each example in nats.

    Args:
        logits: unnormalised log-probabilities.
        labels: classes.
    """
    # A mask and not a gather, whose derivative would be a scatter.
    chosen = labels[:, None] == jnp.arange(logits.shape[1])
    return jax.nn.logsumexp(logits, axis=1) - jnp.sum(jnp.where(chosen, logits, 0), axis=1)


def example_errors(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, " b"]:
    """100 for each example that is misclassified, else 0; all NaN where a logit is not finite."""
    wrong = jnp.where(jnp.argmax(logits, axis=1) != labels, jnp.float32(100), jnp.float32(0))
    # argmax of NaN is a class like any other.
    return jnp.where(jnp.all(jnp.isfinite(logits)), wrong, jnp.nan)


def cross_entropy(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """Mean cross-entropy in nats.

    Args:
        logits: unnormalised log-probabilities.
        labels: classes.

    Example:
        >>> round(float(cross_entropy(jnp.zeros((3, 2)), jnp.array([0, 1, 1]))), 4)
        0.6931
    """
    return jnp.mean(example_losses(logits, labels))


def error_percent(logits: Float[Array, "b k"], labels: Int[Array, " b"]) -> Float[Array, ""]:
    """Misclassified share in percent; NaN where a logit is not finite.

    Example:
        >>> float(error_percent(jnp.eye(4), jnp.array([0, 1, 2, 0])))
        25.0
    """
    return jnp.mean(example_errors(logits, labels))
