"""Standard scale: what a model reads, with zero mean and unit deviation in the training data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from zoogen.errors import ConfigError
from zoogen.models.leaves import Leaf, leaves_of, unfold
from zoogen.params import ParamSpec


class Standard(NamedTuple):
    """Statistics of training data, equal within each orbit of entries.

    Attributes:
        mean: of every entry.
        deviation: of every entry; one where an orbit is constant.
    """

    mean: Float[np.ndarray, " p"]
    deviation: Float[np.ndarray, " p"]


def fit_standard(spec: ParamSpec, weights: Float[np.ndarray, "m p"]) -> Standard:
    """Mean and deviation of training weights, over members and over entries of an orbit.

    Statistics per entry would tell units apart by their place, and a model that reads weights
    standardised in that way is not equivariant. Entries that a permutation can exchange
    therefore share their statistics: all incoming weights of one input, all of one kernel
    position, all biases of a layer.

    Args:
        spec: of the networks; of a model with permutable inputs and outputs, what
            :func:`~zoogen.models.permutable_terminals` makes of it.
        weights: of the training members alone; finite.

    Raises:
        ConfigError: if a member's weights are not finite, or there is none.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(2, "hidden"), Axis(2))})
        >>> fit_standard(spec, np.array([[1.0, 10.0, 3.0, 10.0]])).mean.tolist()
        [2.0, 10.0, 2.0, 10.0]
    """
    weights = np.asarray(weights)
    if not len(weights) or not np.isfinite(weights).all():
        raise ConfigError(
            f"standard scale: expected finite weights of at least one member, found "
            f"{len(weights)} members, {int((~np.isfinite(weights)).any(axis=1).sum())} of them "
            "not finite; leave diverged members out"
        )
    orbits = entry_orbits(spec)
    mean = _orbit_means(orbits, weights.mean(axis=0, dtype=np.float64))
    variance = _orbit_means(orbits, np.square(weights - mean).mean(axis=0))
    deviation = np.where(variance > 0, np.sqrt(variance), 1)
    return Standard(mean.astype(weights.dtype), deviation.astype(weights.dtype))


def standardise(standard: Standard, weights: Float[Any, "*m p"]) -> Any:
    """Weights on the standard scale, NumPy or JAX."""
    return (weights - standard.mean) / standard.deviation


def entry_orbits(spec: ParamSpec) -> Int[np.ndarray, " p"]:
    """Number of the orbit of every entry: equal where a permutation can exchange two entries.

    Example:
        >>> from zoogen.params import Axis
        >>> recurrent = ParamSpec.build({"weight": (Axis(2, "state"), Axis(2, "state"))})
        >>> entry_orbits(recurrent).tolist()
        [1, 0, 0, 1]
    """
    leaves, begin, orbits = leaves_of(spec), 0, {}
    for leaf in leaves:
        patterns = _patterns(leaf)[..., None] * leaf.fixed + np.arange(leaf.fixed)
        _, inside = np.unique(patterns, return_inverse=True)
        orbits[leaf.name] = begin + inside.reshape(1, *leaf.sizes, leaf.fixed)
        begin += inside.max(initial=-1) + 1
    result: Int[np.ndarray, " p"] = unfold(leaves, orbits).reshape(-1)
    return result


def _patterns(leaf: Leaf) -> Int[np.ndarray, " *slots"]:
    """One bit per pair of slots of one group: whether they hold the same unit."""
    units = np.indices(leaf.sizes)
    patterns = np.zeros(leaf.sizes, int)
    for j, slot in enumerate(leaf.slots):
        for i, other in enumerate(leaf.slots[:j]):
            if other.group == slot.group:
                same = units[i] == units[j]
                if slot.parent is not None and other.parent is not None:
                    same &= units[other.parent] == units[slot.parent]
                patterns = 2 * patterns + same
    return patterns


def _orbit_means(
    orbits: Int[np.ndarray, " p"], values: Float[np.ndarray, " p"]
) -> Float[np.ndarray, " p"]:
    means = np.bincount(orbits, values) / np.bincount(orbits)
    return means[orbits]
