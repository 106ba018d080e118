"""Labels: measurements of cells, checked, to phases with a confidence and a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from zoogen.errors import ConfigError
from zoogen.phases.rules import PHASES, Rule, load_rule
from zoogen.phases.thresholds import Point, Threshold, estimate_thresholds
from zoogen.phases.vote import decide, draw, mean, standard_error, vote

_I, _II, _III, _IVA, _IVB = range(5)
_NONE = -1

BEFORE = "_before_annealing"
"""Ends the names of columns that hold labels at the snapshot before annealing."""


@dataclass(frozen=True)
class Labels:
    """What :func:`label` found.

    Attributes:
        phase: class of each cell, one of :data:`CLASSES`.
        confidence: top share of the bootstrap vote; for failed cells the share of members that
            failed; NaN where a cell has no phase or too few pairs for a vote.
        shares: share of the vote per cell and phase, in the order of :data:`PHASES`; rows of
            cells without a vote are NaN.
        reason: why, in words, per cell.
        members: class of each member ``[cell, seed]``: ``failed`` if it failed itself, else its
            cell's; empty text where there is no member.
        thresholds: name → :class:`Threshold`.
        rule: name of the rule.
        rule_version: its version.
        rule_sha256: hash of its content.
    """

    phase: Shaped[np.ndarray, " cell"]
    confidence: Float[np.ndarray, " cell"]
    shares: Float[np.ndarray, "cell phase"]
    reason: tuple[str, ...]
    members: Shaped[np.ndarray, "cell seed"]
    thresholds: Mapping[str, Threshold]
    rule: str
    rule_version: int
    rule_sha256: str

    def provenance(self) -> dict[str, Any]:
        """Rule and thresholds as plain JSON data, to store beside the labels."""
        return {
            "rule": self.rule,
            "version": self.rule_version,
            "sha256": self.rule_sha256,
            "thresholds": {name: asdict(cut) for name, cut in self.thresholds.items()},
        }


@dataclass(frozen=True)
class _Measured:
    """Checked measurements ``[cell, seed]`` and ``[cell, pair]``; NaN where nothing counts."""

    error: Float[np.ndarray, "cell seed"]
    mc: Float[np.ndarray, "cell pair"]
    cka: Float[np.ndarray, "cell pair"]
    present: Bool[np.ndarray, "cell seed"]
    failed: Bool[np.ndarray, "cell seed"]

    def counts(self) -> Int[np.ndarray, "cell 2"]:
        """Failed members and all members of each cell."""
        return np.stack([self.failed.sum(1), self.present.sum(1)], axis=1)


def label(
    train_error: Float[np.ndarray, " cell *seed"],
    mode_connectivity: Float[np.ndarray, " cell *pair"],
    cka: Float[np.ndarray, " cell *pair"],
    rule: str | Path | Rule = "taxonomy",
    *,
    failed: Bool[np.ndarray, " cell *seed"] | None = None,
    chance_error: float | None = None,
    pairs: Int[np.ndarray, "pair 2"] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Labels:
    """Label cells, each by the bootstrap vote over its seeds and pairs of seeds.

    Args:
        train_error: percent (0 to 100), per cell or per cell and seed; NaN: no such member.
        mode_connectivity: percentage points of train error, negative for a barrier, per cell or
            per cell and pair of seeds; NaN: not measured.
        cka: linear CKA of the logits (at most 1), shaped like ``mode_connectivity``.
        rule: name of a shipped rule, path of a rule file, or a :class:`Rule`.
        failed: members that diverged, shaped like ``train_error``.
        chance_error: train error in percent of a net that has learnt nothing; members within
            the rule's margin of it fail. Without it nobody fails by accuracy.
        pairs: columns of ``train_error`` that each pair column compares. With it pairs are
            resampled together with their seeds, otherwise on their own.
        bootstrap: most resamples; small numbers of seeds are enumerated exactly instead.
        seed: of the resamples.

    Returns:
        Labels of cells and members. A cell is ``failed`` when more than half of its members
        are; ``unlabelled`` when a measurement that the rule asks for is missing; ``boundary``
        when the vote is split. Failed members and their pairs do not count otherwise. A pair
        of a seed with itself, which resampling brings about, is undefined and has no weight;
        a resample without any pair uses the cell's mean over pairs.

    Raises:
        ConfigError: if shapes disagree or values are out of range.
        NotFoundError: if the rule does not exist.

    Example:
        >>> found = label(np.array([0.0, 3.0]), np.array([0.1, 9.0]), np.array([0.9, 0.4]))
        >>> found.phase.tolist()
        ['IV-B', 'II']
    """
    book = rule if isinstance(rule, Rule) else load_rule(rule)
    measured = _check(train_error, mode_connectivity, cka, failed, pairs)
    measured = _drop_failed(measured, book, chance_error, pairs)
    rng = np.random.default_rng(seed)
    draws = draw(measured.error.shape[1], measured.mc.shape[1], pairs, bootstrap, rng)
    values = (measured.error, measured.mc, measured.cka)
    error, mc, cka = map(mean, values)
    point = Point(error, mc, cka, standard_error(measured.mc, draws))
    used = estimate_thresholds(book.thresholds, point, rng)
    thresholds, codes = used.named(), decide(point, used)
    shares = vote(*values, point, used, draws)
    means = np.stack([point.error, point.mc, point.cka], axis=1)
    verdicts = [
        _verdict(code, share, values, counts, thresholds, book)
        for code, share, values, counts in zip(codes, shares, means, measured.counts(), strict=True)
    ]
    phase = np.array([v[0] for v in verdicts], dtype="<U10")
    return Labels(
        phase=phase,
        confidence=np.array([v[1] for v in verdicts], dtype=float),
        shares=shares,
        reason=tuple(v[2] for v in verdicts),
        members=_member_labels(phase, measured),
        thresholds=thresholds,
        rule=book.name,
        rule_version=book.version,
        rule_sha256=book.sha256,
    )


# --------------------------------------------------------------------------------------- checks
def _check(error: Any, mc: Any, cka: Any, failed: Any, pairs: Any) -> _Measured:
    error = _matrix("train_error", error, 0.0, 100.0)
    mc = _matrix("mode_connectivity", mc, -100.0, 100.0)
    cka = _matrix("cka", cka, -1.0, 1.0 + 1e-6)
    flags = np.zeros(error.shape, bool) if failed is None else np.asarray(failed, bool)
    flags = flags.reshape(len(flags), -1)
    if len(mc) != len(error):
        raise ConfigError(f"mode_connectivity: found {len(mc)} cells, train_error has {len(error)}")
    for name, found, expected in (("cka", cka, mc), ("failed", flags, error)):
        if found.shape != expected.shape:
            raise ConfigError(f"{name}: found shape {found.shape}, expected {expected.shape}")
    if pairs is not None:
        _check_pairs(np.asarray(pairs), error.shape[1], mc.shape[1])
    return _Measured(error, mc, cka, ~np.isnan(error) | flags, flags)


def _matrix(name: str, values: Any, low: float, high: float) -> Float[np.ndarray, "cell column"]:
    array = np.asarray(values, dtype=float)
    if array.ndim not in (1, 2):
        raise ConfigError(f"{name}: found {array.ndim} axes, expected [cell] or [cell, column]")
    outside = array[(array < low) | (array > high)]
    if outside.size:
        raise ConfigError(f"{name}: found {outside[0]:g}, allowed {low:g} to {high:g} or NaN")
    return array.reshape(len(array), -1) if array.size else array.reshape(len(array), 0)


def _check_pairs(pairs: Int[np.ndarray, "pair 2"], seeds: int, columns: int) -> None:
    if pairs.shape != (columns, 2):
        raise ConfigError(f"pairs: found shape {pairs.shape}, expected {(columns, 2)}")
    if pairs.size and (pairs.min() < 0 or pairs.max() >= seeds):
        raise ConfigError(f"pairs: found a seed outside 0 to {seeds - 1}; correct the indices")
    if (pairs[:, 0] == pairs[:, 1]).any():
        raise ConfigError("pairs: found a seed paired with itself, which is undefined; remove it")


def _drop_failed(
    measured: _Measured, rule: Rule, chance_error: float | None, pairs: Any
) -> _Measured:
    limit = np.inf if chance_error is None else chance_error - rule.failure.margin
    failed = measured.failed | (measured.error >= limit)
    error = np.where(failed, np.nan, measured.error)
    mc, cka = measured.mc, measured.cka
    if pairs is not None:
        first, second = np.asarray(pairs).T
        touched = ~(_alive(error)[:, first] & _alive(error)[:, second])
        mc, cka = np.where(touched, np.nan, mc), np.where(touched, np.nan, cka)
    return _Measured(error, mc, cka, measured.present, failed)


def _alive(error: Float[np.ndarray, "cell seed"]) -> Bool[np.ndarray, "cell seed"]:
    return ~np.isnan(error)


# ------------------------------------------------------------------------------------- verdicts
def _verdict(
    code: int,
    shares: Float[np.ndarray, " phase"],
    point: Float[np.ndarray, " 3"],
    counts: Int[np.ndarray, " 2"],
    thresholds: Mapping[str, Threshold],
    rule: Rule,
) -> tuple[str, float, str]:
    """Class, confidence and reason of one cell."""
    failed, present = map(int, counts)
    if 2 * failed > present:
        return (
            "failed",
            failed / present,
            f"{failed} of {present} members diverged or sit at chance",
        )
    if code == _NONE:
        return "unlabelled", np.nan, _missing(point)
    because = _because(code, point, thresholds)
    if np.isnan(shares).any():
        return PHASES[code], np.nan, f"{because}; fewer than two seed pairs, so no confidence"
    top = float(shares.max())
    if top < rule.vote.boundary:
        split = ", ".join(
            f"{PHASES[i]} {shares[i]:.2f}" for i in np.argsort(-shares, kind="stable")[:2]
        )
        return (
            "boundary",
            top,
            f"split vote: {split}, below {rule.vote.boundary:g}; mean: {because}",
        )
    # A tie goes to the plain rule on the means, which `because` explains.
    winner = code if shares[code] == top else int(shares.argmax())
    note = "" if winner == code else "; the vote overrules the means"
    return PHASES[winner], top, because + note


def _missing(point: Float[np.ndarray, " 3"]) -> str:
    names = ("train error", "mode connectivity", "CKA")
    lacking = [name for name, value in zip(names, point, strict=True) if np.isnan(value)]
    return f"not measured: {', '.join(lacking)} (pairs need two trained members of the cell)"


def _because(code: int, point: Float[np.ndarray, " 3"], thresholds: Mapping[str, Threshold]) -> str:
    """The rule's questions and answers that led to a phase."""
    (error, mc, cka), cut = point, {name: t.value for name, t in thresholds.items()}
    under, barrier = code in (_I, _II), code in (_I, _III)
    side = "mode_connectivity_underfitted" if under else "mode_connectivity_fitted"
    steps = [
        f"train error {error:.3g} % {'>' if under else '≤'} {cut['train_error']:g} %",
        f"mode connectivity {mc:+.3g} {'<' if barrier else '≥'} "
        f"{cut.get(side, cut.get('mode_connectivity', np.nan)):+.3g}",
    ]
    if code in (_IVA, _IVB):
        steps.append(f"CKA {cka:.3g} {'≥' if code == _IVB else '<'} {cut['cka']:.3g}")
    return ", ".join(steps)


def _member_labels(
    phase: Shaped[np.ndarray, " cell"], measured: _Measured
) -> Shaped[np.ndarray, "cell seed"]:
    named = np.where(measured.failed, "failed", phase[:, None])
    return np.where(measured.present, named, "")
