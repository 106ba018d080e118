"""Spectrum of a matrix from its Lanczos forms: both ends with error bounds, and its density.

On the host in double precision: the forms are small, and an eigensolver inside a program would
take half of its compile time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

Form = Float[np.ndarray, "*m k"]


class Extremes(NamedTuple):
    """Both ends of a spectrum; an eigenvalue lies within the residual of each value.

    Attributes:
        top: largest values, descending.
        top_residual: norms of ``A u - top u`` for their unit vectors ``u``.
        lowest: smallest (algebraic) value; below 0 where there is negative curvature.
        lowest_residual: likewise.
    """

    top: Float[np.ndarray, "*m top"]
    top_residual: Float[np.ndarray, "*m top"]
    lowest: Float[np.ndarray, "*m"]
    lowest_residual: Float[np.ndarray, "*m"]


def ritz_extremes(alpha: Form, beta: Form, top: int) -> Extremes:
    """Largest eigenvalues and the smallest one, with residuals in the full space.

    Args:
        alpha, beta: as :func:`zoogen.landscape.curvature.lanczos` returns them.
        top: how many of the largest; at most the number of steps.

    Returns:
        Signed values in the unit of the matrix; NaN for a form that is not finite. A repeated
        eigenvalue of the matrix appears once.

    Example:
        >>> ends = ritz_extremes(np.array([2.0, -1.0, 5.0]), np.zeros(3), top=2)
        >>> ends.top.tolist(), float(ends.lowest)
        ([5.0, 2.0], -1.0)

    Reference:
        Parlett, The symmetric eigenvalue problem, 1998, chapter 13.
    """
    values, vectors, finite = _eigensystem(alpha, beta)
    residuals = np.abs(np.asarray(beta, np.float64)[..., -1:] * vectors[..., -1, :])
    values, residuals = (np.where(finite[..., None], x, np.nan) for x in (values, residuals))
    return Extremes(
        values[..., : -top - 1 : -1], residuals[..., : -top - 1 : -1],
        values[..., 0], residuals[..., 0],
    )  # fmt: skip


def quadrature(alpha: Form, beta: Form) -> tuple[Form, Form]:
    """Nodes and weights of Gauss quadrature over the spectrum, as a start vector sees it.

    For a start vector ``v`` the weighted sum of ``f(node)`` estimates ``vᵀ f(A) v / vᵀ v``; it is
    exact for polynomials of degree below twice the number of steps. Averaged over random
    directions it estimates ``tr f(A) / p``.

    Args:
        alpha, beta: as :func:`zoogen.landscape.curvature.lanczos` returns them.

    Returns:
        Nodes in the unit of the matrix, ascending, and weights, at least 0, of sum 1; NaN for a
        form that is not finite.

    Example:
        >>> nodes, weights = quadrature(np.array([3.0, 3.0]), np.array([1.0, 0.0]))
        >>> nodes.round(6).tolist(), weights.round(6).tolist()
        ([2.0, 4.0], [0.5, 0.5])

    Reference:
        Golub and Welsch, Calculation of Gauss quadrature rules, 1969; Ubaru, Chen and Saad, Fast
        estimation of tr(f(A)) via stochastic Lanczos quadrature, 2017.
    """
    values, vectors, finite = _eigensystem(alpha, beta)
    weights = vectors[..., 0, :] ** 2
    return np.where(finite[..., None], values, np.nan), np.where(finite[..., None], weights, np.nan)


def spectral_moment(
    nodes: Float[np.ndarray, "*m k"], weights: Float[np.ndarray, "*m k"], order: int
) -> Float[np.ndarray, "*m"]:
    """Moment of the spectrum per start vector; its mean over them estimates ``tr(Aⁿ) / p``.

    Args:
        nodes, weights: from :func:`quadrature`.
        order: the power n.

    Example:
        >>> float(spectral_moment(np.array([2.0, 4.0]), np.array([0.5, 0.5]), 2))
        10.0
    """
    return np.sum(weights * nodes**order, axis=-1)


def spectral_density(
    nodes: Float[np.ndarray, "*m v k"],
    weights: Float[np.ndarray, "*m v k"],
    grid: Float[np.ndarray, " g"],
    width: float,
) -> Float[np.ndarray, "*m g"]:
    """Density of eigenvalues on a grid: Gaussians on the nodes, averaged over start vectors.

    Args:
        nodes, weights: from :func:`quadrature`, one row per start vector.
        grid: eigenvalues at which to evaluate.
        width: standard deviation of the Gaussians, in the unit of the eigenvalues.

    Returns:
        At least 0, of integral 1 where the grid spans the spectrum; NaN if a node is.

    Reference:
        Ghorbani, Krishnan and Xiao, An investigation into neural net optimization via Hessian
        eigenvalue density, 2019.
    """
    flat = (*nodes.shape[:-2], -1, 1)
    distance = (grid - nodes.reshape(flat)) / width
    kernel = np.exp(-(distance**2) / 2) / (width * np.sqrt(2 * np.pi))
    return np.sum(weights.reshape(flat) * kernel, axis=-2) / nodes.shape[-2]


def _eigensystem(
    alpha: Form, beta: Form
) -> tuple[Form, Float[np.ndarray, "*m k k"], Bool[np.ndarray, "*m"]]:
    """Eigenvalues and vectors of tridiagonal forms, and which forms are finite."""
    alpha, beta = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    finite = np.isfinite(alpha).all(-1) & np.isfinite(beta).all(-1)
    i = np.arange(alpha.shape[-1])
    form = np.zeros((*alpha.shape, len(i)))
    form[..., i, i] = np.where(finite[..., None], alpha, 0)
    lower = np.where(finite[..., None], beta, 0)[..., :-1]
    form[..., i[1:], i[:-1]] = lower  # eigh reads the lower triangle
    values, vectors = np.linalg.eigh(form)
    return values, vectors, finite
