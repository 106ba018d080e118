"""Complexity of a function along lines through its inputs: frequencies and linear regions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

_CONSTANT = 1e-5  # of the largest value: less than that along a circle is rounding


def great_circles(
    first: Float[np.ndarray, "line c h w"], second: Float[np.ndarray, "line c h w"], points: int
) -> Float[np.ndarray, "lp c h w"]:
    """Random inputs on closed curves: ``cos θ · first + sin θ · second``, once around.

    With standard normal vectors every point is a standard normal input, and a closed curve has a
    discrete Fourier transform without an artefact of its ends.

    Args:
        first, second: independent standard normal inputs (normalised pixels), one pair a line.
        points: equally spaced on each circle.

    Returns:
        Inputs, line by line.

    Example:
        >>> great_circles(np.ones((1, 1)), np.zeros((1, 1)), 4).round(6).ravel().tolist()
        [1.0, 0.0, -1.0, -0.0]
    """
    angle = 2 * np.pi * np.arange(points) / points
    angle = angle.reshape(1, points, *(1 for _ in first.shape[1:]))
    inputs = np.cos(angle) * first[:, None] + np.sin(angle) * second[:, None]
    return inputs.reshape(-1, *first.shape[1:]).astype(np.float32)


def mean_frequency(values: Float[np.ndarray, "*m line t k"]) -> Float[np.ndarray, "*m line"]:
    """Mean frequency of a function along circles, weighted by the amplitudes of its components.

    Args:
        values: outputs (logits) at the points of :func:`great_circles`.

    Returns:
        Per circle, in cycles, from 1 (linear functions) to t/2; 0 where the function is constant,
        NaN where it is not finite. Mean and error over circles by ``mean_and_stderr``.

    Example:
        >>> angle = 2 * np.pi * np.arange(16) / 16
        >>> float(mean_frequency(np.cos(3 * angle)[None, :, None])[0].round(6))
        3.0

    Reference:
        Teney, Nicolicioiu, Hartmann and Abbasnejad, Neural redshift: random networks are not
        random functions, 2024, who transform over the whole input space; on circles as in
        Raghu et al., On the expressive power of deep neural networks, 2017.
    """
    values = np.asarray(values, np.float64)
    points = values.shape[-2]
    with np.errstate(invalid="ignore"):
        amplitude = np.abs(np.fft.rfft(values, axis=-2)[..., 1:, :]).sum(axis=-1)
        total = amplitude.sum(axis=-1)
        weighted = (amplitude * np.arange(1, points // 2 + 1)).sum(axis=-1)
        largest = np.abs(values).max(axis=(-2, -1))
        constant = total <= _CONSTANT * points * largest
        frequency = np.where(constant, 0, weighted / np.where(constant, 1, total))
        return np.where(np.isfinite(largest), frequency, np.nan)


def segments(inputs: Float[Array, "n c h w"], lines: int, points: int) -> Float[Array, "lp c h w"]:
    """Inputs on straight lines between the first inputs and those that follow them.

    Args:
        inputs: in a random order, at least ``2 * lines``.
        lines: their number; line i joins input i and input ``lines + i``.
        points: per line, ends included.

    Returns:
        Inputs, line by line.

    Example:
        >>> segments(jnp.array([[0.0], [4.0]]), lines=1, points=3).ravel().tolist()
        [0.0, 2.0, 4.0]
    """
    t = jnp.linspace(0, 1, points).reshape(1, points, *(1 for _ in inputs.shape[1:]))
    begin, end = inputs[:lines, None], inputs[lines : 2 * lines, None]
    return ((1 - t) * begin + t * end).reshape(-1, *inputs.shape[1:])


def linear_regions(codes: Bool[Array, "line t bit"]) -> Int[Array, " line"]:
    """Linear regions of a relu network that lines pass through, at least 1.

    One plus the boundaries crossed: units that switch between neighbouring points. Exact where
    points lie close enough that no unit switches twice between two of them (with one hidden layer:
    two points do), else a lower bound; what a maximum picks is not counted.

    Args:
        codes: activation codes at points along each line.

    Example:
        >>> linear_regions(jnp.array([[[True, True], [True, False], [False, False]]])).tolist()
        [3]

    Reference:
        Novak et al., Sensitivity and generalization in neural networks, 2018; Hanin and Rolnick,
        Complexity of linear regions in deep networks, 2019.
    """
    return 1 + jnp.sum(codes[:, 1:] != codes[:, :-1], axis=(1, 2))
