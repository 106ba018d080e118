"""Phases: a rule (data) turns measurements of cells into labels with a confidence and a reason.

Everything here works on plain NumPy arrays, so that anyone's measurements can be labelled.
Load is data over capacity, temperature the noise of training. The phases are those of Yang et
al. (2021), *Taxonomizing local versus global structure in neural network loss landscapes*:
I under-fitted and under-sized, II under-fitted, III under-sized, IV-A over-fitted,
IV-B generalising.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field, ValidationError, model_validator

from zoogen.config import Section
from zoogen.errors import ConfigError, NotFoundError

PHASES = ("I", "II", "III", "IV-A", "IV-B")
CLASSES = (*PHASES, "boundary", "failed", "unlabelled")

_I, _II, _III, _IVA, _IVB = range(5)
_NONE = -1
_THRESHOLD_RESAMPLES = 1000
_SHIPPED = resources.files("zoogen") / "rules"


# ---------------------------------------------------------------------------------------- rules
class Cut(Section):
    """A fixed threshold and where it came from."""

    value: float
    source: str


class CkaCut(Section):
    """The CKA threshold: fixed (``value``), or estimated per zoo with a ``fallback``.

    Attributes:
        value: fixed threshold; exactly one of ``value`` and ``estimate`` is given.
        estimate: ``otsu``: the split of the IV cells' CKA that explains most of their variance.
        fallback: used when there are too few IV cells or they form no two groups.
        min_cells: fewest IV cells from which a threshold is estimated.
        min_side: fewest IV cells on either side of it.
        level: level of the test against one group.
        source: where the numbers came from.
    """

    value: float | None = None
    estimate: Literal["otsu"] | None = None
    fallback: float | None = None
    min_cells: int = Field(default=8, ge=4)
    min_side: int = Field(default=2, ge=1)
    level: float = Field(default=0.05, gt=0, lt=1)
    source: str

    @model_validator(mode="after")
    def _one_way(self) -> CkaCut:
        if (self.value is None) == (self.estimate is None):
            raise ValueError("expected exactly one of value and estimate")
        if (self.estimate is None) != (self.fallback is None):
            raise ValueError("fallback: expected together with estimate, and only with it")
        return self


class Cuts(Section):
    """The thresholds: train error in percent, mode connectivity in points, CKA in 0..1."""

    train_error: Cut
    mode_connectivity: Cut
    cka: CkaCut


class Vote(Section):
    """Top share of the bootstrap vote below which a cell is ``boundary``."""

    boundary: float = Field(ge=0, le=1)
    source: str


class Failure(Section):
    """A member fails at a train error of chance − ``margin`` (percentage points) or more."""

    margin: float = Field(ge=0, le=100)
    source: str


class Rule(Section):
    """A versioned rule file: which thresholds turn measurements into phases.

    Example:
        >>> load_rule("taxonomy").thresholds.train_error.value
        0.5
    """

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    description: str = ""
    thresholds: Cuts
    vote: Vote
    failure: Failure

    @property
    def sha256(self) -> str:
        """Hash of the rule's content; comments and layout of its file do not count."""
        text = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def rule_names() -> list[str]:
    """Names of the rules that zoogen ships."""
    files = (file.name for file in _SHIPPED.iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def load_rule(rule: str | Path) -> Rule:
    """Read and check a rule.

    Args:
        rule: name of a shipped rule, or path of a TOML file (ends in ``.toml``).

    Raises:
        NotFoundError: if there is no such name or file.
        ConfigError: if the file is no TOML or no rule; the message names the first fault.
    """
    where, text = _read_rule(rule)
    try:
        return Rule.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"rule {where}: no valid TOML: {error}; correct the file") from None
    except ValidationError as error:
        raise ConfigError(f"rule {where}: {_first_fault(error)}; correct the file") from None


def _read_rule(rule: str | Path) -> tuple[str, str]:
    if str(rule).endswith(".toml"):
        try:
            return str(rule), Path(rule).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"rule {rule}: no UTF-8 text; give a TOML file") from None
        except OSError as error:
            raise NotFoundError(
                f"rule {rule}: {error.strerror}; give a readable TOML file or one of {rule_names()}"
            ) from None
    names = rule_names()
    if str(rule) not in names:
        near = difflib.get_close_matches(str(rule), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "give one of these or a path to a .toml"
        raise NotFoundError(f"rule {str(rule)!r}: not found; zoogen ships {names}; {hint}")
    shipped = _SHIPPED / f"{rule}.toml"
    return repr(str(rule)), shipped.read_text(encoding="utf-8")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{key}: missing"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    return f"{key}: found {fault['input']!r}, {fault['msg'].removeprefix('Value error, ')}"


# --------------------------------------------------------------------------------------- labels
@dataclass(frozen=True)
class Threshold:
    """A threshold as used on one zoo.

    Attributes:
        value: the number itself.
        method: ``fixed``, ``otsu`` (estimated on this zoo) or ``fallback``.
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
    point = (_mean(measured.error), _mean(measured.mc), _mean(measured.cka))
    thresholds, cka_cuts = _thresholds(book.thresholds, point, rng)
    codes = _decide(*point, book.thresholds, thresholds["cka"].value)
    shares = _vote(measured, point, book.thresholds, cka_cuts, pairs, bootstrap, rng)
    verdicts = [
        _verdict(code, share, values, counts, thresholds, book)
        for code, share, values, counts in zip(
            codes, shares, np.stack(point, 1), measured.counts(), strict=True
        )
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


def _mean(values: Float[np.ndarray, "cell column"]) -> Float[np.ndarray, " cell"]:
    """Mean over what was measured; NaN where nothing was."""
    return _weighted(values, np.ones((1, values.shape[1])), np.full(len(values), np.nan))[0]


def _weighted(
    values: Float[np.ndarray, "cell column"],
    weights: Float[np.ndarray, "draw column"],
    otherwise: Float[np.ndarray, " cell"],
) -> Float[np.ndarray, "draw cell"]:
    measured = ~np.isnan(values)
    total = weights @ measured.T
    summed = weights @ np.where(measured, values, 0.0).T
    return np.where(total > 0, summed / np.maximum(total, 1e-300), otherwise)


# ----------------------------------------------------------------------------------- thresholds
def _thresholds(
    cuts: Cuts, point: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
) -> tuple[dict[str, Threshold], Float[np.ndarray, " resample"]]:
    """Thresholds by name, and CKA thresholds over resampled cells (one value if not estimated)."""
    similar, spread = _cka_threshold(cuts, point, rng)
    fixed = {
        name: Threshold(cut.value, "fixed", cut.value, cut.value, cut.source)
        for name, cut in (
            ("train_error", cuts.train_error),
            ("mode_connectivity", cuts.mode_connectivity),
        )
    }
    return {**fixed, "cka": similar}, spread


def _cka_threshold(
    cuts: Cuts, point: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
) -> tuple[Threshold, Float[np.ndarray, " resample"]]:
    cut = cuts.cka
    if cut.value is not None:
        return Threshold(cut.value, "fixed", cut.value, cut.value, cut.source), _one(cut.value)
    error, mc, cka = point
    fourth = (error <= cuts.train_error.value) & (mc >= cuts.mode_connectivity.value)
    values = np.sort(cka[fourth & ~np.isnan(cka)])
    estimate, note = _split(values, cut, rng)
    if estimate is None:
        fallback = float(cut.fallback or 0.0)
        return Threshold(fallback, "fallback", fallback, fallback, note), _one(fallback)
    resampled = np.sort(rng.choice(values, (_THRESHOLD_RESAMPLES, len(values))), axis=-1)
    spread, _ = _otsu(resampled, cut.min_side)
    spread = np.sort(spread[~np.isnan(spread)])
    low, high = np.quantile(spread, [0.05, 0.95])
    return Threshold(estimate, "otsu", float(low), float(high), note), spread


def _one(value: float) -> Float[np.ndarray, " 1"]:
    return np.array([value])


def _split(
    values: Float[np.ndarray, " cell"], cut: CkaCut, rng: np.random.Generator
) -> tuple[float | None, str]:
    """The threshold between two groups of sorted values, or ``None``; and why, in words.

    The explained variance is compared with that of as many uniform numbers: among distributions
    with one hump a flat one looks most like two groups.
    """
    count = len(values)
    if count < cut.min_cells:
        return None, f"{count} IV cells, an estimate needs {cut.min_cells}"
    (best,), (explained,) = _otsu(values[None], cut.min_side)
    null = np.sort(rng.uniform(size=(_THRESHOLD_RESAMPLES, count)), axis=-1)
    needed = float(np.quantile(_otsu(null, cut.min_side)[1], 1 - cut.level))
    found = f"{count} IV cells, a split explains {explained:.2f} of their variance"
    if explained < needed:
        return None, f"{found}, two groups need {needed:.2f}"
    return float(best), f"{found} ({needed:.2f} needed)"


def _otsu(
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


# ----------------------------------------------------------------------------------------- vote
def _decide(
    error: np.ndarray, mc: np.ndarray, cka: np.ndarray, cuts: Cuts, cka_cut: float
) -> Int[np.ndarray, "*shape"]:
    """The taxonomy: index into :data:`PHASES`, ``-1`` where a needed measurement is missing."""
    underfitted = error > cuts.train_error.value
    barrier = mc < cuts.mode_connectivity.value
    cases = [
        (np.isnan(error) | np.isnan(mc), _NONE),
        (underfitted & barrier, _I),
        (underfitted, _II),
        (barrier, _III),
        (np.isnan(cka), _NONE),
        (cka >= cka_cut, _IVB),
    ]
    return np.select([case for case, _ in cases], [code for _, code in cases], _IVA)


def _vote(
    measured: _Measured,
    point: tuple[np.ndarray, np.ndarray, np.ndarray],
    cuts: Cuts,
    cka_cuts: Float[np.ndarray, " resample"],
    pairs: Any,
    bootstrap: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "cell phase"]:
    """Share of resamples that vote for each phase; NaN rows where too little was measured.

    A cell's own resamples and those of the CKA threshold are taken as independent, so that the
    share of IV-B is the share of thresholds at or below the resampled CKA.
    """
    seeds, columns, weight = _draws(
        measured.error.shape[1], measured.mc.shape[1], pairs, bootstrap, rng
    )
    error = _weighted(measured.error, seeds, point[0])
    mc = _weighted(measured.mc, columns, point[1])
    cka = _weighted(measured.cka, columns, point[2])
    codes = _decide(error, mc, cka, cuts, np.inf)
    below = np.searchsorted(cka_cuts, cka, side="right") / len(cka_cuts)
    votes = [codes == phase for phase in (_I, _II, _III)]
    votes += [(codes == _IVA) * (1 - below), (codes == _IVA) * below]
    shares = np.stack([weight @ vote for vote in votes], axis=-1)
    replicated = (~np.isnan(measured.mc)).sum(1) >= 2
    return np.where(replicated[:, None], shares, np.nan)


def _draws(
    seeds: int, columns: int, pairs: Any, bootstrap: int, rng: np.random.Generator
) -> tuple[
    Float[np.ndarray, "draw seed"], Float[np.ndarray, "draw pair"], Float[np.ndarray, " draw"]
]:
    """How often each resample holds each seed and each pair, and the resample's probability.

    All cells share the resamples, so that a label does not depend on the order of cells.
    """
    if pairs is not None:
        counts, weight = _resample_seeds(seeds, bootstrap, rng)
        first, second = np.asarray(pairs, dtype=int).T
        return counts, counts[:, first] * counts[:, second], weight
    draws = [
        rng.multinomial(n, np.full(n, 1 / n), size=bootstrap).astype(float)
        if n
        else np.zeros((bootstrap, 0))
        for n in (seeds, columns)
    ]
    return draws[0], draws[1], np.full(bootstrap, 1 / bootstrap)


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
    steps = [
        f"train error {error:.3g} % {'>' if code in (_I, _II) else '≤'} {cut['train_error']:g} %",
        f"mode connectivity {mc:+.3g} {'<' if code in (_I, _III) else '≥'} "
        f"{cut['mode_connectivity']:+g}",
    ]
    if code in (_IVA, _IVB):
        steps.append(f"CKA {cka:.3g} {'≥' if code == _IVB else '<'} {cut['cka']:.3g}")
    return ", ".join(steps)


def _member_labels(
    phase: Shaped[np.ndarray, " cell"], measured: _Measured
) -> Shaped[np.ndarray, "cell seed"]:
    named = np.where(measured.failed, "failed", phase[:, None])
    return np.where(measured.present, named, "")


# ------------------------------------------------------------------------------------- coverage
@dataclass(frozen=True)
class Coverage:
    """How many cells and members each class holds.

    Attributes:
        cells: class → cells, all of :data:`CLASSES` in order.
        members: class → members.
        entropy: of the cells over the five phases, in bits (at most log2 5 ≈ 2.32; 0 when one
            phase holds all of them).
        empty: phases without a cell.
    """

    cells: Mapping[str, int]
    members: Mapping[str, int]
    entropy: float
    empty: tuple[str, ...]

    def rows(self) -> list[tuple[str, int, float, int, float]]:
        """Class, cells, their share, members, their share; classes other than phases if held."""
        total, people = sum(self.cells.values()) or 1, sum(self.members.values()) or 1
        return [
            (
                name,
                self.cells[name],
                self.cells[name] / total,
                self.members[name],
                self.members[name] / people,
            )
            for name in CLASSES
            if name in PHASES or self.cells[name] or self.members[name]
        ]

    def __str__(self) -> str:
        lines = [f"{'phase':<12}{'cells':>7}{'share':>8}{'members':>9}{'share':>8}"]
        lines += [f"{n:<12}{c:>7}{s:>8.1%}{m:>9}{t:>8.1%}" for n, c, s, m, t in self.rows()]
        lines.append(f"entropy {self.entropy:.2f} of {math.log2(len(PHASES)):.2f} bits")
        if self.empty:
            lines.append(f"no cell in phase {', '.join(self.empty)}")
        return "\n".join(lines)


def coverage(labels: Labels) -> Coverage:
    """Count cells and members per class."""
    return tally(labels.phase, labels.members[labels.members != ""])


def tally(cells: Iterable[str], members: Iterable[str]) -> Coverage:
    """Count stored labels of cells and members.

    Example:
        >>> tally(["I", "II", "II"], ["I", "II", "II"]).empty
        ('III', 'IV-A', 'IV-B')
    """
    in_cells, in_members = (Counter(map(str, names)) for names in (cells, members))
    held = np.array([in_cells[name] for name in PHASES if in_cells[name]], dtype=float)
    share = held / held.sum() if held.size else held
    return Coverage(
        cells={name: in_cells[name] for name in CLASSES},
        members={name: in_members[name] for name in CLASSES},
        entropy=abs(float(-(share * np.log2(share)).sum())),
        empty=tuple(name for name in PHASES if not in_cells[name]),
    )
