"""Thresholds as used on one zoo: taken from the rule, or estimated from the zoo's own cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from zoogen.phases.rules import CkaCut, ConnectivityCut, Cut, Cuts

RESAMPLES = 1000
QUANTILES = (0.05, 0.95)


@dataclass(frozen=True)
class Threshold:
    """A threshold as used on one zoo.

    Attributes:
        value: the number itself.
        method: ``fixed``, ``otsu`` or ``bootstrap`` (estimated on this zoo), or ``fallback``.
        low: 5 % quantile over resampled cells; ``value`` unless estimated.
        high: 95 % quantile.
        note: why this method, in words.
    """

    value: float
    method: str
    low: float
    high: float
    note: str


@dataclass(frozen=True)
class Point:
    """Mean measurements of each cell and the bootstrap error of its mean mode connectivity."""

    error: Float[np.ndarray, " cell"]
    mc: Float[np.ndarray, " cell"]
    cka: Float[np.ndarray, " cell"]
    mc_stderr: Float[np.ndarray, " cell"]


@dataclass(frozen=True)
class Estimated:
    """A threshold and what it would be on resampled cells (sorted; one value if not estimated)."""

    threshold: Threshold
    spread: Float[np.ndarray, " resample"]

    def above(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Share of resampled thresholds that each value reaches or passes."""
        return np.searchsorted(self.spread, values, side="right") / len(self.spread)


@dataclass(frozen=True)
class Thresholds:
    """All thresholds of one zoo; those of mode connectivity differ if they are estimated."""

    train_error: Estimated
    mc_underfitted: Estimated
    mc_fitted: Estimated
    cka: Estimated

    def named(self) -> dict[str, Threshold]:
        """Name → threshold; mode connectivity once where both sides share it."""
        if self.mc_fitted is self.mc_underfitted:
            connectivity = {"mode_connectivity": self.mc_fitted}
        else:
            connectivity = {
                "mode_connectivity_underfitted": self.mc_underfitted,
                "mode_connectivity_fitted": self.mc_fitted,
            }
        found = {"train_error": self.train_error, **connectivity, "cka": self.cka}
        return {name: one.threshold for name, one in found.items()}


def estimate_thresholds(cuts: Cuts, point: Point, rng: np.random.Generator) -> Thresholds:
    """The thresholds of a rule on the cells of one zoo."""
    fitted = point.error <= cuts.train_error.value
    underfitted = point.error > cuts.train_error.value
    if cuts.mode_connectivity.value is not None:
        shared = _fixed(cuts.mode_connectivity.value, cuts.mode_connectivity)
        sides = (shared, shared)
    else:
        sides = (
            _from_error(cuts.mode_connectivity, point.mc_stderr[underfitted], rng),
            _from_error(cuts.mode_connectivity, point.mc_stderr[fitted], rng),
        )
    fourth = fitted & (point.mc >= sides[1].threshold.value)
    return Thresholds(
        _fixed(cuts.train_error.value, cuts.train_error),
        *sides,
        _cka_threshold(cuts.cka, fourth, point.cka, rng),
    )


def _fixed(value: float, cut: Cut | ConnectivityCut | CkaCut) -> Estimated:
    return Estimated(Threshold(value, "fixed", value, value, cut.source), np.array([value]))


# --------------------------------------------------------------------------- mode connectivity
def _from_error(
    cut: ConnectivityCut, stderr: Float[np.ndarray, " cell"], rng: np.random.Generator
) -> Estimated:
    """A barrier is real where it exceeds its usual error: below ``-errors`` × median error."""
    known = np.sort(stderr[np.isfinite(stderr)])
    if known.size < 2:
        value, note = -cut.least, f"{known.size} cells with two pairs or more, an error needs 2"
        return Estimated(Threshold(value, "fallback", value, value, note), np.array([value]))
    resampled = np.median(rng.choice(known, (RESAMPLES, known.size)), axis=-1)
    spread = np.sort(-np.maximum(cut.errors * resampled, cut.least))
    middle = float(np.median(known))
    value = -max(cut.errors * middle, cut.least)
    note = (
        f"{cut.errors:g} × the median standard error {middle:.3g} of {known.size} cells, "
        f"at least {cut.least:g}"
    )
    return Estimated(Threshold(value, "bootstrap", *_interval(spread), note), spread)


def _interval(spread: Float[np.ndarray, " resample"]) -> tuple[float, float]:
    low, high = np.quantile(spread, QUANTILES)
    return float(low), float(high)


# ------------------------------------------------------------------------------------------ CKA
def _cka_threshold(
    cut: CkaCut,
    fourth: Bool[np.ndarray, " cell"],
    cka: Float[np.ndarray, " cell"],
    rng: np.random.Generator,
) -> Estimated:
    if cut.value is not None:
        return _fixed(cut.value, cut)
    values = np.sort(cka[fourth & ~np.isnan(cka)])
    estimate, note = _split(values, cut, rng)
    if estimate is None:
        fallback = float(cut.fallback or 0.0)
        threshold = Threshold(fallback, "fallback", fallback, fallback, note)
        return Estimated(threshold, np.array([fallback]))
    resampled = np.sort(rng.choice(values, (RESAMPLES, len(values))), axis=-1)
    spread, _ = otsu(resampled, cut.min_side)
    spread = np.sort(spread[~np.isnan(spread)])
    return Estimated(Threshold(estimate, "otsu", *_interval(spread), note), spread)


def _split(
    values: Float[np.ndarray, " cell"], cut: CkaCut, rng: np.random.Generator
) -> tuple[float | None, str]:
    """The threshold between two groups of sorted values, or ``None``; and why, in words.

    With a ``level`` the explained variance is compared with that of as many uniform numbers:
    among distributions with one hump a flat one looks most like two groups.
    """
    count = len(values)
    if count < cut.min_cells:
        return None, f"{count} IV cells, an estimate needs {cut.min_cells}"
    (best,), (explained,) = otsu(values[None], cut.min_side)
    found = f"{count} IV cells, a split explains {explained:.2f} of their variance"
    if cut.level is None:
        return (None, "no two IV cells differ") if np.isnan(best) else (float(best), found)
    null = np.sort(rng.uniform(size=(RESAMPLES, count)), axis=-1)
    needed = float(np.quantile(otsu(null, cut.min_side)[1], 1 - cut.level))
    if explained < needed:
        return None, f"{found}, two groups need {needed:.2f}"
    return float(best), f"{found} ({needed:.2f} needed)"


def otsu(
    values: Float[np.ndarray, "row n"], min_side: int
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Best split of each row of sorted values and the share of variance that it explains.

    Otsu (1979), *A threshold selection method from gray-level histograms*, on the values
    themselves instead of a histogram. The threshold lies half-way between the neighbours of the
    split; it is NaN where no split leaves ``min_side`` values on either side.
    """
    count = values.shape[-1]
    left = np.arange(1, count)
    centred = values - values.mean(-1, keepdims=True)
    between = np.cumsum(centred, -1)[:, :-1] ** 2 * count / (left * (count - left))
    allowed = (left >= min_side) & (count - left >= min_side) & (np.diff(values) > 0)
    between = np.where(allowed, between, -1.0)
    best = between.argmax(-1)
    row = np.arange(len(values))
    middle = (values[row, best] + values[row, best + 1]) / 2
    total = np.maximum((centred**2).sum(-1), 1e-300)
    none = ~allowed.any(-1)
    return np.where(none, np.nan, middle), np.where(none, 0.0, between[row, best] / total)
