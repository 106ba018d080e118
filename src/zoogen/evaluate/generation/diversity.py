"""Diversity: how much networks differ from each other, beside how much real members do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from zoogen.evaluate.generation.behaviour import wrong_overlap
from zoogen.evaluate.generation.neighbours import Known, aligned_distances
from zoogen.params import ParamSpec

PAIRS = 1000


@dataclass(frozen=True)
class Diversity:
    """Generated ÷ real; 1 is ideal, and NaN stands where there are fewer than two networks.

    Attributes:
        distance_ratio: of the mean distances of pairs, units matched; near 0 for a generator that
            makes one network over and over.
        overlap_ratio: of the mean overlaps of wrong predictions of pairs; above 1 where functions
            are less diverse than real ones.
        rank_ratio: of the effective ranks of the spread in the common frame, from equally many
            networks of each.
        spread_ratio: parameter → ratio of the standard deviations over networks, in the common
            frame.
        size_ratio: parameter → ratio of the root mean squares; below 1 where weights shrink, as
            those of averages do.
    """

    distance_ratio: float
    overlap_ratio: float
    rank_ratio: float
    spread_ratio: Mapping[str, float]
    size_ratio: Mapping[str, float]


def diversity(spec: ParamSpec, generated: Known, real: Known, seed: int = 0) -> Diversity:
    """Compare how much generated networks differ with how much real ones do.

    Args:
        spec: of the networks.
        generated: finite networks.
        real: held-out members.
        seed: of the pairs, ``PAIRS`` of each side at most.
    """
    count = min(len(generated.placed), len(real.placed))
    if count < 2:
        nan = float("nan")
        empty = {p.name: nan for p in spec.parameters}
        return Diversity(nan, nan, nan, empty, dict(empty))
    sides = (generated, real)
    distance, overlap, rank = (
        [_distance(spec, side, seed) for side in sides],
        [_overlap(side) for side in sides],
        [effective_rank(side.placed[:count]) for side in sides],
    )
    return Diversity(
        _over(*distance), _over(*overlap), _over(*rank),
        _per_parameter(spec, generated.placed, real.placed, _spread),
        _per_parameter(spec, generated.placed, real.placed, _size),
    )  # fmt: skip


def effective_rank(values: Float[np.ndarray, "n p"]) -> float:
    """Exponential of the entropy of the shares that principal directions have in the variance.

    Between 1 and n − 1; 0 where all are equal. It grows with the number of networks: compare
    equal numbers only.

    Example:
        >>> round(effective_rank(np.eye(4)), 6)
        3.0

    Reference:
        Roy and Vetterli, The effective rank: a measure of effective dimensionality, 2007, on the
        eigenvalues of the covariance.
    """
    centred = values - values.mean(axis=0, dtype=np.float64)
    variance = np.clip(np.linalg.eigvalsh(centred @ centred.T), 0, None)
    noise = 1e-12 * float(np.square(values, dtype=np.float64).sum())
    if variance.sum() <= noise:
        return 0.0
    shares = variance[variance > noise / len(values)] / variance.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def random_pairs(count: int, limit: int, seed: int) -> Int[np.ndarray, "q 2"]:
    """Different pairs of ``count`` things: all, or ``limit`` random ones."""
    pairs = np.stack(np.triu_indices(count, 1), axis=1) if count <= 2 * limit else None
    rng = np.random.default_rng(seed)
    if pairs is None:  # too many to list; one drawn twice is no harm
        first = rng.integers(0, count, limit)
        return np.stack([first, (first + rng.integers(1, count, limit)) % count], axis=1)
    return pairs if len(pairs) <= limit else pairs[rng.permutation(len(pairs))[:limit]]


def _distance(spec: ParamSpec, side: Known, seed: int) -> float:
    pairs = random_pairs(len(side.placed), PAIRS, seed)
    return float(aligned_distances(spec, side.placed, side.placed, pairs).mean())


def _overlap(side: Known) -> float:
    count = len(side.wrong)
    pairs = wrong_overlap(side.wrong, side.wrong)
    return float((pairs.sum() - count) / (count * (count - 1)))


def _per_parameter(
    spec: ParamSpec, generated: np.ndarray, real: np.ndarray, of: Callable[[np.ndarray], float]
) -> dict[str, float]:
    parts, others = spec.unflatten(generated), spec.unflatten(real)
    return {p.name: _over(of(parts[p.name]), of(others[p.name])) for p in spec.parameters}


def _spread(values: Float[np.ndarray, "n ..."]) -> float:
    return float(np.sqrt(values.var(axis=0, dtype=np.float64).mean()))


def _size(values: Float[np.ndarray, "n ..."]) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else float("nan")
