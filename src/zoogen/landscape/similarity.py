"""Similarity of what two members compute, from their logits on the same examples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def linear_cka(
    x: Float[np.ndarray, "*q n d"], y: Float[np.ndarray, "*q n e"]
) -> Float[np.ndarray, "*q"]:
    """Linear centred kernel alignment of two sets of features of the same examples.

    In [0, 1]; 1 for features that are equal up to rotation, shift and scale. It is biased
    upwards where examples are few compared with features.

    Args:
        x, y: features, one row an example.

    Returns:
        The alignment; NaN where features are constant over the examples, or not finite.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(float(linear_cka(x, 7 - 2 * x)), 6)
        1.0

    Reference:
        Kornblith, Norouzi, Lee and Hinton, Similarity of neural network representations
        revisited, 2019.
    """
    x, y = _centred(x), _centred(y)
    scale = np.sqrt(_overlap(x, x) * _overlap(y, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(_overlap(x, y) / scale, 0, 1)


def _centred(x: Float[np.ndarray, "*q n d"]) -> Float[np.ndarray, "*q n d"]:
    """Features with zero mean over the examples; NaN where nothing but rounding is left."""
    x = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(x).max(axis=(-2, -1), keepdims=True)
        x = x - x.mean(axis=-2, keepdims=True)
        constant = np.abs(x).max(axis=(-2, -1), keepdims=True) <= 1e-7 * largest
        return np.where(constant | ~np.isfinite(largest), np.nan, x)


def _overlap(x: Float[np.ndarray, "*q n d"], y: Float[np.ndarray, "*q n e"]) -> np.ndarray:
    product = np.matmul(np.swapaxes(x, -2, -1), y)
    return np.sum(product**2, axis=(-2, -1))


def prediction_agreement(
    x: Float[np.ndarray, "*q n k"], y: Float[np.ndarray, "*q n k"]
) -> Float[np.ndarray, "*q"]:
    """Share of examples to which two members give the same class; NaN where logits are not finite.

    Example:
        >>> float(prediction_agreement(np.eye(4), np.eye(4)[[0, 1, 2, 2]]))
        0.75

    Reference:
        Fort, Hu and Lakshminarayanan, Deep ensembles: a loss landscape perspective, 2019.
    """
    share = (x.argmax(axis=-1) == y.argmax(axis=-1)).mean(axis=-1)
    return np.where(_all_finite(x) & _all_finite(y), share, np.nan)


def _all_finite(x: Float[np.ndarray, "*q n k"]) -> Bool[np.ndarray, "*q"]:
    return np.isfinite(x).all(axis=(-2, -1))
