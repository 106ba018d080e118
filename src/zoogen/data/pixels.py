"""An image as a data set of its own: places and what is to be seen there."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Shaped

PLACE_SHAPE = (2, 1, 1)
"""A place, as networks take it: one pixel with two channels, row and column."""


def places(height: int, width: int) -> Float32[np.ndarray, "n 2 1 1"]:
    """Row and column of every pixel, each from −1 (first) to 1 (last), row by row.

    Example:
        >>> places(2, 3)[:, :, 0, 0].tolist()
        [[-1.0, -1.0], [-1.0, 0.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    axes = [np.linspace(-1, 1, size, dtype=np.float32) for size in (height, width)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    return grid.reshape(-1, *PLACE_SHAPE)


def pixel_values(image: Shaped[Array, "c h w"], white: float) -> Float32[Array, "n c"]:
    """What is to be seen at the :func:`places` of an image: 0 is black, 1 is ``white``.

    Args:
        image: raw pixels.
        white: the brightest value that a pixel can have.

    Example:
        >>> pixel_values(jnp.array([[[0, 16], [4, 8]]]), 16).tolist()
        [[0.0], [1.0], [0.25], [0.5]]
    """
    return (image.astype(jnp.float32) / jnp.float32(white)).reshape(image.shape[0], -1).T


def image_of(values: Shaped[Array, "*b n c"], height: int, width: int) -> Shaped[Array, "*b c h w"]:
    """The image that has these values at its :func:`places`.

    Example:
        >>> image_of(jnp.array([[0.0], [1.0], [0.25], [0.5]]), 2, 2).tolist()
        [[[0.0, 1.0], [0.25, 0.5]]]
    """
    channels_first = jnp.swapaxes(values, -1, -2)
    return channels_first.reshape(*channels_first.shape[:-1], height, width)
