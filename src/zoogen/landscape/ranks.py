"""Ranks and norms of layers, from the singular values of their weight matrices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from zoogen.landscape.weights import rotating_layers
from zoogen.params import ParamSpec

FEWEST_EIGENVALUES = 50
"""Below that an exponent of a tail means nothing."""

_FEWEST_IN_TAIL = 10


class LayerRanks(NamedTuple):
    """What the singular values of each layer say; NaN for a layer of zeros or not finite.

    Attributes:
        spectral_norm: largest singular value.
        stable_rank: see :func:`stable_rank`.
        effective_rank: see :func:`effective_rank`.
        tail_exponent: see :func:`tail_exponent`.
        tail_exponent_stderr: likewise.
    """

    spectral_norm: Float[np.ndarray, "*m l"]
    stable_rank: Float[np.ndarray, "*m l"]
    effective_rank: Float[np.ndarray, "*m l"]
    tail_exponent: Float[np.ndarray, "*m l"]
    tail_exponent_stderr: Float[np.ndarray, "*m l"]


def layer_ranks(spec: ParamSpec, weights: Float[np.ndarray, "*m p"]) -> LayerRanks:
    """Ranks and norms of every layer's matrix.

    A dense layer's matrix is its weight; a convolution's has one row per output channel, with
    all its kernel entries in it (so its norm is that of the kernel, not of the operator on maps).

    Args:
        spec: of the network; its layers are those of ``rotating_layers``.
        weights: flat weights.
    """
    layers = [_of_matrix(matrix) for matrix in _matrices(spec, weights)]
    return LayerRanks(*(np.stack(each, axis=-1) for each in zip(*layers, strict=True)))


def _matrices(
    spec: ParamSpec, weights: Float[np.ndarray, "*m p"]
) -> list[Float[np.ndarray, "*m o i"]]:
    lead = weights.shape[:-1]
    return [
        weights[..., p.offset : p.offset + p.size].reshape(*lead, p.shape[0], -1)
        for p in rotating_layers(spec)
    ]


def _of_matrix(matrix: Float[np.ndarray, "*m o i"]) -> tuple[np.ndarray, ...]:
    values = singular_values(matrix)
    return (
        values[..., 0],
        stable_rank(values),
        effective_rank(values),
        *tail_exponent(values**2),
    )


def singular_values(matrix: Float[np.ndarray, "*m o i"]) -> Float[np.ndarray, "*m r"]:
    """Singular values in descending order; NaN for a matrix that is not finite.

    From the Gram matrix of the shorter side, in double precision: values below 1e-8 of the
    largest are rounding.

    Example:
        >>> singular_values(np.array([[3.0, 0.0, 0.0], [0.0, -4.0, 0.0]])).tolist()
        [4.0, 3.0]
    """
    matrix = np.asarray(matrix, np.float64)
    finite = np.isfinite(matrix).all(axis=(-2, -1), keepdims=True)
    matrix = np.where(finite, matrix, 0)
    if matrix.shape[-2] > matrix.shape[-1]:
        matrix = np.swapaxes(matrix, -2, -1)
    gram = matrix @ np.swapaxes(matrix, -2, -1)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))[..., ::-1]
    return np.where(finite[..., 0], values, np.nan)


def stable_rank(values: Float[np.ndarray, "*m r"]) -> Float[np.ndarray, "*m"]:
    """Squared Frobenius norm over squared spectral norm, in [1, r]; NaN for a zero matrix.

    Args:
        values: singular values, descending.

    Example:
        >>> float(stable_rank(np.array([2.0, 2.0, 0.0])))
        2.0

    Reference:
        Rudelson and Vershynin, Sampling from large matrices, 2007.
    """
    return np.sum(_relative(values) ** 2, axis=-1)


def effective_rank(values: Float[np.ndarray, "*m r"]) -> Float[np.ndarray, "*m"]:
    """Exponential of the entropy of the normalised singular values, in [1, r].

    Args:
        values: singular values, descending; NaN results where all are zero.

    Example:
        >>> round(float(effective_rank(np.array([2.0, 2.0, 0.0]))), 6)
        2.0

    Reference:
        Roy and Vetterli, The effective rank: a measure of effective dimensionality, 2007.
    """
    share = _relative(values)
    share = share / share.sum(axis=-1, keepdims=True)
    logarithm = np.log(np.where(share > 0, share, 1))
    return np.exp(-np.sum(share * logarithm, axis=-1))


def _relative(values: Float[np.ndarray, "*m r"]) -> Float[np.ndarray, "*m r"]:
    """Values over the largest; NaN where that is zero."""
    largest = values[..., :1]
    return values / np.where(largest > 0, largest, np.nan)


def tail_exponent(
    eigenvalues: Float[np.ndarray, "*m r"],
) -> tuple[Float[np.ndarray, "*m"], Float[np.ndarray, "*m"]]:
    """Exponent α of a power law ``λ^-α`` fitted to the upper tail of a spectrum.

    Maximum likelihood above each possible start of the tail, of at least ten eigenvalues; the
    start whose fit lies closest to the data (Kolmogorov and Smirnov) wins.

    Args:
        eigenvalues: of ``WᵀW``, descending.

    Returns:
        α above 1, and its standard error given the tail; NaN for fewer than
        ``FEWEST_EIGENVALUES`` or where one is not finite.

    Example:
        >>> quantiles = (np.arange(1000) + 0.5) / 1000
        >>> alpha, stderr = tail_exponent(quantiles ** (-1 / 1.5))  # density ∝ λ^-2.5
        >>> round(float(alpha), 1), bool(stderr < 0.1)
        (2.5, True)

    Reference:
        Clauset, Shalizi and Newman, Power-law distributions in empirical data, 2009; for layers
        Martin and Mahoney, Implicit self-regularization in deep neural networks, 2021.
    """
    eigenvalues = np.asarray(eigenvalues, np.float64)
    lead, count = eigenvalues.shape[:-1], eigenvalues.shape[-1]
    if count < FEWEST_EIGENVALUES:
        return np.full(lead, np.nan), np.full(lead, np.nan)
    fits = np.array([_fit_tail(row) for row in eigenvalues.reshape(-1, count)])
    return fits[:, 0].reshape(lead), fits[:, 1].reshape(lead)


def _fit_tail(eigenvalues: Float[np.ndarray, " r"]) -> tuple[float, float]:
    """Exponent and standard error of the tail that fits best."""
    positive = eigenvalues[eigenvalues > 0]  # NaN is not
    if np.isnan(eigenvalues).any() or len(positive) < FEWEST_EIGENVALUES:
        return np.nan, np.nan
    logs = np.log(positive)
    sizes = np.arange(_FEWEST_IN_TAIL, len(logs) + 1)
    excess = np.cumsum(logs)[sizes - 1] - sizes * logs[sizes - 1]
    # A tail of equal values has no exponent.
    slopes = sizes / np.where(excess > 1e-9, excess, np.nan)
    misfits = [_misfit(logs[:n], slope) for n, slope in zip(sizes, slopes, strict=True)]
    if np.isnan(misfits).all():
        return np.nan, np.nan
    best = int(np.nanargmin(misfits))
    return 1 + slopes[best], slopes[best] / np.sqrt(sizes[best])


def _misfit(logs: Float[np.ndarray, " n"], slope: float) -> float:
    """Largest distance between the share of larger values and what the power law expects."""
    expected = np.exp(-slope * (logs - logs[-1]))
    ranks = np.arange(len(logs))
    return float(
        np.maximum(abs(expected - ranks / len(logs)), abs(expected - (ranks + 1) / len(logs))).max()
    )
