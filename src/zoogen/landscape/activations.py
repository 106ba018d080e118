"""Activation patterns: which hidden units are on, and what these codes tell inputs apart by.

Activations of a layer are arrays ``[n, unit, …]``, after the activation function; further axes
are positions of a map. A unit is on where it is above 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

REGIMES = ("under-expressive", "critically-expressive", "sufficiently-expressive")
"""What :func:`expressive_regime` counts."""


def activation_sparsity(activations: Float[Array, "n u *hw"]) -> Float[Array, " n"]:
    """Share of units and positions that are off on each example, in [0, 1].

    Example:
        >>> activation_sparsity(jnp.array([[0.0, 1.0], [0.0, 0.0]])).tolist()
        [0.5, 1.0]

    Reference:
        Glorot, Bordes and Bengio, Deep sparse rectifier neural networks, 2011.
    """
    others = tuple(range(1, activations.ndim))
    return _unless_nan(jnp.mean((activations <= 0).astype(jnp.float32), others), activations)


def dead_units(activations: Float[Array, "n u *hw"]) -> Float[Array, ""]:
    """Share of units that are off on every example and at every position, in [0, 1].

    Example:
        >>> float(dead_units(jnp.array([[0.0, 1.0], [0.0, 0.0]])))
        0.5

    Reference:
        Lu, Shin, Su and Karniadakis, Dying ReLU and initialization, 2020.
    """
    others = tuple(axis for axis in range(activations.ndim) if axis != 1)
    dead = jnp.all(activations <= 0, axis=others)
    return _unless_nan(jnp.mean(dead.astype(jnp.float32)), activations)


def _unless_nan(value: Float[Array, "*n"], *given: Array) -> Float[Array, "*n"]:
    return jnp.where(jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in given])), value, jnp.nan)


def activation_codes(layers: Sequence[Float[Array, "n _ *hw"]]) -> Bool[Array, "n bit"]:
    """One bit per hidden unit and position: on or off. Equal codes of a relu net: one linear map.

    Example:
        >>> activation_codes([jnp.array([[1.0, -1.0]]), jnp.array([[2.0]])]).tolist()
        [[True, False, True]]
    """
    return jnp.concatenate([(x > 0).reshape(x.shape[0], -1) for x in layers], axis=1)


def hamming_distance(a: Bool[Array, "n bit"], b: Bool[Array, "r bit"]) -> Float[Array, "n r"]:
    """Bits in which codes differ, all pairs (whole numbers in float32, exact below 2²⁴ bits).

    Example:
        >>> hamming_distance(jnp.array([[True, True]]), jnp.array([[True, False]])).tolist()
        [[1.0]]
    """
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return a.sum(axis=1)[:, None] + b.sum(axis=1) - 2 * (a @ b.T)


def code_uniqueness(
    distances: Float[Array, "n n"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """How well codes tell inputs apart.

    Args:
        distances: :func:`hamming_distance` of the codes to themselves.

    Returns:
        Share of inputs whose code no other input has, and redundancy: one minus the number of
        different codes over the number of inputs; both in [0, 1].

    Example:
        >>> codes = jnp.array([[True], [True], [False]])
        >>> [round(float(x), 3) for x in code_uniqueness(hamming_distance(codes, codes))]
        [0.333, 0.333]

    Reference:
        He, Lei, Ji and Tao, Neural networks behave as hash encoders: an empirical study, 2021.
    """
    sharers = jnp.sum((distances == 0).astype(jnp.float32), axis=1)
    return jnp.mean((sharers == 1).astype(jnp.float32)), 1 - jnp.mean(1 / sharers)


def knn_accuracy(
    distances: Real[Array, "n r"],
    known: Int[Array, " r"],
    labels: Int[Array, " n"],
    classes: int,
    neighbours: int = 5,
) -> Float[Array, ""]:
    """Accuracy of a vote among the nearest known examples, in [0, 1].

    Args:
        distances: from examples to known ones.
        known: classes of the known ones.
        labels: classes of the examples.
        classes: number of classes.
        neighbours: voters; at most r, and at most 20. Of equal votes, those of the nearest win.

    Example:
        >>> distances = jnp.array([[0.0, 9.0], [9.0, 0.0]])
        >>> float(knn_accuracy(distances, jnp.array([0, 1]), jnp.array([0, 0]), 2, neighbours=1))
        0.5

    Reference:
        Cover and Hart, Nearest neighbor pattern classification, 1967; on codes He et al., 2021.
    """
    _, nearest = jax.lax.top_k(-distances, neighbours)
    # All extras together stay below one vote, and each is above the sum of those behind it.
    ballots = 1 + 0.5 ** jnp.arange(1, neighbours + 1)
    chosen = known[nearest][..., None] == jnp.arange(classes)
    votes = jnp.sum(jnp.where(chosen, ballots[:, None], 0), axis=1)
    right = jnp.argmax(votes, axis=1) == labels
    return _unless_nan(jnp.mean(right.astype(jnp.float32)), distances)


def expressive_regime(
    redundancy: Float[np.ndarray, "*m"],
    accuracy: Float[np.ndarray, "*m"],
    reference: Float[np.ndarray, "*m"] | float,
    redundant: float = 0.05,
) -> Float[np.ndarray, "*m"]:
    """Place in the activation hash phase chart: an index of ``REGIMES``, or NaN.

    Under-expressive: codes are redundant. Critically expressive: every input has its own code,
    but codes do not sort inputs by class yet. Sufficiently expressive: they do.

    Args:
        redundancy: from :func:`code_uniqueness`, on the training probe set.
        accuracy: :func:`knn_accuracy` on codes, of the test probe set.
        reference: accuracy from which codes count as sorted; that of k-NN on the inputs
            themselves is one free of choice.
        redundant: redundancy above which codes count as redundant.

    Example:
        >>> expressive_regime(np.array([0.5, 0.0, 0.0]), np.array([0.9, 0.3, 0.9]), 0.8).tolist()
        [0.0, 1.0, 2.0]

    Reference:
        He, Lei, Ji and Tao, 2021, who draw the borders by eye; the thresholds are ours.
    """
    regime = np.where(redundancy > redundant, 0.0, np.where(accuracy < reference, 1.0, 2.0))
    return np.where(np.isfinite(redundancy) & np.isfinite(accuracy), regime, np.nan)
