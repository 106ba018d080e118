"""Ensembles: what averaging the probabilities of k networks gains over one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

SIZES = (2, 5, 10, 20)
GROUPS = 50


def ensemble_gains(
    probability: Float[np.ndarray, "n b k"],
    labels: Int[np.ndarray, " b"],
    sizes: Sequence[int] = SIZES,
    groups: int = GROUPS,
    seed: int = 0,
) -> dict[int, float]:
    """Accuracy of ensembles − mean accuracy of their networks, for each size.

    Args:
        probability: of the classes, finite.
        labels: classes of the images.
        sizes: networks in an ensemble; one that there are too few networks for gives NaN.
        groups: random ensembles that are averaged over.
        seed: of the ensembles.

    Example:
        >>> sure, unsure = [[0.9, 0.1], [0.4, 0.6]], [[0.4, 0.6], [0.9, 0.1]]
        >>> ensemble_gains(np.array([sure, unsure]), np.array([0, 0]), sizes=(2, 3))
        {2: 0.5, 3: nan}

    Reference:
        Lakshminarayanan, Pritzel and Blundell, Simple and scalable predictive uncertainty
        estimation using deep ensembles, 2017.
    """
    rng, count = np.random.default_rng(seed), len(probability)
    alone = (probability.argmax(axis=-1) == labels).mean(axis=-1)
    gains = {}
    for size in sizes:
        chosen = [rng.permutation(count)[:size] for _ in range(groups)] if size <= count else []
        found = [
            float((probability[group].mean(axis=0).argmax(axis=-1) == labels).mean())
            - float(alone[group].mean())
            for group in chosen
        ]
        gains[size] = float(np.mean(found)) if found else float("nan")
    return gains
