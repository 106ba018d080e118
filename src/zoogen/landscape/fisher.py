"""What gradients of single examples tell: trace of the Fisher matrix, and noise of gradients.

With softmax and cross-entropy the true Fisher matrix equals the generalised Gauss-Newton matrix
(Martens, New insights and perspectives on the natural gradient method, 2020), so one number is
the trace of both. Reverse mode only: no layer needs a forward rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zoogen.landscape.connectivity import BatchLoss
from zoogen.landscape.stderr import jackknife_stderr

BatchLogits = Callable[[Float[Array, " p"], Array], Float[Array, "n k"]]


def fisher_traces(logits: BatchLogits, w: Float[Array, " p"], inputs: Array) -> Float[Array, " n"]:
    """Exact trace of the Fisher (Gauss-Newton) matrix of each example, over all classes.

    Costs one backward pass per example and class: for few examples, small networks and tests.

    Args:
        logits: of flat weights and inputs.
        w: point.
        inputs: examples, first axis n.

    Returns:
        ``Σ_k p_k |∇ log p_k|²`` of each example, at least 0, in nats; their mean is the trace of
        the matrix of all examples.

    Example:
        >>> logits = lambda w, x: x @ w.reshape(2, 1)  # one class: nothing to learn
        >>> fisher_traces(logits, jnp.ones(2), jnp.eye(2)).tolist()
        [0.0, 0.0]

    Reference:
        Amari, Natural gradient works efficiently in learning, 1998; Martens, 2020.
    """

    def of_one(x: Array) -> Array:
        z, pull_back = jax.vjp(lambda w: logits(w, x[None]), w)
        p = jax.nn.softmax(z)
        units = jnp.eye(z.shape[1])[:, None]
        (g,) = jax.vmap(lambda u: pull_back(_root_product(p, u)))(units)
        return jnp.sum(g**2)

    return jax.lax.map(of_one, inputs)


def _root_product(p: Float[Array, "n k"], u: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """``S u`` per row for the root ``S = diag(√p) - p √pᵀ``: ``S Sᵀ = diag(p) - p pᵀ``."""
    scaled = jnp.sqrt(p) * u
    return scaled - p * jnp.sum(scaled, axis=1, keepdims=True)


def gradient_products(
    loss: BatchLoss, w: Float[Array, " p"], images: Array, labels: Int[Array, " n"], groups: int
) -> tuple[Float[Array, " g"], Float[Array, " g"]]:
    """Squared norms of the gradients of small batches, and their products with the mean of all.

    Args:
        loss: mean loss of flat weights on a batch.
        w: point.
        images: examples, first axis n.
        labels: of the examples.
        groups: equal batches to cut the examples into; what is left over is dropped.

    Returns:
        ``|g_j|²`` and ``g_j · mean(g)`` for :func:`noise_scale`.
    """
    batch = labels.shape[0] // groups
    cut = [x[: groups * batch].reshape(groups, batch, *x.shape[1:]) for x in (images, labels)]
    gradients = jax.lax.map(lambda each: jax.grad(loss)(w, *each), tuple(cut))
    return jnp.sum(gradients**2, axis=1), gradients @ gradients.mean(axis=0)


class NoiseScale(NamedTuple):
    """How noisy gradients of single examples are.

    Attributes:
        scale: ``noise / signal`` in examples: the batch size at which noise equals signal; NaN
            where the estimate of the signal is not above 0.
        scale_stderr: its standard error, by leaving out one batch at a time.
        noise: trace of the covariance of per-example gradients, at least 0; unbiased.
        noise_stderr: likewise.
        signal: squared norm of the true gradient; unbiased, so below 0 at times.
        signal_stderr: likewise.
    """

    scale: Float[np.ndarray, "*m"]
    scale_stderr: Float[np.ndarray, "*m"]
    noise: Float[np.ndarray, "*m"]
    noise_stderr: Float[np.ndarray, "*m"]
    signal: Float[np.ndarray, "*m"]
    signal_stderr: Float[np.ndarray, "*m"]


def noise_scale(
    squares: Float[np.ndarray, "*m g"], overlaps: Float[np.ndarray, "*m g"], batch: int
) -> NoiseScale:
    """The simple gradient-noise scale from gradients of two batch sizes: small batches and all.

    Args:
        squares, overlaps: from :func:`gradient_products`, of at least three batches.
        batch: examples per small batch.

    Returns:
        A :class:`NoiseScale`; NaN where a gradient is not finite.

    Example:
        >>> found = noise_scale(np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0]), batch=8)
        >>> float(found.scale), float(found.signal)
        (0.0, 1.0)

    Reference:
        McCandlish, Kaplan and Amodei, An empirical model of large-batch training, 2018,
        appendix A.
    """
    squares, overlaps = np.asarray(squares, np.float64), np.asarray(overlaps, np.float64)
    m = squares.shape[-1]
    small, big = squares.mean(-1), overlaps.mean(-1)
    noise, signal = _noise_and_signal(small, big, m, batch)
    small_without = (m * small[..., None] - squares) / (m - 1)
    big_without = (m**2 * big[..., None] - 2 * m * overlaps + squares) / (m - 1) ** 2
    without = _noise_and_signal(small_without, big_without, m - 1, batch)
    noise_stderr, signal_stderr = map(jackknife_stderr, without)
    scale_stderr = jackknife_stderr(_ratio(*without))
    return NoiseScale(
        _ratio(noise, signal), scale_stderr, noise, noise_stderr, signal, signal_stderr
    )


def _noise_and_signal(
    small: np.ndarray, big: np.ndarray, groups: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance trace and squared norm from mean squared norms at two batch sizes."""
    noise = batch * groups * (small - big) / (groups - 1)
    return noise, (groups * big - small) / (groups - 1)


def _ratio(noise: np.ndarray, signal: np.ndarray) -> np.ndarray:
    return noise / np.where(signal > 0, signal, np.nan)
