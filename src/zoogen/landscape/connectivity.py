"""Connectivity of two members: error along the straight line and along a trained Bézier curve."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BatchLoss = Callable[[Float[Array, " p"], Array, Int[Array, " b"]], Float[Array, ""]]

CURVE_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
_T = np.array(CURVE_POINTS, np.float32)


def bezier_coefficients(t: Float[Array, "*t"]) -> Float[Array, "*t 3"]:
    """Shares of start, control point and end in a point of the quadratic Bézier curve.

    Example:
        >>> bezier_coefficients(jnp.float32(0.5)).tolist()
        [0.25, 0.5, 0.25]
    """
    return jnp.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=-1)


def train_curve(
    loss: BatchLoss,
    start: Float[Array, " p"],
    end: Float[Array, " p"],
    images: Array,
    labels: Int[Array, " n"],
    order: Int[Array, "step b"],
    times: Float[Array, " step"],
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.9,
) -> Float[Array, " p"]:
    """Control point of a quadratic Bézier curve of low loss between two points.

    Starts in the middle of the straight line; SGD, one batch and one random point of the curve
    a step. As in PyTorch, weight decay is added to the gradient before momentum.

    Args:
        loss: mean loss of flat weights on a batch.
        start: curve at t = 0; stays.
        end: curve at t = 1; stays.
        images: examples, first axis n.
        labels: of the examples.
        order: the examples of each step.
        times: the t of each step, in [0, 1].
        learning_rate: constant.
        weight_decay: of the control point.
        momentum: in [0, 1).

    Reference:
        Garipov et al., Loss surfaces, mode connectivity, and fast ensembling of DNNs, 2018.
    """

    images, labels = jnp.asarray(images), jnp.asarray(labels)

    def step(carry: tuple[Array, Array], given: tuple[Array, Array]) -> tuple[tuple, None]:
        (control, velocity), (index, t) = carry, given
        a, b, c = bezier_coefficients(t)
        at_t = jax.grad(loss)(a * start + b * control + c * end, images[index], labels[index])
        velocity = momentum * velocity + b * at_t + weight_decay * control
        return (control - learning_rate * velocity, velocity), None

    middle = (start + end) / 2
    (control, _), _ = jax.lax.scan(step, (middle, jnp.zeros_like(middle)), (order, times))
    return control


def along_curve_and_line(
    evaluate: Callable[[Float[Array, " p"]], tuple[Array, Array]],
    start: Float[Array, " p"],
    control: Float[Array, " p"],
    end: Float[Array, " p"],
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """What ``evaluate`` says at ``CURVE_POINTS`` of the curve, and of the straight line.

    Args:
        evaluate: two arrays from flat weights, such as errors and losses of examples.
        start, control, end: of the Bézier curve.

    Returns:
        Two arrays ``[t, …]`` for the curve and two for the line.
    """
    curve = bezier_coefficients(jnp.asarray(_T))
    line = jnp.stack([1 - _T, 0 * _T, _T], axis=-1)[1:-1]  # the ends are those of the curve

    def at(shares: Float[Array, "3"]) -> tuple[Array, Array]:
        return evaluate(shares[0] * start + shares[1] * control + shares[2] * end)

    values = jax.lax.map(at, jnp.concatenate([curve, line]))
    n = len(CURVE_POINTS)
    ends_and_line = [jnp.concatenate([v[:1], v[n:], v[n - 1 : n]]) for v in values]
    return (values[0][:n], values[1][:n]), (ends_and_line[0], ends_and_line[1])


def farthest_point(errors: Float[np.ndarray, "*q t"]) -> Int[np.ndarray, "*q"]:
    """Index of the inner curve point whose error lies farthest from the mean of the end errors.

    Inner, because both ends lie equally far from their own mean: with them the sign of
    :func:`mode_connectivity` would hang on the order of the two members wherever they differ by
    more than the curve bends. Of equally far points, the one of higher error.

    Args:
        errors: along the curve, ends first and last; at least three points.

    Example:
        >>> int(farthest_point(np.array([2.0, 3.0, 9.0, 4.0, 4.0])))
        2
    """
    gain = _gain(errors)
    distance = np.abs(gain)
    tolerance = 1e-5 * np.abs(errors).max(axis=-1, keepdims=True)  # float32 errors that are equal
    farthest = distance >= distance.max(axis=-1, keepdims=True) - tolerance
    return np.argmin(np.where(farthest, gain, np.inf), axis=-1) + 1


def mode_connectivity(errors: Float[np.ndarray, "*q t"]) -> Float[np.ndarray, "*q"]:
    """Mean of the end errors minus the error at the point of the curve farthest from it.

    Below 0: a barrier. Above 0: the ends are under-trained, the curve finds lower errors. About
    0: connected.

    Args:
        errors: along the curve, ends first and last; at least three points.

    Returns:
        In the unit of the errors; NaN where one of them is not finite.

    Example:
        >>> float(mode_connectivity(np.array([2.0, 3.0, 9.0, 4.0, 4.0])))
        -6.0

    Reference:
        Yang et al., Taxonomizing local versus global structure in neural network loss
        landscapes, 2021, who seek the farthest point among all; see :func:`farthest_point`.
    """
    return np.sum(connectivity_shares(errors) * errors, axis=-1)  # NaN times 0 is NaN


def connectivity_shares(errors: Float[np.ndarray, "*q t"]) -> Float[np.ndarray, "*q t"]:
    """Shares of the errors along a curve in its :func:`mode_connectivity`.

    Example:
        >>> connectivity_shares(np.array([2.0, 3.0, 9.0, 4.0, 4.0])).tolist()
        [0.5, 0.0, -1.0, 0.0, 0.5]
    """
    points = np.arange(errors.shape[-1])
    shares = np.where(farthest_point(errors)[..., None] == points, -1.0, 0.0)
    shares[..., [0, -1]] = 0.5
    return shares


def _gain(errors: Float[np.ndarray, "*q t"]) -> Float[np.ndarray, "*q inner"]:
    """How much lower the error is at the inner points than at the ends on average."""
    return (errors[..., :1] + errors[..., -1:]) / 2 - errors[..., 1:-1]


def linear_barrier(
    values: Float[np.ndarray, "*q t"], times: Float[np.ndarray, " t"]
) -> Float[np.ndarray, "*q"]:
    """Largest rise of a loss or error above the straight line between its ends; at least 0.

    Args:
        values: along the straight line between two members, ends first and last.
        times: their positions, from 0 to 1.

    Example:
        >>> float(linear_barrier(np.array([1.0, 6.0, 3.0]), np.array([0.0, 0.5, 1.0])))
        4.0

    Reference:
        Frankle et al., Linear mode connectivity and the lottery ticket hypothesis, 2020.
    """
    return np.sum(barrier_shares(values, times) * values, axis=-1)


def barrier_shares(
    values: Float[np.ndarray, "*q t"], times: Float[np.ndarray, " t"]
) -> Float[np.ndarray, "*q t"]:
    """Shares of the values along a line in its :func:`linear_barrier`; 0 where it does not rise.

    Example:
        >>> barrier_shares(np.array([1.0, 6.0, 3.0]), np.array([0.0, 0.5, 1.0])).tolist()
        [-0.5, 1.0, -0.5]
    """
    rise = values - (1 - times) * values[..., :1] - times * values[..., -1:]
    rise[..., [0, -1]] = 0  # also where rounding says otherwise
    highest = np.argmax(rise, axis=-1)
    shares = np.where(highest[..., None] == np.arange(values.shape[-1]), 1.0, 0.0)
    shares[..., 0] -= 1 - times[highest]
    shares[..., -1] -= times[highest]
    return shares
