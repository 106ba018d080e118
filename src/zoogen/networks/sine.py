"""The sine of float32 on CPU, by a polynomial that the compiler can vectorise.

The compiler's own sine calls a scalar function per entry: training a small siren spent five sixths
of its time there. On other backends, and for other types, it is the one that is used.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.population import on_cpu

# π in three parts, the first two so short that small multiples of them are exact (Cody and
# Waite, Software manual for the elementary functions, 1980).
_PI = (3.140625, 9.67502593994140625e-4, 1.50995799097837643e-7)
# Chebyshev fits over r² in [0, (π/2)²], highest power first: sin(r)/r and cos(r).
_SIN = (2.60496086e-6, -1.9808954e-4, 8.33304933e-3, -0.166666579, 0.999999996)
_COS = (-2.60491888e-7, 2.47600281e-5, -1.38883587e-3, 0.041666636, -0.499999994, 1.0)


@jax.custom_jvp
def sin(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The sine; on CPU in float32 within 2e-7 up to |x| = 1,000, and with more error beyond.

    Example:
        >>> [round(float(y), 4) for y in sin(jnp.array([0.0, 1.0, -30.0]))]
        [0.0, 0.8415, 0.988]
    """
    if not _by_polynomial(x):
        return jnp.sin(x)
    sign, r = _reduced(x)
    return sign * r * _polynomial(_SIN, r * r)


@jax.custom_jvp
def cos(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The cosine, as :func:`sin`."""
    if not _by_polynomial(x):
        return jnp.cos(x)
    sign, r = _reduced(x)
    return sign * _polynomial(_COS, r * r)


sin.defjvp(lambda x, dx: (sin(*x), cos(*x) * dx[0]))
cos.defjvp(lambda x, dx: (cos(*x), -sin(*x) * dx[0]))


def _by_polynomial(x: Array) -> bool:
    return on_cpu() and x.dtype == jnp.float32


def _reduced(x: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """``(−1)^k`` and ``x − kπ``, which lies within ± π/2."""
    k = jnp.round(x * jnp.float32(1 / jnp.pi))
    sign = 1 - 2 * jnp.abs(k - 2 * jnp.round(k / 2))
    return sign, reduce(lambda rest, part: rest - k * jnp.float32(part), _PI, x)


def _polynomial(coefficients: tuple[float, ...], z: Float[Array, "*n"]) -> Float[Array, "*n"]:
    first, *others = map(jnp.float32, coefficients)
    return reduce(lambda value, c: value * z + c, others, jnp.full_like(z, first))
