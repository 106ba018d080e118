"""Copying: whether networks lie nearer to training members than real unseen members do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from zoogen.evaluate.generation.neighbours import Nearest

DUPLICATE = 0.5  # of the held-out median; distances of independent runs concentrate far above


@dataclass(frozen=True)
class Copying:
    """Generated networks beside held-out members, both against the training members.

    Attributes:
        zu: see :func:`zu_score`; far below 0 for copies, about 0 for what is as far from the
            training members as real members are.
        distance_ratio: median distance to the nearest training member, generated ÷ held-out.
        duplicates: share of the generated whose nearest training member is nearer than
            ``DUPLICATE`` times the held-out median.
        overlap, overlap_held_out: mean over networks of the largest overlap of wrong predictions
            with a training member, on the view that the gate uses.
        plain_overlap, plain_overlap_held_out: the same on the test images as they are.
        functional_ratio: median smallest distance of functions, generated ÷ held-out.
        functional_zu: the score of these distances.
    """

    zu: float
    distance_ratio: float
    duplicates: float
    overlap: float
    overlap_held_out: float
    plain_overlap: float
    plain_overlap_held_out: float
    functional_ratio: float
    functional_zu: float


def copying(generated: Nearest, held_out: Nearest) -> Copying:
    """Compare neighbours of generated networks with those of held-out members.

    Args:
        generated: nearest training members of the generated networks; finite ones alone.
        held_out: nearest training members of the held-out ones.
    """
    return Copying(
        zu=zu_score(generated.distance, held_out.distance),
        distance_ratio=_ratio(generated.distance, held_out.distance),
        duplicates=_mean(relative_distances(generated, held_out) < DUPLICATE),
        overlap=_mean(generated.overlap),
        overlap_held_out=_mean(held_out.overlap),
        plain_overlap=_mean(generated.plain),
        plain_overlap_held_out=_mean(held_out.plain),
        functional_ratio=_ratio(generated.functional, held_out.functional),
        functional_zu=zu_score(generated.functional, held_out.functional),
    )


def relative_distances(generated: Nearest, held_out: Nearest) -> Float[np.ndarray, " n"]:
    """Distance of each network to its nearest training member ÷ the held-out median."""
    return generated.distance / _positive(np.median(held_out.distance))


def zu_score(generated: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"]) -> float:
    """Mann–Whitney z of generated against real distances to the training members.

    U counts the pairs in which the generated one is farther, ties half;
    z = (U − mn/2) / √(mn(m + n + 1)/12). Far below 0: generated networks are nearer to the
    training members than real ones, they are copies. Its size grows with the root of the number
    of networks: compare scores of equal numbers only. NaN where a side is empty.

    Example:
        >>> near, far = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
        >>> round(zu_score(near, far), 2), round(zu_score(far, near), 2)
        (-1.96, 1.96)

    Reference:
        Meehan, Chaudhuri and Dasgupta, A non-parametric test to detect data-copying in generative
        models, 2020; Mann and Whitney, 1947.
    """
    n, m = len(generated), len(real)
    if not n or not m:
        return float("nan")
    ranks = rankdata(np.concatenate([generated, real]))
    farther = ranks[:n].sum() - n * (n + 1) / 2
    return float((farther - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))


def _ratio(generated: np.ndarray, real: np.ndarray) -> float:
    if not generated.size or not real.size:
        return float("nan")
    return float(np.median(generated) / _positive(np.median(real)))


def _positive(value: np.floating) -> float:
    """NaN in place of 0: held-out members that are copies leave nothing to compare with."""
    return float(value) if value > 0 else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
