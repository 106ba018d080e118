"""Layers of one member, formulated so that a population of them stays fast.

Activations are batch-last, ``[c h w b]`` and ``[f b]``: the batch is the contiguous axis, so that
patches, pooling and biases copy and add long runs, and one matrix product serves a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Maps = Float[Array, "c h w b"]


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
}

# Continuous symmetry of a unit: f(s·x) = s·f(x) for every s > 0, or f(−x) = −f(x).
SCALINGS = {"relu": "positive", "leaky_relu": "positive", "tanh": "sign"}


def scalings(activation: str, groups: Iterable[str]) -> dict[str, str]:
    """Group name → continuous symmetry that ``activation`` gives to its units."""
    return dict.fromkeys(groups, SCALINGS.get(activation, "none"))


def dense(
    x: Float[Array, "i b"], weight: Float[Array, "o i"], bias: Float[Array, " o"]
) -> Float[Array, "o b"]:
    """``weight @ x + bias``."""
    return weight @ x + bias[:, None]


def conv2d(
    x: Float[Array, "i h w b"],
    weight: Float[Array, "o i kh kw"],
    bias: Float[Array, " o"],
    stride: int = 1,
    padding: int = 0,
) -> Float[Array, "o y x b"]:
    """Two-dimensional cross-correlation plus bias, as in PyTorch.

    Args:
        x: input maps, batch last.
        weight: kernels in PyTorch layout.
        bias: one per output channel.
        stride: of both spatial axes.
        padding: zeros added on every side of both spatial axes.

    Returns:
        Maps with ``(h + 2 padding − kh) // stride + 1`` rows, and columns likewise.
    """
    out, _, kh, kw = weight.shape
    patches = _patches(x, kh, kw, stride, padding)
    _, _, rows, columns, batch = patches.shape
    product = weight.reshape(out, -1) @ patches.reshape(-1, rows * columns * batch)
    return product.reshape(out, rows, columns, batch) + bias[:, None, None, None]


def _patches(x: Maps, kh: int, kw: int, stride: int, padding: int) -> Float[Array, "c k y x b"]:
    """Windows of every kernel position, side by side."""
    if padding:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows, columns = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    taps = [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(kh)
        for j in range(kw)
    ]
    return jnp.stack(taps, axis=1)


def max_pool(x: Float[Array, "c h w b"], size: int = 2) -> Float[Array, "c y x b"]:
    """Largest entry of each ``size × size`` window; rows and columns that fill none are dropped."""
    rows, columns = x.shape[1] // size * size, x.shape[2] // size * size
    taps = [x[:, i:rows:size, j:columns:size] for i in range(size) for j in range(size)]
    largest = taps[0]
    for tap in taps[1:]:
        # The first of equal entries gets the gradient, as in PyTorch; jnp.maximum would halve it.
        largest = jnp.where(tap > largest, tap, largest)
    return largest


def global_average_pool(x: Float[Array, "c h w b"]) -> Float[Array, "c b"]:
    """Mean over all positions of each map."""
    return x.mean(axis=(1, 2))
