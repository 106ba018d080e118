"""Similarity of what the layers of two members hold: debiased CKA with a standard error, in JAX."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zoogen.landscape.stderr import jackknife_stderr

BLOCKS = 20
"""Blocks of examples that the jackknife leaves out, one at a time."""

_NEGLIGIBLE = 1e-6  # of the largest: less than that is rounding


def debiased_cka(
    x: Float[Array, "n u *hw"], y: Float[Array, "n v *yx"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Linear centred kernel alignment of two sets of features, from unbiased estimates of HSIC.

    In [-1, 1]; 1 for features that are equal up to rotation, shift and scale, and 0 on average
    for independent ones, however many features there are: with plain CKA, more features than
    examples make everything look alike. The price is n × n matrices of the examples.

    Args:
        x, y: features of the same examples, at least 5. Further axes are flattened, so that a
            unit of a map is one feature at each position: examples then stay independent, as
            the jackknife needs them to be, which positions of one image are not.

    Returns:
        The alignment, and its standard error over examples (jackknife over ``BLOCKS`` blocks);
        NaN where features are constant over the examples, or not finite.

    Example:
        >>> x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 3)), jnp.float32)
        >>> value, stderr = debiased_cka(x, 7 - 2 * x)
        >>> round(float(value), 5), bool(stderr < 1e-5)
        (1.0, True)

    Reference:
        Song, Smola, Gretton, Bedo and Borgwardt, Feature selection via dependence maximization,
        2012 (the estimate of HSIC); Nguyen, Raghu and Kornblith, Do wide and deep networks learn
        the same things?, 2021 (in CKA).
    """
    kept = _kept(x.shape[0])
    k, m = _products(x), _products(y)
    across, own = _hsic(k, m, kept), _own_hsic(k, kept) * _own_hsic(m, kept)
    alignment = across / jnp.sqrt(own)
    return alignment[0], jackknife_stderr(alignment[1:])


def _kept(n: int) -> Float[np.ndarray, "g n"]:
    """Which examples count: all of them first, then all but one block each."""
    blocks = min(BLOCKS, n)
    block = np.arange(n) * blocks // n
    left_out = block == np.arange(blocks)[:, None]
    return np.concatenate([np.ones((1, n)), ~left_out]).astype(np.float32)


def _products(x: Float[Array, "n u *hw"]) -> Float[Array, "n n"]:
    """Products of the features of different examples, which are centred and scaled for that.

    Neither changes the alignment, but single precision would not hold the products without.
    """
    x = x.reshape(x.shape[0], -1)
    largest = jnp.max(jnp.abs(x))
    x = x - x.mean(axis=0)
    spread = jnp.max(jnp.abs(x))
    usable = jnp.isfinite(largest) & (spread > _NEGLIGIBLE * largest)
    x = jnp.where(usable, x, jnp.nan) / spread
    return jnp.where(np.eye(x.shape[0], dtype=bool), 0, x @ x.T)


def _hsic(
    k: Float[Array, "n n"], m: Float[Array, "n n"], kept: Float[np.ndarray, "g n"]
) -> Float[Array, " g"]:
    """Unbiased estimate over each set of examples, for matrices without their diagonals."""
    n = kept.sum(axis=1)
    rows_k, rows_m = kept @ k, kept @ m  # sums over the examples that count
    same = jnp.sum(kept * (kept @ (k * m)), axis=1)
    total_k, total_m = (jnp.sum(kept * rows, axis=1) for rows in (rows_k, rows_m))
    shared = jnp.sum(kept * rows_k * rows_m, axis=1)
    product = same + total_k * total_m / ((n - 1) * (n - 2)) - 2 * shared / (n - 2)
    return product / (n * (n - 3))


def _own_hsic(k: Float[Array, "n n"], kept: Float[np.ndarray, "g n"]) -> Float[Array, " g"]:
    """Of a matrix with itself: above 0, or NaN where without a block nothing varies."""
    own = _hsic(k, k, kept)
    return jnp.where(own > _NEGLIGIBLE * own[0], own, jnp.nan)
