"""The vote: resampled seeds and pairs of a cell each name a phase; their shares are the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from zoogen.phases.thresholds import Point, Thresholds


@dataclass(frozen=True)
class Draws:
    """How often each resample holds each seed and each pair, and the resample's probability.

    All cells share the resamples, so that a label does not depend on the order of cells.
    """

    seeds: Float[np.ndarray, "draw seed"]
    columns: Float[np.ndarray, "draw pair"]
    weight: Float[np.ndarray, " draw"]


def draw(seeds: int, columns: int, pairs: Any, bootstrap: int, rng: np.random.Generator) -> Draws:
    """Resamples of the seeds, drawn with replacement, and of the pairs that they make.

    Args:
        seeds: seeds per cell.
        columns: pairs per cell.
        pairs: the two seeds of each pair column, or None: pairs are resampled on their own.
        bootstrap: most resamples; few seeds are enumerated exactly instead.
        rng: source of the resamples.
    """
    if pairs is not None:
        counts, weight = _resample_seeds(seeds, bootstrap, rng)
        first, second = np.asarray(pairs, dtype=int).T
        # A seed drawn twice makes no pair with itself: that pair is undefined.
        return Draws(counts, counts[:, first] * counts[:, second], weight)
    draws = [
        rng.multinomial(n, np.full(n, 1 / n), size=bootstrap).astype(float)
        if n
        else np.zeros((bootstrap, 0))
        for n in (seeds, columns)
    ]
    return Draws(draws[0], draws[1], np.full(bootstrap, 1 / bootstrap))


def _resample_seeds(
    seeds: int, bootstrap: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "draw seed"], Float[np.ndarray, " draw"]]:
    if math.comb(2 * seeds - 1, seeds) > bootstrap:
        counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=bootstrap)
        return counts.astype(float), np.full(bootstrap, 1 / bootstrap)
    multisets = combinations_with_replacement(range(seeds), seeds)
    counts = np.array([np.bincount(m, minlength=seeds) for m in multisets], dtype=float)
    orders = [math.factorial(seeds) / math.prod(map(math.factorial, map(int, c))) for c in counts]
    return counts, np.array(orders) / seeds**seeds


def mean(values: Float[np.ndarray, "cell column"]) -> Float[np.ndarray, " cell"]:
    """Mean over what was measured; NaN where nothing was."""
    return weighted(values, np.ones((1, values.shape[1])), np.full(len(values), np.nan))[0]


def weighted(
    values: Float[np.ndarray, "cell column"],
    weights: Float[np.ndarray, "draw column"],
    otherwise: Float[np.ndarray, " cell"],
) -> Float[np.ndarray, "draw cell"]:
    """Weighted means over what was measured; ``otherwise`` where it has no weight."""
    measured = ~np.isnan(values)
    total = weights @ measured.T
    summed = weights @ np.where(measured, values, 0.0).T
    return np.where(total > 0, summed / np.maximum(total, 1e-300), otherwise)


def replicated(values: Float[np.ndarray, "cell pair"]) -> Any:
    """Whether a cell has two measured pairs or more."""
    return (~np.isnan(values)).sum(1) >= 2


def standard_error(
    values: Float[np.ndarray, "cell pair"], draws: Draws
) -> Float[np.ndarray, " cell"]:
    """Bootstrap error of each cell's mean over pairs; NaN with fewer than two pairs."""
    resampled = weighted(values, draws.columns, mean(values))
    centre = draws.weight @ np.nan_to_num(resampled)
    spread = draws.weight @ (np.nan_to_num(resampled) - centre) ** 2
    return np.where(replicated(values), np.sqrt(spread), np.nan)


def vote(
    error: Float[np.ndarray, "cell seed"],
    mc: Float[np.ndarray, "cell pair"],
    cka: Float[np.ndarray, "cell pair"],
    point: Point,
    thresholds: Thresholds,
    draws: Draws,
) -> Float[np.ndarray, "cell phase"]:
    """Share of resamples that vote for each phase; NaN rows where too little was measured.

    A cell's own resamples and those of estimated thresholds are taken as independent, so that
    the share of IV-B is the share of thresholds at or below the resampled CKA, and so on.
    """
    errors = weighted(error, draws.seeds, point.error)
    mcs = weighted(mc, draws.columns, point.mc)
    ckas = weighted(cka, draws.columns, point.cka)
    measured = ~(np.isnan(errors) | np.isnan(mcs))
    under = measured * (errors > thresholds.train_error.threshold.value)
    fit = measured * 1.0 - under
    open_under, open_fit = (t.above(mcs) for t in (thresholds.mc_underfitted, thresholds.mc_fitted))
    alike, known = thresholds.cka.above(ckas), ~np.isnan(ckas)
    fourth = fit * open_fit * known
    votes = [
        under * (1 - open_under),
        under * open_under,
        fit * (1 - open_fit),
        fourth * (1 - alike),
        fourth * alike,
    ]
    shares = np.stack([draws.weight @ share for share in votes], axis=-1)
    return np.where(replicated(mc)[:, None], shares, np.nan)


def decide(point: Point, thresholds: Thresholds) -> Int[np.ndarray, " cell"]:
    """The rule on the means: index into ``PHASES``, −1 where a needed measurement is missing."""
    under = point.error > thresholds.train_error.threshold.value
    cut = np.where(
        under, thresholds.mc_underfitted.threshold.value, thresholds.mc_fitted.threshold.value
    )
    barrier = point.mc < cut
    cases = [
        (np.isnan(point.error) | np.isnan(point.mc), -1),
        (under & barrier, 0),
        (under, 1),
        (barrier, 2),
        (np.isnan(point.cka), -1),
        (point.cka < thresholds.cka.threshold.value, 3),
    ]
    return np.select([case for case, _ in cases], [code for _, code in cases], 4)
