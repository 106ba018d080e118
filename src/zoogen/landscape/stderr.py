"""Standard errors of estimates: means, shares, combinations of means, and jackknives.

All of them take examples (or probes, or batches) as a sample: an error says how far the number
could lie from what an endless probe set would give.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


def mean_and_stderr(samples: Float[Any, "*m k"]) -> tuple[Float[Any, "*m"], Float[Any, "*m"]]:
    """Mean over the last axis and its standard error; of JAX arrays in JAX."""
    return samples.mean(axis=-1), samples.std(axis=-1, ddof=1) / np.sqrt(samples.shape[-1])


def share_stderr(share: Float[Any, "*m"], n: Any) -> Float[Any, "*m"]:
    """Standard error of the share of examples that have a property.

    Equals that of :func:`mean_and_stderr` for zeros and ones.

    Args:
        share: in [0, 1].
        n: examples; at least 2.

    Example:
        >>> float(share_stderr(np.float64(0.5), 101))
        0.05
    """
    return (share * (1 - share) / (n - 1)) ** 0.5


def covariance_of_means(samples: Float[Any, "t n"]) -> Float[Any, "t t"]:
    """Covariance of means that are taken over the same examples; of JAX arrays in JAX.

    Args:
        samples: one row a mean.

    Example:
        >>> covariance_of_means(np.array([[0.0, 2.0], [2.0, 0.0]])).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]
    """
    n = samples.shape[-1]
    centred = samples - samples.mean(axis=-1, keepdims=True)
    return centred @ centred.T / (n * (n - 1))


def combination_stderr(
    shares: Float[np.ndarray, "*m t"], covariance: Float[np.ndarray, "*m t t"]
) -> Float[np.ndarray, "*m"]:
    """Standard error of a linear combination of means, given its shares.

    Args:
        shares: of each mean.
        covariance: from :func:`covariance_of_means`.

    Example:
        >>> float(combination_stderr(np.array([1.0, 1.0]), np.array([[1.0, -1.0], [-1.0, 1.0]])))
        0.0
    """
    variance = np.einsum("...i,...ij,...j->...", shares, covariance, shares)
    return np.sqrt(np.maximum(variance, 0))  # NaN stays NaN


def jackknife_stderr(left_out: Float[Any, "*m g"]) -> Float[Any, "*m"]:
    """Standard error of an estimate from its values without one group of examples each.

    Args:
        left_out: one value a group; groups of equal size.

    Example:
        >>> samples = np.array([1.0, 2.0, 6.0])
        >>> without = (samples.sum() - samples) / 2
        >>> bool(np.isclose(jackknife_stderr(without), mean_and_stderr(samples)[1]))
        True

    Reference:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 11.
    """
    return (left_out.var(axis=-1) * (left_out.shape[-1] - 1)) ** 0.5
