"""Judged networks: what an evaluator finds of samples, of all and of those of each seed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from zoogen.errors import ConfigError
from zoogen.evaluate.generation.copying import copying
from zoogen.evaluate.generation.distinct import Distinct
from zoogen.evaluate.generation.evaluator import Evaluator, checked
from zoogen.evaluate.generation.neighbours import Known, Nearest
from zoogen.evaluate.generation.novelty import novelty_yield
from zoogen.evaluate.generation.report import Scaled, SeedResults


class Judged(NamedTuple):
    """Networks and what an evaluator found of them.

    Attributes:
        weights: of all.
        seeds: of the generator, one per network.
        usable: those with finite weights and outputs.
        accuracy: 0 where they are not.
        known: of the usable ones.
        finite: neighbours of the usable ones.
        apart: which of the usable ones are no repetition of one before them.
        found: neighbours of all, NaN for the others.
    """

    weights: Float[np.ndarray, "n p"]
    seeds: Int[np.ndarray, " n"]
    usable: Bool[np.ndarray, " n"]
    accuracy: Float[np.ndarray, " n"]
    known: Known
    finite: Nearest
    apart: Bool[np.ndarray, " u"]
    found: Nearest


def judge(
    evaluator: Evaluator,
    weights: Float[np.ndarray, "n p"],
    seeds: Int[np.ndarray, " n"] | None = None,
    name: str = "generator",
) -> Judged:
    """Accuracies and neighbours of samples.

    Args:
        evaluator: holds training and held-out members and the test images.
        weights: all samples that were made, not the best of them.
        seeds: of the generator, one per sample; one seed for all by default.
        name: of the generator.

    Raises:
        ConfigError: if there are no samples, they have another shape than the population, or
            seeds are not one per sample.
    """
    values = checked(evaluator.network.spec, weights)
    seeds = np.zeros(len(values), int) if seeds is None else np.asarray(seeds)
    if not len(values) or seeds.shape != (len(values),):
        raise ConfigError(
            f"evaluation of {name!r}: found {len(values)} samples and {seeds.size} seeds, expected "
            "at least one sample and a seed for each"
        )
    usable = evaluator.usable(values)
    known = evaluator.known(values[usable])
    accuracy = np.zeros(len(values))
    accuracy[usable] = 1 - known.wrong.mean(axis=1)
    found = evaluator.neighbours(known)
    apart, filled = evaluator.apart(known.placed), _filled(found, usable)
    return Judged(values, seeds, usable, accuracy, known, found, apart, filled)


def by_seed(evaluator: Evaluator, judged: Judged) -> tuple[SeedResults, ...]:
    """The main figures for the samples of each seed."""
    return tuple(
        _of_seed(evaluator, judged, int(seed)) for seed in dict.fromkeys(judged.seeds.tolist())
    )


def _of_seed(evaluator: Evaluator, judged: Judged, seed: int) -> SeedResults:
    rows, real = judged.seeds == seed, evaluator.real_neighbours
    accuracy, mine = judged.accuracy[rows], Nearest(*(array[rows] for array in judged.found))
    copied = copying(Nearest(*(array[mine.member >= 0] for array in mine)), real)
    return SeedResults(
        seed=seed, samples=len(accuracy), accuracy=float(accuracy.mean()),
        zu=copied.zu, distance_ratio=copied.distance_ratio, overlap=copied.overlap,
        novel_yield=novelty_yield(accuracy, mine, evaluator.real_accuracies, real).all,
        distinct_yield=_distinct_share(evaluator, judged, rows),
    )  # fmt: skip


def scale_point(evaluator: Evaluator, judged: Judged) -> Scaled:
    """What is told of a generator with so many training runs."""
    real = evaluator.real_neighbours
    passed = novelty_yield(judged.accuracy, judged.found, evaluator.real_accuracies, real)
    zu, apart = copying(judged.finite, real).zu, distinct_yield(evaluator, judged)
    return Scaled(evaluator.members, zu, apart, passed.nominal, by_seed(evaluator, judged))


def distinct_yield(evaluator: Evaluator, judged: Judged) -> Distinct:
    """Shares of the samples that differ from each other."""
    return Distinct(
        _distinct_share(evaluator, judged, np.ones(len(judged.usable), bool)),
        evaluator.real_distinct,
        float(judged.apart.mean()) if judged.apart.size else math.nan,
        float(evaluator.real_apart.mean()),
    )


def _distinct_share(evaluator: Evaluator, judged: Judged, rows: Bool[np.ndarray, " n"]) -> float:
    """Of some samples, the share that pass the gate and differ from each other."""
    finite = rows[judged.usable]
    found = evaluator.distinct(
        judged.known.rows(finite),
        judged.accuracy[rows & judged.usable],
        Nearest(*(array[finite] for array in judged.finite)),
        judged.apart[finite],
    )
    return float(found.sum()) / int(rows.sum())


def _filled(found: Nearest, usable: np.ndarray) -> Nearest:
    """Neighbours of all samples, NaN for those that are not finite."""
    member = np.full(len(usable), -1)
    member[usable] = found.member
    others = []
    for values in found[1:]:
        whole = np.full(len(usable), np.nan)
        whole[usable] = values
        others.append(whole)
    return Nearest(member, *others)
