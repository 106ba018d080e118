"""Neural collapse: how far features of the last hidden layer have shrunk to a class simplex."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_NEGLIGIBLE = 1e-10  # of the largest eigenvalue: single precision holds nothing below


class ClassStatistics(NamedTuple):
    """What a program takes of one member's features.

    Attributes:
        means: of each class; NaN for a class without an example.
        within: covariance within classes, every class counted alike.
        disagreement: share of examples whose nearest class mean is not the predicted class.
    """

    means: Float[Array, "k d"]
    within: Float[Array, "d d"]
    disagreement: Float[Array, ""]


def class_statistics(
    features: Float[Array, "n d"], logits: Float[Array, "n k"], labels: Int[Array, " n"]
) -> ClassStatistics:
    """Class means, scatter within classes and nearest-mean decisions, in JAX.

    Args:
        features: what enters the last layer.
        logits: what leaves it.
        labels: classes, as trained on.
    """
    chosen = (labels[:, None] == jnp.arange(logits.shape[1])).astype(features.dtype)
    counts = chosen.sum(axis=0)
    means = (chosen.T @ features) / counts[:, None]
    present = counts > 0
    filled = jnp.where(present[:, None], means, 0)
    deviations = features - filled[labels]
    share = 1 / (present.sum() * counts[labels])  # of an example: every class weighs the same
    within = (deviations * share[:, None]).T @ deviations
    # |h - mean|² up to |h|², which is the same for all classes.
    distance = jnp.sum(filled**2, axis=1) - 2 * features @ filled.T
    nearest = jnp.argmin(jnp.where(present, distance, jnp.inf), axis=1)
    disagreement = jnp.mean((nearest != jnp.argmax(logits, axis=1)).astype(features.dtype))
    return ClassStatistics(means, within, disagreement)


class Collapse(NamedTuple):
    """The four properties of neural collapse, all 0 at full collapse.

    Attributes:
        variability: NC1, ``tr(Σ_within pinv(Σ_between)) / K``, at least 0.
        norm_spread: NC2, standard deviation over mean of the lengths of centred class means.
        angle_spread: NC2, standard deviation of the cosines between them, in [0, 1].
        angle_excess: NC2, mean of ``|cos + 1/(K-1)|``: distance from the widest possible angles.
        duality: NC3, squared distance between classifier and centred class means, both of
            Frobenius norm 1, in [0, 4].
        disagreement: NC4, share of examples that a nearest-class-mean rule classifies otherwise
            than the network, in [0, 1].
    """

    variability: Float[np.ndarray, "*m"]
    norm_spread: Float[np.ndarray, "*m"]
    angle_spread: Float[np.ndarray, "*m"]
    angle_excess: Float[np.ndarray, "*m"]
    duality: Float[np.ndarray, "*m"]
    disagreement: Float[np.ndarray, "*m"]


def neural_collapse(
    means: Float[np.ndarray, "*m k d"],
    within: Float[np.ndarray, "*m d d"],
    disagreement: Float[np.ndarray, "*m"],
    classifier: Float[np.ndarray, "*m k d"],
) -> Collapse:
    """NC1 to NC4 from what :func:`class_statistics` took, on the host.

    Args:
        means, within, disagreement: of features on the training probe set.
        classifier: weight of the last layer.

    Returns:
        A :class:`Collapse`, without unit; NaN where a class has no example, a value is not
        finite, or all class means are equal.

    Reference:
        Papyan, Han and Donoho, Prevalence of neural collapse during the terminal phase of deep
        learning training, 2020. With unequal classes each class counts alike here.
    """
    means, within, classifier = (np.asarray(x, np.float64) for x in (means, within, classifier))
    disagreement = np.asarray(disagreement, np.float64)
    centred = means - means.mean(axis=-2, keepdims=True)
    lengths = np.linalg.norm(centred, axis=-1)
    collapsed = lengths.max(axis=-1) <= 1e-7 * np.abs(means).max(axis=(-2, -1))  # to a point
    finite = np.isfinite(means).all((-2, -1)) & np.isfinite(within).all((-2, -1))
    usable = finite & np.isfinite(classifier).all((-2, -1)) & ~collapsed
    centred, within = (np.where(usable[..., None, None], x, 0) for x in (centred, within))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (
            _variability(centred, within),
            lengths.std(axis=-1) / lengths.mean(axis=-1),
            *_angles(centred),
            _duality(centred, classifier),
            disagreement,
        )
    return Collapse(*(np.where(usable, each, np.nan) for each in found))


def _variability(
    centred: Float[np.ndarray, "*m k d"], within: Float[np.ndarray, "*m d d"]
) -> np.ndarray:
    classes = centred.shape[-2]
    between = np.swapaxes(centred, -2, -1) @ centred / classes
    inverse = np.linalg.pinv(between, rcond=_NEGLIGIBLE, hermitian=True)
    return np.einsum("...ij,...ji->...", within, inverse) / classes


def _angles(centred: Float[np.ndarray, "*m k d"]) -> tuple[np.ndarray, np.ndarray]:
    unit = centred / np.linalg.norm(centred, axis=-1, keepdims=True)
    classes = centred.shape[-2]
    cosines = (unit @ np.swapaxes(unit, -2, -1))[..., *np.triu_indices(classes, 1)]
    return cosines.std(axis=-1), np.abs(cosines + 1 / (classes - 1)).mean(axis=-1)


def _duality(
    centred: Float[np.ndarray, "*m k d"], classifier: Float[np.ndarray, "*m k d"]
) -> np.ndarray:
    a, b = (x / np.linalg.norm(x, axis=(-2, -1), keepdims=True) for x in (centred, classifier))
    return np.sum((a - b) ** 2, axis=(-2, -1))
