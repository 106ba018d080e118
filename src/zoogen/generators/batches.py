"""Batches: many rows through one compiled program, some at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from zoogen.population import dealt_out

Tree = Any


def in_batches(run: Callable[..., Tree], arrays: tuple[np.ndarray, ...], batch: int) -> Tree:
    """Results for all rows; where there are several batches, the last one is filled with zeros.

    So one compilation serves all of them, and fewer rows than a batch take no more than they need.
    Rows of a batch are dealt out to all devices.

    Args:
        run: ``(number of the batch, *rows of arrays) → tree of arrays with as many rows``.
        arrays: with equally many rows, at least one.
        batch: rows that run side by side.

    Example:
        >>> in_batches(lambda number, x: x + 10 * number, (np.arange(5),), 2).tolist()
        [0, 1, 12, 13, 24]
    """
    parts = []
    for number, start in enumerate(range(0, len(arrays[0]), batch)):
        some = [array[start : start + batch] for array in arrays]
        kept = len(some[0])
        missing = batch - kept if start else 0
        filled = [np.pad(a, ((0, missing), *[(0, 0)] * (a.ndim - 1))) for a in some]
        found = run(number, *dealt_out(filled))
        parts.append(jax.tree.map(lambda leaf, kept=kept: np.asarray(leaf)[:kept], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
