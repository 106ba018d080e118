"""The tree: thresholds fitted so that three questions predict which knob to turn.

After Zhou et al. (2024), *MD tree: a model-diagnostic tree grown on loss landscape*: the shape
of the tree is fixed (train error, then mode connectivity, then the Hessian trace of under-fitted
and the CKA of fitted cells), only its four thresholds and the advice in its eight leaves are
fitted. Ours differs in two points: a threshold's loss is a step function, so that it is
minimised exactly, at the midpoints between measured values; and rounds over the thresholds
repeat until the loss stops falling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from zoogen.errors import ConfigError, NotFoundError
from zoogen.phases.knobs import Knob
from zoogen.phases.rules import Cut, Leaf, Rule, Score, Tree

LEAVES = (
    "IV-A", "IV-B", "III unlike", "III alike", "II smooth", "II sharp", "I smooth", "I sharp",
)  # fmt: skip
"""Names of the leaves: the phase, and for the other three the answer to the last question."""

KNOBS: tuple[Knob, ...] = get_args(Knob)
_MOVES = (("load", "down"), ("load", "up"), ("temperature", "down"), ("temperature", "up"))
_PLACE = ("facet", "load", "temperature")
_MEASURED = ("train_error", "mode_connectivity", "hessian_trace", "cka", "test_accuracy")
_FEWEST = 10
_FOLDS, _REPEATS = 5, 10
_ROUNDS = 20


# --------------------------------------------------------------------------------- measurements
def read_measurements(path: str | Path) -> pd.DataFrame:
    """Measurements from a CSV file, one row a member or a cell; see :func:`cells_of`.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: if it is no CSV.
    """
    try:
        return pd.read_csv(path)
    except OSError as error:
        raise NotFoundError(f"{path}: {error.strerror}; give a zoo or a CSV file") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as CSV: {error}") from None


def cells_of(table: pd.DataFrame, where: str = "measurements") -> pd.DataFrame:
    """One row a cell: the means over all rows that share ``facet``, ``load`` and ``temperature``.

    Args:
        table: with columns ``load`` and ``temperature`` (numbers that grow with them),
            ``train_error`` (percent), ``mode_connectivity`` (points), ``cka``,
            ``hessian_trace`` and ``test_accuracy`` (0 to 1); ``facet`` (what else varies) may be
            left out, other columns are ignored, empty fields are missing.
        where: name of the table in messages.

    Raises:
        ConfigError: if a column is missing or holds no numbers.
    """
    numeric = [*_PLACE[1:], *_MEASURED]
    missing = [name for name in numeric if name not in table]
    if missing:
        raise ConfigError(
            f"{where}: column {missing[0]!r} is missing; expected {', '.join(numeric)}"
        )
    try:
        values = table[numeric].apply(pd.to_numeric)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: expected numbers: {error}") from None
    if not values["test_accuracy"].dropna().between(0, 1).all():
        raise ConfigError(f"{where}: column 'test_accuracy': expected shares from 0 to 1")
    facet = table["facet"].astype(str) if "facet" in table else pd.Series("", index=table.index)
    cells = values.assign(facet=facet).groupby(list(_PLACE), as_index=False).mean()
    return cells[[*_PLACE, *_MEASURED]]


def targets(cells: pd.DataFrame) -> pd.DataFrame:
    """The move that improves test accuracy most, per cell of :func:`cells_of`.

    A move goes one step along load or temperature, down or up, to the cell of the next value in
    the same facet; its gain is that cell's test accuracy minus this cell's.

    Returns:
        Columns ``knob``, ``direction``, ``gain``, and ``skipped``: empty text, or why the cell
        has no target (then the others mean nothing).
    """
    gains = np.full((len(cells), len(_MOVES)), np.nan)
    for rows in cells.groupby("facet", sort=False).indices.values():
        gains[rows] = _gains(cells.iloc[rows])
    by_knob = np.nan_to_num(gains, nan=-np.inf).reshape(-1, 2, 2).max(-1)
    best = np.nan_to_num(gains, nan=-np.inf).argmax(-1)
    measured = np.isfinite(cells[list(_MEASURED)].to_numpy(float)).all(1)
    reasons = [
        (~measured, "a measurement is missing"),
        (np.isinf(by_knob).any(1), "no neighbour along load or temperature"),
        (by_knob.max(1) <= 0, "no move improves it"),
        (by_knob[:, 0] == by_knob[:, 1], "load and temperature improve it alike"),
    ]
    skipped = np.select([case for case, _ in reasons], [text for _, text in reasons], "")
    moves = np.array(_MOVES)[best]
    columns = {"knob": moves[:, 0], "direction": moves[:, 1], "gain": by_knob.max(1)}
    return pd.DataFrame({**columns, "skipped": skipped}, index=cells.index)


def _gains(cells: pd.DataFrame) -> Float[np.ndarray, "cell move"]:
    """Gains of one facet's cells, NaN where a move leads to no cell."""
    loads, load = np.unique(cells["load"], return_inverse=True)
    heats, heat = np.unique(cells["temperature"], return_inverse=True)
    # A rim of missing cells, so that every cell has four neighbours.
    grid = np.full((len(loads) + 2, len(heats) + 2), np.nan)
    row, column = load + 1, heat + 1
    grid[row, column] = cells["test_accuracy"]
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    ends = [grid[row + across, column + up] for across, up in steps]
    return np.stack(ends, axis=1) - grid[row, column][:, None]


# -------------------------------------------------------------------------------------- the tree
@dataclass(frozen=True)
class _Fitted:
    """Four thresholds in the order of the questions, and the majority move of each leaf."""

    cuts: Float[np.ndarray, " 4"]
    moves: Int[np.ndarray, " leaf"]
    cells: Int[np.ndarray, " leaf"]
    agreeing: Int[np.ndarray, " leaf"]
    otherwise: int


def _features(cells: pd.DataFrame) -> Float[np.ndarray, "cell 4"]:
    """Train error, mode connectivity, log trace, CKA; a trace of zero or less is the smoothest."""
    names = ["train_error", "mode_connectivity", "hessian_trace", "cka"]
    features = cells[names].to_numpy(float, copy=True)
    with np.errstate(divide="ignore"):
        features[:, 2] = np.log(np.maximum(features[:, 2], 0.0))
    return features


def _leaf(
    features: Float[np.ndarray, "cell 4"], cuts: Float[np.ndarray, "*grid 4"]
) -> Int[np.ndarray, "*grid cell"]:
    """Position in :data:`LEAVES` of each cell."""
    cut = np.moveaxis(cuts, -1, 0)[..., None]
    error, mc, trace, cka = features.T
    under, barrier = error > cut[0], mc < cut[1]
    third = np.where(under, trace >= cut[2], cka >= cut[3])
    return 4 * under + 2 * barrier + third


def _fit(
    features: Float[np.ndarray, "cell 4"],
    moves: Int[np.ndarray, " cell"],
    start: Float[np.ndarray, " 4"],
    bounds: Float[np.ndarray, "4 2"],
) -> _Fitted:
    """Move one threshold at a time to where the leaves' majorities miss the fewest knobs."""
    cuts, knobs, least = start.copy(), moves // 2, len(moves) + 1
    for _ in range(_ROUNDS):
        for question in range(4):
            candidates = _candidates(features[:, question], start[question], bounds[question])
            tried = np.repeat(cuts[None], len(candidates), axis=0)
            tried[:, question] = candidates
            misses = _misses(_leaf(features, tried), knobs)
            best = candidates[misses == misses.min()]
            cuts[question] = best[np.abs(best - start[question]).argmin()]
        if misses.min() >= least:
            break
        least = misses.min()
    return _advised(cuts, _leaf(features, cuts), moves)


def _candidates(
    values: Float[np.ndarray, " cell"], start: float, bounds: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, " candidate"]:
    """The start value and the midpoints between neighbouring values that lie within the bounds."""
    known = np.unique(values[np.isfinite(values)])
    middle = (known[1:] + known[:-1]) / 2
    return np.append(start, middle[(middle >= bounds[0]) & (middle <= bounds[1])])


def _misses(
    leaf: Int[np.ndarray, "candidate cell"], knobs: Int[np.ndarray, " cell"]
) -> Int[np.ndarray, " candidate"]:
    """Cells whose knob is not the majority of their leaf."""
    slots = len(LEAVES) * len(KNOBS)
    slot = np.arange(len(leaf))[:, None] * slots + leaf * len(KNOBS) + knobs
    counts = np.bincount(slot.reshape(-1), minlength=len(leaf) * slots)
    return leaf.shape[1] - counts.reshape(len(leaf), len(LEAVES), len(KNOBS)).max(-1).sum(-1)


def _advised(
    cuts: Float[np.ndarray, " 4"], leaf: Int[np.ndarray, " cell"], moves: Int[np.ndarray, " cell"]
) -> _Fitted:
    """Majority knob of each leaf, and its usual direction there; ties and gaps go to all cells'."""
    everywhere = np.bincount(moves, minlength=4)
    counts = np.stack([np.bincount(moves[leaf == n], minlength=4) for n in range(len(LEAVES))])
    # Whole cells decide, all cells' moves break ties.
    weighed = counts + everywhere / (everywhere.sum() + 1)
    knob = weighed.reshape(-1, 2, 2).sum(-1).argmax(-1)
    direction = weighed.reshape(-1, 2, 2)[np.arange(len(LEAVES)), knob].argmax(-1)
    agreeing = counts.reshape(-1, 2, 2).sum(-1)[np.arange(len(LEAVES)), knob]
    return _Fitted(cuts, 2 * knob + direction, counts.sum(-1), agreeing, _majority(moves))


def _majority(moves: Int[np.ndarray, " cell"]) -> int:
    """The most frequent move of the most frequent knob."""
    counts = np.bincount(moves, minlength=4).reshape(2, 2)
    knob = int(counts.sum(-1).argmax())
    return 2 * knob + int(counts[knob].argmax())


def _predict(fitted: _Fitted, features: Float[np.ndarray, "cell 4"]) -> Int[np.ndarray, " cell"]:
    leaf = _leaf(features, fitted.cuts)
    return np.where(fitted.cells[leaf] > 0, fitted.moves[leaf], fitted.otherwise)


# ----------------------------------------------------------------------------------------- fits
def fit_tree(
    table: pd.DataFrame,
    start: Rule,
    name: str,
    data: str = "measurements",
    seed: int = 0,
) -> Rule:
    """Fit thresholds and advice of a tree, and cross-validate it by cell.

    Args:
        table: measurements, one row a member or a cell; see :func:`cells_of`.
        start: rule with a ``[tree]``; its values are where thresholds start, its ``bounds``
            where they may go; a threshold without bounds stays.
        name: of the new rule.
        data: what the table is, in words.
        seed: of the folds.

    Returns:
        A rule with fixed thresholds that labels phases, too. ``tree.score`` holds accuracy and
        baseline on held-out cells; all rows of a cell are in one fold.

    Raises:
        ConfigError: if the table lacks a column, too few cells have a target, or ``start`` is
            no tree.
    """
    values, bounds = _start_of(start)
    cells = cells_of(table, data)
    target = targets(cells)
    usable = (target["skipped"] == "").to_numpy()
    if usable.sum() < _FEWEST:
        raise ConfigError(
            f"{data}: {usable.sum()} of {len(cells)} cells have a best move, a fit needs "
            f"{_FEWEST}: {_counts(target)}; measure a larger grid of load × temperature"
        )
    features, moves = _features(cells)[usable], _move_codes(target[usable])
    fitted = _fit(features, moves, values, bounds)
    score = _cross_validate(features, moves, values, bounds, seed)
    return _rule_of(start, name, fitted, data, {**score, "skipped": _counts(target)})


def _start_of(start: Rule) -> tuple[Float[np.ndarray, " 4"], Float[np.ndarray, "4 2"]]:
    """Start values and bounds in the order of the questions."""
    cuts = start.thresholds
    if start.tree is None or cuts.mode_connectivity.value is None or cuts.cka.value is None:
        raise ConfigError(
            f"rule {start.name!r} is no start for a tree: it needs [tree.log_trace] and a `value` "
            "of every threshold; start from 'md_tree'"
        )
    asked = (cuts.train_error, cuts.mode_connectivity, start.tree.log_trace, cuts.cka)
    values = [float(cut.value or 0.0) for cut in asked]
    bounds = [cut.bounds or (np.inf, -np.inf) for cut in asked]
    return np.array(values), np.array(bounds)


def _counts(target: pd.DataFrame) -> dict[str, int]:
    skipped = target["skipped"]
    return {str(why): int(n) for why, n in skipped[skipped != ""].value_counts().items()}


def _move_codes(target: pd.DataFrame) -> Int[np.ndarray, " cell"]:
    pairs = zip(target["knob"], target["direction"], strict=True)
    return np.array([_MOVES.index(pair) for pair in pairs])


def _cross_validate(
    features: Float[np.ndarray, "cell 4"],
    moves: Int[np.ndarray, " cell"],
    start: Float[np.ndarray, " 4"],
    bounds: Float[np.ndarray, "4 2"],
    seed: int,
) -> dict[str, Any]:
    """Predict every cell by a tree that was fitted without it, and count the hits."""
    rng, count = np.random.default_rng(seed), len(moves)
    predicted = np.empty((_REPEATS, count), int)
    for repeat in range(_REPEATS):
        fold = rng.permutation(np.arange(count) % _FOLDS)
        for held in (fold == number for number in range(_FOLDS)):
            fitted = _fit(features[~held], moves[~held], start, bounds)
            predicted[repeat, held] = _predict(fitted, features[held])
    return {"cells": count, "folds": _FOLDS, "repeats": _REPEATS} | _scores(predicted, moves)


def _scores(
    predicted: Int[np.ndarray, "repeat cell"], moves: Int[np.ndarray, " cell"]
) -> dict[str, float]:
    """Hits of the tree and of the majority of all cells.

    The majority is not cross-validated: where both knobs are about as frequent, the majority of
    the other folds tends to be the minority of the one held out, and noise would seem to beat it.
    """
    right = (predicted // 2 == moves // 2).mean(0)
    plain = moves // 2 == np.bincount(moves // 2).argmax()
    gain = right - plain
    shares = {
        "accuracy": right.mean(),
        "baseline": plain.mean(),
        "gain": gain.mean(),
        "gain_stderr": gain.std(ddof=1) / np.sqrt(len(gain)),
        "move_accuracy": (predicted == moves).mean(),
        "move_baseline": (moves == np.bincount(moves).argmax()).mean(),
    }
    return {name: round(float(value), 4) for name, value in shares.items()}


def _rule_of(start: Rule, name: str, fitted: _Fitted, data: str, score: Mapping[str, Any]) -> Rule:
    """The start rule with the fitted thresholds and leaves in place."""
    source = f"fitted on {score['cells']} cells of {data}, from rule {start.name} v{start.version}"
    error, mc, trace, cka = map(float, fitted.cuts)

    def moved(cut: Any, value: float) -> Any:
        same = cut.value == value
        return cut if same else cut.model_copy(update={"value": value, "source": source})

    cuts, tree = start.thresholds, start.tree or Tree(log_trace=Cut(value=trace, source=source))
    thresholds = cuts.model_copy(
        update={
            "train_error": moved(cuts.train_error, error),
            "mode_connectivity": moved(cuts.mode_connectivity, mc),
            "cka": moved(cuts.cka, cka),
        }
    )
    leaves = zip(LEAVES, fitted.moves, fitted.cells, fitted.agreeing, strict=True)
    grown = Tree(
        log_trace=moved(tree.log_trace, trace),
        leaves={leaf: _leaf_of(move, n, right) for leaf, move, n, right in leaves if n},
        otherwise=_leaf_of(fitted.otherwise, 0, 0),
        score=Score(data=data, **score),
    )
    update = {"name": name, "version": 1, "thresholds": thresholds, "tree": grown}
    return start.model_copy(update={**update, "description": f"a tree fitted on {data}"})


def _leaf_of(move: int, cells: int, agreeing: int) -> Leaf:
    knob, direction = _MOVES[move]
    plain = {"knob": knob, "direction": direction, "cells": int(cells), "agreeing": int(agreeing)}
    return Leaf.model_validate(plain)


# --------------------------------------------------------------------------------------- advice
def advise(cells: pd.DataFrame, rule: Rule) -> list[str]:
    """Which knob to turn for each cell, such as ``load down``; empty text where that is not known.

    Args:
        cells: with columns ``train_error`` (percent), ``mode_connectivity``, ``hessian_trace``
            and ``cka``; other columns are ignored.
        rule: with a fitted tree.

    Raises:
        ConfigError: if the rule has no fitted tree.
    """
    if rule.tree is None or rule.tree.otherwise is None:
        raise ConfigError(
            f"rule {rule.name!r} holds no fitted tree; make one with `zoogen phases fit`"
        )
    cuts, _ = _start_of(rule)
    features = _features(cells)
    names = [LEAVES[leaf] for leaf in _leaf(features, cuts)]
    advice = [rule.tree.leaves.get(name, rule.tree.otherwise) for name in names]
    known: Bool[np.ndarray, " cell"] = ~np.isnan(features).any(1)
    return [
        f"{leaf.knob} {leaf.direction}" if there else ""
        for leaf, there in zip(advice, known, strict=True)
    ]
