"""Ensembles: what averaging the probabilities of k networks gains over one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

SIZES = (2, 5, 10, 20)
GROUPS = 50


class Ensembled(NamedTuple):
    """Ensembles of one size, on average.

    Attributes:
        gain: accuracy of the ensembles − mean accuracy of their networks.
        accuracy: of the ensembles.
    """

    gain: float
    accuracy: float


def ensembled(
    probability: Float[np.ndarray, "n b k"],
    labels: Int[np.ndarray, " b"],
    sizes: Sequence[int] = SIZES,
    groups: int = GROUPS,
    seed: int = 0,
) -> dict[int, Ensembled]:
    """What ensembles of each size reach, and what they gain over their networks.

    Args:
        probability: of the classes, finite.
        labels: classes of the images.
        sizes: networks in an ensemble; one that there are too few networks for gives NaN.
        groups: random ensembles that are averaged over.
        seed: of the ensembles.

    Example:
        >>> sure, unsure = [[0.9, 0.1], [0.4, 0.6]], [[0.4, 0.6], [0.9, 0.1]]
        >>> ensembled(np.array([sure, unsure]), np.array([0, 0]), sizes=(2,))
        {2: Ensembled(gain=0.5, accuracy=1.0)}

    Reference:
        Lakshminarayanan, Pritzel and Blundell, Simple and scalable predictive uncertainty
        estimation using deep ensembles, 2017.
    """
    rng, count = np.random.default_rng(seed), len(probability)
    alone = (probability.argmax(axis=-1) == labels).mean(axis=-1)
    found = dict.fromkeys(sizes, Ensembled(float("nan"), float("nan")))
    for size in (size for size in sizes if size <= count):
        chosen = [rng.permutation(count)[:size] for _ in range(groups)]
        right = [probability[group].mean(axis=0).argmax(axis=-1) == labels for group in chosen]
        gains = [of.mean() - alone[group].mean() for of, group in zip(right, chosen, strict=True)]
        found[size] = Ensembled(float(np.mean(gains)), float(np.mean(right)))
    return found
