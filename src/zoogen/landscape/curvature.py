"""Curvature of a loss: trace and top eigenvalue of its Hessian from matrix-vector products.

The gradient is linearised once per point; every product then costs about two gradients, and no
Hessian is ever built.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt32

from zoogen.landscape.stderr import mean_and_stderr

Loss = Callable[[Float[Array, " p"]], Float[Array, ""]]
Product = Callable[[Float[Array, " p"]], Float[Array, " p"]]

_WORD = 32  # probes whose signs one word per parameter holds
_BREAKDOWN = 1e-5  # of the largest coefficient: what is left of a float32 vector is rounding


def hessian_product(loss: Loss, w: Float[Array, " p"]) -> Product:
    """The map ``v → H v`` for the Hessian of ``loss`` at ``w`` (forward over reverse)."""
    return jax.linearize(jax.grad(loss), w)[1]


def sign_words(probes: int) -> int:
    """Words per parameter that hold the signs of ``probes`` Rademacher vectors."""
    return -(-probes // _WORD)


def trace_samples(
    product: Product, signs: UInt32[Array, "words p"], probes: int
) -> Float[Array, " k"]:
    """``vᵀ H v`` of Rademacher vectors ``v``, one after another.

    Args:
        product: ``v → H v``.
        signs: random bits; bit ``k % 32`` of word ``k // 32`` is the sign of probe ``k``.
        probes: their number.
    """

    def sample(k: Array) -> Array:
        bit = (signs[k // _WORD] >> (k % _WORD)) & jnp.uint32(1)
        v = jnp.where(bit == 1, jnp.float32(1), jnp.float32(-1))
        return v @ product(v)

    return jax.lax.map(sample, jnp.arange(probes, dtype=jnp.uint32))


def hessian_trace(
    loss: Loss, w: Float[Array, " p"], key: Key[Array, ""], probes: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Trace of the Hessian with its standard error, by a fixed number of random probes.

    The estimate is unbiased and signed. Nothing stops early, so the error is what it says.

    Args:
        loss: of a flat vector; twice differentiable where it matters.
        w: point.
        key: of the probes.
        probes: at least 2; the error falls with their square root.

    Returns:
        Estimate and standard error.

    Example:
        >>> trace, stderr = hessian_trace(lambda w: w @ w, jnp.ones(5), jax.random.key(0), 4)
        >>> float(trace), float(stderr)
        (10.0, 0.0)

    Reference:
        Hutchinson, A stochastic estimator of the trace of the influence matrix for Laplacian
        smoothing splines, 1989.
    """
    signs = jax.random.bits(key, (sign_words(probes), w.size), jnp.uint32)
    return mean_and_stderr(trace_samples(hessian_product(loss, w), signs, probes))


def lanczos(
    product: Product, start: Float[Array, " p"], steps: int
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Tridiagonal form of a symmetric matrix on a Krylov space, fully reorthogonalised.

    Where the space is exhausted before ``steps``, it goes on from a new direction (with a
    coefficient of 0 in between), so the spectrum of the form never holds a spurious zero.

    Args:
        product: ``v → A v``.
        start: any vector with a component in every direction of interest, such as a normal one.
        steps: dimension of the space; at most ``p``.

    Returns:
        Diagonal ``alpha``, and ``beta``: ``beta[i]`` couples ``i`` to ``i + 1``, the last one
        couples the space to the rest and bounds the error.

    Reference:
        Lanczos, 1950; Parlett, The symmetric eigenvalue problem, 1998, chapter 13.
    """

    def step(carry: tuple, i: Array) -> tuple[tuple, tuple]:
        basis, q, scale = carry
        basis = jax.lax.dynamic_update_slice_in_dim(basis, q[None], i, axis=0)
        r = product(q)
        alpha = q @ r
        # The start, shifted, is as random as a new draw and costs none.
        candidates = jnp.stack([r, jnp.roll(start, i + 1)])
        candidates = _outside(basis, _outside(basis, candidates))
        norms = jnp.sqrt(jnp.sum(candidates**2, axis=1))
        beta = norms[0]
        scale = jnp.maximum(scale, jnp.maximum(jnp.abs(alpha), beta))
        exhausted = beta <= _BREAKDOWN * scale
        chosen = exhausted.astype(jnp.int32)
        q = candidates[chosen] / norms[chosen]
        return (basis, q, scale), (alpha, jnp.where(exhausted, 0, beta))

    first = start / jnp.sqrt(start @ start)
    carry = (jnp.zeros((steps, start.size)), first, jnp.float32(0))
    _, (alpha, beta) = jax.lax.scan(step, carry, jnp.arange(steps))
    return alpha, beta


def _outside(basis: Float[Array, "k p"], v: Float[Array, "n p"]) -> Float[Array, "n p"]:
    """What vectors have outside the span of orthonormal rows (twice is enough: Kahan)."""
    return v - (v @ basis.T) @ basis


def ritz_top(
    alpha: Float[np.ndarray, "*m k"], beta: Float[np.ndarray, "*m k"]
) -> tuple[Float[np.ndarray, "*m"], Float[np.ndarray, "*m"]]:
    """Largest eigenvalue of tridiagonal forms, and the residual of its vector in the full space.

    On the host in double precision: an eigensolver inside the program would take half of its
    compile time.

    Args:
        alpha, beta: as :func:`lanczos` returns them.

    Returns:
        Value and residual ``|beta[-1] · last component|``; NaN for a form that is not finite.
    """
    alpha, beta = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    finite = np.isfinite(alpha).all(-1) & np.isfinite(beta).all(-1)
    alpha, beta = (np.where(finite[..., None], each, 0) for each in (alpha, beta))
    form = np.zeros((*alpha.shape, alpha.shape[-1]))
    i = np.arange(alpha.shape[-1])
    form[..., i, i] = alpha
    form[..., i[1:], i[:-1]] = beta[..., :-1]  # eigh reads the lower triangle
    values, vectors = np.linalg.eigh(form)
    residual = np.abs(beta[..., -1] * vectors[..., -1, -1])
    return np.where(finite, values[..., -1], np.nan), np.where(finite, residual, np.nan)


def top_eigenvalue(
    loss: Loss, w: Float[Array, " p"], key: Key[Array, ""], steps: int
) -> tuple[float, float]:
    """Largest (algebraic, hence signed) eigenvalue of the Hessian, with its residual.

    Args:
        loss: of a flat vector.
        w: point.
        key: of the start vector.
        steps: Krylov dimension; exact up to rounding from ``p`` on.

    Returns:
        Value and residual norm: an eigenvalue lies within the residual of the value. Host
        numbers: inside a program use :func:`lanczos`, and :func:`ritz_top` on what it returns.

    Example:
        >>> value, residual = top_eigenvalue(
        ...     lambda w: w @ w / 2 - w[0] ** 2, jnp.ones(5), jax.random.key(0), 5
        ... )
        >>> round(value, 5), residual < 1e-5
        (1.0, True)
    """
    start = jax.random.normal(key, (w.size,))
    alpha, beta = lanczos(hessian_product(loss, w), start, min(steps, w.size))
    value, residual = ritz_top(np.asarray(alpha), np.asarray(beta))
    return float(value), float(residual)
