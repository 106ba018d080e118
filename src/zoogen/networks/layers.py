"""Layers of one member, formulated so that a population of them stays fast.

Maps are batch-last, ``[c h w b]``: the batch is the contiguous axis, so that patches, pooling and
biases copy and add long runs, and one matrix product serves a layer. How a convolution becomes
products is chosen per backend and geometry (`formulations`). Vectors are ``[b f]``: there the
product that gives a dense layer's weight gradient is a fifth faster on CPU than with ``[f b]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.networks.architecture import BatchMoments, Hidden
from zoogen.networks.formulations import FORMULATIONS, Geometry, choose, chosen
from zoogen.networks.sine import sin

__all__ = [
    "ACTIVATIONS", "SCALINGS", "batch_norm", "chosen", "conv2d", "dense", "flatten",
    "global_average_pool", "hidden_maps", "layer_norm", "map_moments", "map_norm", "max_pool",
    "scalings", "sum_pool",
]  # fmt: skip


NORM_EPSILON = 1e-5
"""Added to the variance in norms."""


def leaky_relu(x: Array) -> Array:
    """``x`` where positive, else ``0.01 x`` (slope at zero 0.01, as in PyTorch)."""
    return jnp.where(x > 0, x, 0.01 * x)


def gelu(x: Array) -> Array:
    """Gaussian error linear unit, exact form (Hendrycks & Gimpel, 2016)."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": leaky_relu,
    "tanh": jnp.tanh,
    "gelu": gelu,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "sin": sin,
}

# Continuous symmetry of a unit: f(s·x) = s·f(x) for every s > 0, or f(−x) = −f(x).
SCALINGS = {"relu": "positive", "leaky_relu": "positive", "tanh": "sign", "sin": "sign"}


def scalings(activation: str, groups: Iterable[str]) -> dict[str, str]:
    """Group name → continuous symmetry that ``activation`` gives to its units."""
    return dict.fromkeys(groups, SCALINGS.get(activation, "none"))


def dense(
    x: Float[Array, "b i"], weight: Float[Array, "o i"], bias: Float[Array, " o"]
) -> Float[Array, "b o"]:
    """``x @ weightᵀ + bias``, with the weight in PyTorch layout."""
    return x @ weight.T + bias


def conv2d(
    x: Float[Array, "i h w b"],
    weight: Float[Array, "o i kh kw"],
    bias: Float[Array, " o"],
    stride: int = 1,
    padding: int = 0,
) -> Float[Array, "o y x b"]:
    """Two-dimensional cross-correlation plus bias, as in PyTorch.

    Works under ``vmap``, ``lax.map``, loops, reverse mode and forward over reverse
    (``jvp`` of ``grad``); on CPU it has no forward mode of its own (``jvp`` without ``grad``).

    Args:
        x: input maps, batch last.
        weight: kernels in PyTorch layout.
        bias: one per output channel.
        stride: of both spatial axes.
        padding: zeros added on every side of both spatial axes.

    Returns:
        Maps with ``(h + 2 padding − kh) // stride + 1`` rows, and columns likewise.

    Example:
        >>> maps, kernel = jnp.arange(9.0).reshape(1, 3, 3, 1), jnp.ones((1, 1, 2, 2))
        >>> conv2d(maps, kernel, jnp.zeros(1))[0, :, :, 0].tolist()
        [[8.0, 12.0], [20.0, 24.0]]
    """
    product = FORMULATIONS[choose(Geometry.of(x.shape, weight.shape, stride, padding))]
    return product(x, weight, stride, padding) + bias[:, None, None, None]


def layer_norm(
    x: Float[Array, "*b u"], weight: Float[Array, " u"], bias: Float[Array, " u"]
) -> Float[Array, "*b u"]:
    """Units of mean 0 and variance 1, then scale and shift, as in PyTorch (epsilon 1e-5).

    Example:
        >>> layer_norm(jnp.array([[1.0, 3.0]]), jnp.ones(2), jnp.zeros(2)).round(3).tolist()
        [[-1.0, 1.0]]

    Reference:
        Ba, Kiros and Hinton, Layer normalization, 2016.
    """
    return _normal(x, -1) * weight + bias


def map_norm(
    x: Float[Array, "c h w b"], weight: Float[Array, " c"], bias: Float[Array, " c"]
) -> Float[Array, "c h w b"]:
    """The same over all channels and positions of an image: PyTorch's group norm of one group."""
    return _normal(x, (0, 1, 2)) * weight[:, None, None, None] + bias[:, None, None, None]


def batch_norm(
    x: Float[Array, "c h w b"],
    weight: Float[Array, " c"],
    bias: Float[Array, " c"],
    mean: Float[Array, " c"],
    variance: Float[Array, " c"],
) -> Float[Array, "c h w b"]:
    """Channels standardised by given moments, then scale and shift (epsilon 1e-5).

    A variance below zero, as noise on weights may leave it, counts as zero.

    Example:
        >>> x = jnp.array([1.0, 3.0]).reshape(1, 1, 1, 2)
        >>> one = jnp.ones(1)
        >>> batch_norm(x, 2 * one, one, 2 * one, one).round().ravel().tolist()
        [-1.0, 3.0]

    Reference:
        Ioffe and Szegedy, Batch normalization, 2015.
    """
    factor = weight * jax.lax.rsqrt(jnp.maximum(variance, 0) + NORM_EPSILON)
    return (x - mean[:, None, None, None]) * factor[:, None, None, None] + bias[:, None, None, None]


def map_moments(x: Float[Array, "c h w b"]) -> BatchMoments:
    """Mean and variance of each channel over all images and positions.

    Example:
        >>> [float(m[0]) for m in map_moments(jnp.array([1.0, 3.0]).reshape(1, 1, 1, 2))[:2]]
        [2.0, 1.0]
    """
    mean = x.mean(axis=(1, 2, 3))
    variance = jnp.mean(jnp.square(x - mean[:, None, None, None]), axis=(1, 2, 3))
    return BatchMoments(mean, variance, x.size // x.shape[0])


def _normal(x: Array, axes: int | tuple[int, ...]) -> Array:
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
    return centred * jax.lax.rsqrt(variance + NORM_EPSILON)


def max_pool(x: Float[Array, "c h w b"], size: int = 2) -> Float[Array, "c y x b"]:
    """Largest entry of each ``size × size`` window; rows and columns that fill none are dropped."""
    largest, *others = _taps(x, size)
    for tap in others:
        # The first of equal entries gets the gradient, as in PyTorch; jnp.maximum would halve it.
        largest = jnp.where(tap > largest, tap, largest)
    return largest


def sum_pool(x: Float[Array, "c h w b"], size: int = 2) -> Float[Array, "c y x b"]:
    """Sum of each ``size × size`` window; rows and columns that fill none are dropped."""
    return reduce(jnp.add, _taps(x, size))


def _taps(x: Float[Array, "c h w b"], size: int) -> list[Float[Array, "c y x b"]]:
    """The entries of all windows, one place in a window after another."""
    rows, columns = x.shape[1] // size * size, x.shape[2] // size * size
    return [x[:, i:rows:size, j:columns:size] for i in range(size) for j in range(size)]


def global_average_pool(x: Float[Array, "c h w b"]) -> Float[Array, "b c"]:
    """Mean over all positions of each map."""
    return x.mean(axis=(1, 2)).T


def hidden_maps(before: Float[Array, "u h w b"], after: Float[Array, "u h w b"]) -> Hidden:
    """What channels hold, batch first."""
    return Hidden(before.transpose(3, 0, 1, 2), after.transpose(3, 0, 1, 2))


def flatten(x: Float[Array, "c h w b"]) -> Float[Array, "b f"]:
    """Entries of all maps in the order ``c h w``, as PyTorch flattens them."""
    return x.reshape(-1, x.shape[-1]).T
