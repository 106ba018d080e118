"""Exact assignments of units to units, many at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment


def assign(similarity: Float[np.ndarray, "q n n"]) -> Int[np.ndarray, "q n"]:
    """For every pair, the order of columns of largest total similarity.

    Where the best columns of all rows differ they are the optimum, so that only the other pairs
    need a solver (Jonker & Volgenant's, as SciPy has it). That settles most of them: pairs that
    are alike, and pairs whose matching has settled already.

    Args:
        similarity: of unit i (row) and unit j (column); finite.

    Returns:
        Column of each row; each column once.

    Example:
        >>> assign(np.array([[[3.0, 2.0], [2.0, 0.0]]])).tolist()
        [[1, 0]]
    """
    order = similarity.argmax(axis=-1)
    units = np.arange(order.shape[-1])
    undecided = (np.sort(order, axis=-1) != units).any(axis=-1)
    for pair in np.flatnonzero(undecided):
        order[pair] = linear_sum_assignment(similarity[pair], maximize=True)[1]
    return order


def best_order(
    similarity: Float[np.ndarray, "q n n"], signed: bool
) -> tuple[Int[np.ndarray, "q n"], Float[np.ndarray, "q n"] | None]:
    """The order of largest similarity; of units with a sign, by magnitude, and the signs."""
    if not signed:
        return assign(similarity), None
    order = assign(np.abs(similarity))
    return order, np.where(picked(similarity, order) < 0, -1, 1).astype(np.float32)


def picked(similarity: Float[np.ndarray, "q n n"], order: Int[np.ndarray, "q n"]) -> np.ndarray:
    """Similarity ``[q, n]`` of each row to its column."""
    return np.take_along_axis(similarity, order[..., None], axis=-1)[..., 0]
