"""Intervals: how far apart two readers are, over test samples that might have been others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from zoogen.evaluate.problem import Kind

RESAMPLES, SEED = 1000, 0
_BOUNDS = (2.5, 97.5)  # percentiles: an interval of 95 %
_AT_ONCE = 512  # samples that are compared with all others together


class Interval(NamedTuple):
    """An interval of 95 %."""

    low: float
    high: float


def paired_difference(
    kind: Kind,
    targets: Float[np.ndarray, " n"],
    ours: Sequence[Float[np.ndarray, "n o"]],
    theirs: Sequence[Float[np.ndarray, "n o"]],
    units: Iterable[str],
) -> Interval:
    """Bootstrap interval of the main score of one reader minus that of another.

    Both are scored on the same resampled samples, each by its mean over seeds. Units are drawn as
    a whole, with replacement and as many as there are; draws are the same at every call.

    Args:
        kind: ``regression`` (Kendall's τ-b) or ``classification`` (accuracy).
        targets: numbers, or numbers of classes.
        ours: predictions of one reader, one a seed.
        theirs: those of the other.
        units: what each sample belongs to: its cell where a split is by cell.

    Reference:
        Efron, Bootstrap methods: another look at the jackknife, 1979.

    Example:
        >>> truth, cells = np.arange(6.0), list("aabbcc")
        >>> right, wrong = truth[:, None], -truth[:, None]
        >>> paired_difference("regression", truth, [right], [wrong], cells)
        Interval(low=2.0, high=2.0)
    """
    _, numbers = np.unique(np.array(list(units)), return_inverse=True)
    count = numbers.max() + 1
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    times = drawn[:, numbers].astype(np.float32)
    score = _accuracies if kind == "classification" else _rank_correlations
    means = [np.mean([score(targets, o, times) for o in of], axis=0) for of in (ours, theirs)]
    return Interval(*(float(bound) for bound in np.percentile(means[0] - means[1], _BOUNDS)))


def _accuracies(
    truth: Float[np.ndarray, " n"],
    outputs: Float[np.ndarray, "n k"],
    times: Float[np.ndarray, "r n"],
) -> Float[np.ndarray, " r"]:
    """Share of right samples of each resample, in which samples stand so many times."""
    right = outputs.argmax(axis=1) == truth.astype(int)
    return np.asarray(times @ right / times.sum(axis=1))


def _rank_correlations(
    truth: Float[np.ndarray, " n"],
    outputs: Float[np.ndarray, "n 1"],
    times: Float[np.ndarray, "r n"],
) -> Float[np.ndarray, " r"]:
    """Kendall's τ-b of each resample; 0 where all are equal."""
    sums = np.zeros((3, len(times)))
    for begin in range(0, len(truth), _AT_ONCE):
        rows = slice(begin, begin + _AT_ONCE)
        x, y = _orders(truth, rows), _orders(outputs[:, 0], rows)
        for total, pairs in zip(sums, (x * y, np.abs(x), np.abs(y)), strict=True):
            total += np.einsum("rm,rm->r", times[:, rows], times @ pairs.T, dtype=np.float64)
    agreement, untied, guessed = sums
    return agreement / np.maximum(np.sqrt(untied * guessed), 1)


def _orders(values: Float[np.ndarray, " n"], rows: slice) -> Float[np.ndarray, "m n"]:
    """Which of two is the larger, for some against all."""
    return np.sign(values[rows, None] - values).astype(np.float32)
